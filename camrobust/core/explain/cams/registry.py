"""The registry of CAM methods and the decorator that fills it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from camrobust.contract.registry import Registry
from camrobust.core.explain.evidence import Evidence

Method = Callable[[Evidence], Tensor]

NEEDS = {
    "activations": "the target layer's output",
    "gradients": "and the gradient of the explained logit there",
    "head": "the weights of a head that is global average pooling and one linear layer",
    "tail": "re-runs of what lies behind the target layer",
    "masked inputs": "passes over masked images",
    "passes": "more passes over the images",
    "attention": "attention over all positions of an image",
}
COSTS = {
    "shared": "nothing beside the shared pass but small products",
    "tail": "re-runs of what lies behind the target layer per channel or position, or a shortcut where there is one",
    "passes": "a few more forward and backward passes, of what lies behind the target layer where that is enough",
    "many passes": "a forward pass per channel",
}


@dataclass(frozen=True)
class Cam:
    """A CAM method with the facts that a user chooses by.

    Attributes:
        name: as it stands in configurations and results.
        function: evidence of B images to maps (B, h, w) float32, unnormalised.
        needs: one of `NEEDS`.
        cost: one of `COSTS`.
        signed: the map has meaningful negative values (no ReLU).
        source: where it was published.
        year: of that publication.
        control: a floor to compare with, not an explanation; left out of roll-ups over CAMs.
    """

    name: str
    function: Method
    needs: str
    cost: str
    signed: bool
    source: str
    year: int
    control: bool


CLASSIC = (
    "ablationcam", "eigencam", "eigengradcam", "gradcam", "gradcam++", "gradcam-elementwise", "hirescam", "layercam",
    "random", "xgradcam",
)  # fmt: skip
"""Ten that run on every model: nine methods and the floor, what the demo shows and the benchmark times together."""
CAMS: Registry[Cam] = Registry("CAM")


def cam(
    name: str,
    *,
    needs: str,
    source: str,
    year: int,
    cost: str = "shared",
    signed: bool = False,
    control: bool = False,
) -> Callable[[Method], Method]:
    """Register a function of the evidence as a CAM method; arguments as in `Cam`.

    Raises:
        ValueError: a need or a cost that has no name here, or a name that is taken.
    """
    if needs not in NEEDS or cost not in COSTS:
        raise ValueError(f"cam: '{name}' must need one of {', '.join(NEEDS)} at a cost of {', '.join(COSTS)}")

    def register(function: Method) -> Method:
        CAMS.add(Cam(name, function, needs, cost, signed, source, year, control))
        return function

    return register
