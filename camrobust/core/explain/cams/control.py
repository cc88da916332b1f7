"""Controls: maps that explain nothing, as the floor that every table should show."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence


@cam("random", needs="activations", signed=True, control=True, source="a control", year=2021)
def random(evidence: Evidence) -> Tensor:
    """Σ_k w_k·A_k with w ~ U(-1, 1) from the image's and variant's own stream.

    Clean and perturbed maps draw independently, so agreement between them is what the activations alone bring about.
    No ReLU: half of all weights are negative and a clipped map would mostly be ties.

    Raises:
        ValueError: the evidence was collected without random streams.
    """
    if evidence.draws is None:
        raise ValueError("random: draws must hold one random stream per image, got None; pass draws= to collect()")
    weights = 2 * evidence.draws.uniform((evidence.activations.shape[1],)) - 1
    return torch.einsum("bc,bchw->bhw", weights.to(evidence.activations.device), evidence.activations)
