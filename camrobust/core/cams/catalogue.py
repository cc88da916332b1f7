"""The registry of CAM methods and the decorator that fills it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from camrobust.core.evidence import Evidence
from camrobust.registry import Registry

Method = Callable[[Evidence], Tensor]


@dataclass(frozen=True)
class Cam:
    """A CAM method with the facts that a user chooses by.

    Attributes:
        name: as it stands in configurations and results.
        function: evidence of B images to maps (B, h, w) float32, unnormalised.
        needs: "gradients", "activations" or "tail" (re-runs what lies behind the target layer).
        signed: the map has meaningful negative values (no ReLU).
        source: where it was published.
        year: of that publication.
        control: a floor to compare with, not an explanation; left out of roll-ups over CAMs.
    """

    name: str
    function: Method
    needs: str
    signed: bool
    source: str
    year: int
    control: bool


CAMS: Registry[Cam] = Registry("CAM")


def cam(
    name: str, *, needs: str, source: str, year: int, signed: bool = False, control: bool = False
) -> Callable[[Method], Method]:
    """Register a function of the evidence as a CAM method; arguments as in `Cam`."""

    def register(function: Method) -> Method:
        CAMS.add(Cam(name, function, needs, signed, source, year, control))
        return function

    return register
