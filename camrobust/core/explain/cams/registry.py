"""The registry of CAM methods and the decorator that fills it; the methods are in the other files of this folder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from camrobust.contract.registry import Registry, registering_module
from camrobust.core.explain.evidence import FirstComponent, Marked, Method, WeightedSum

COSTS = {
    "shared": "nothing beside the shared pass but small products",
    "tail": "re-runs of the layers behind the target layer, one per channel or position, unless a shortcut applies",
    "passes": "a few more forward and backward passes, only through the layers behind the target layer if possible",
    "many passes": "hundreds of passes through the model, one per channel or per step of an optimisation",
    "thousands of passes": "ten forward passes per channel",
}
COSTLY = ("many passes", "thousands of passes")
"""Costs that are far above those of all else in a run."""
NEEDS = {
    "activations": ("the target layer's output", "shared"),
    "gradients": ("also the gradient of the explained logit there", "shared"),
    "head": ("the weights of a head that is global average pooling and one linear layer", "shared"),
    "tail": ("re-runs of the layers behind the target layer", "tail"),
    "masked inputs": ("passes over masked images", "many passes"),
    "passes": ("more passes over the images", "passes"),
    "attention": ("attention among all positions of an image", "passes"),
}
"""What a method needs, in words, and its usual cost."""
RETURNS = {
    "map": "(B, h, w)",
    "weights": "weights (B, C) of the channels; the map is Σ_k w_k·A_k, with a ReLU unless it is signed",
    "values": "(B, C, h, w); the map is their first principal component over channels",
    "salient values": "the same; the component is positive where the channels deviate most from their mean",
    "marked map": "(B, h, w), and (B,) bool: for which images the map is ambiguous",
}
"""What the decorated function returns. Weights and values of all methods of a pass are finished together."""


@dataclass(frozen=True)
class Cam:
    """A CAM method and the facts by which a user chooses it.

    Attributes:
        name: its name in configurations and results.
        function: evidence of B images to maps (B, h, w) float32, not normalised.
        needs: a key of `NEEDS`.
        cost: a key of `COSTS`.
        signed: negative values of the map have a meaning (it has no ReLU).
        source: the publication.
        year: of the publication.
        control: the map explains nothing and is a floor to compare with; left out of averages over CAMs.
        closed_form: behind global average pooling and one linear layer it costs nothing beside the shared pass.
        needs_host: it draws random numbers or reads values on the host, so a CUDA graph cannot hold it.
        differentiable: the map is a smooth function of activations and gradients, so that attacks can climb it.
    """

    name: str
    function: Method
    needs: str
    cost: str
    signed: bool
    source: str
    year: int
    control: bool
    closed_form: bool = False
    needs_host: bool = False
    differentiable: bool = False


Decorated = TypeVar("Decorated", bound=Callable[..., Any])
CLASSIC = (
    "ablationcam", "eigencam", "eigengradcam", "gradcam", "gradcam++", "gradcam-elementwise", "hirescam", "layercam",
    "random", "xgradcam",
)  # fmt: skip
"""Nine methods and the floor that run on every model: what the demo shows and the benchmark times together."""
CAMS: Registry[Cam] = Registry("CAM")


def cam(
    name: str,
    *,
    needs: str,
    source: str,
    year: int,
    cost: str | None = None,
    returns: str = "map",
    signed: bool = False,
    control: bool = False,
    closed_form: bool = False,
    needs_host: bool = False,
    differentiable: bool = False,
) -> Callable[[Decorated], Decorated]:
    """Register a function of the evidence as a CAM method. The function itself is left as it is.

    Args:
        name: its name in configurations and results; once published it never changes its meaning.
        needs: a key of `NEEDS`.
        source: the publication.
        year: of the publication.
        cost: a key of `COSTS`; None for the usual cost of what it needs.
        returns: a key of `RETURNS`.
        signed: negative values of the map have a meaning.
        control: the map explains nothing.
        closed_form: behind global average pooling and one linear layer it costs nothing beside the shared pass.
        needs_host: it draws random numbers or reads values on the host.
        differentiable: autograd can follow the map back to activations and gradients; it does not rank, cluster,
            decompose or run the model again.

    Raises:
        ValueError: `needs`, `cost` or `returns` is unknown, or the name is taken.

    Examples:
        >>> from camrobust.core.explain.cams import CAMS
        >>> CAMS["gradcam"].needs, CAMS["gradcam"].cost
        ('gradients', 'shared')
    """
    if needs not in NEEDS or cost not in (None, *COSTS):
        raise ValueError(
            f"cam: '{name}' must need one of {', '.join(NEEDS)} at a cost of {', '.join(COSTS)}, "
            f"got needs='{needs}', cost='{cost}'"
        )

    if returns not in RETURNS:
        raise ValueError(f"cam: '{name}' must return one of {', '.join(RETURNS)}, got returns='{returns}'")

    def register(function: Any) -> Any:
        whole: dict[str, Method] = {
            "map": function,
            "weights": WeightedSum(function, not signed),
            "values": FirstComponent(function),
            "salient values": FirstComponent(function, salient=True),
            "marked map": Marked(function),
        }
        entry = Cam(
            name, whole[returns], needs, cost or NEEDS[needs][1], signed, source, year, control, closed_form,
            needs_host, differentiable,
        )  # fmt: skip
        CAMS.add(entry, registering_module())
        return function

    return register
