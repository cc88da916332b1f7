"""Controls: maps that explain nothing, as a floor in every table."""

from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence


@cam(
    "random",
    needs="activations",
    needs_host=True,
    returns="weights",
    signed=True,
    control=True,
    source="a control",
    year=2021,
)
def random(evidence: Evidence) -> Tensor:
    """Random channel weights w: Σ_k w_k·A_k with w ~ U(-1, 1) from the random stream of the image and variant.

    Clean and perturbed maps have independent weights, so any agreement between them comes from the activations alone.
    There is no ReLU: half of all weights are negative, and a clipped map would mostly be ties.

    Raises:
        ValueError: the evidence was collected without random streams.
    """
    weights = 2 * evidence.streams("random").uniform((evidence.activations.shape[1],)) - 1
    return weights.to(evidence.activations.device)
