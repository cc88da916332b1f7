"""The registry of perturbations and the decorator that fills it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from camrobust.registry import Registry

Function = Callable[..., Tensor]
Check = Callable[..., None]


@dataclass(frozen=True)
class Perturbation:
    """A perturbation with the facts that a user chooses by.

    Attributes:
        name: as it stands in configurations and results.
        function: (images (B, 3, H, W) float32 in [0, 1], *strength[, draws]) to new images in [0, 1].
        parameters: names of the physical parameters, in the order in which the function takes them.
        unit: of the parameters.
        severities: five strengths, each with one value per parameter.
        random: takes random streams as its last argument.
        family: noise, blur, digital or weather.
        source: where the constants come from.
        check: raises ValueError for a strength outside the domain.
    """

    name: str
    function: Function
    parameters: tuple[str, ...]
    unit: str
    severities: tuple[tuple[float, ...], ...]
    random: bool
    family: str
    source: str
    check: Check


PERTURBATIONS: Registry[Perturbation] = Registry("perturbation")
IMAGENET_C = "Hendrycks & Dietterich, arXiv 1903.12261"


def perturbation(
    name: str,
    *,
    parameter: str,
    unit: str,
    severities: tuple[float, float, float, float, float],
    family: str,
    check: Check,
    random: bool = False,
    source: str = IMAGENET_C,
) -> Callable[[Function], Function]:
    """Register a function with one parameter as a perturbation; arguments as in `Perturbation`."""

    def register(function: Function) -> Function:
        strengths = tuple((value,) for value in severities)
        PERTURBATIONS.add(Perturbation(name, function, (parameter,), unit, strengths, random, family, source, check))
        return function

    return register


def within(where: str, name: str, low: float, high: float, unit: str = "") -> Check:
    """A check that a single strength lies in [low, high]."""
    bounds = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
    text = f" ({unit})" if unit else ""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{where}: {name} must be {bounds}{text}, got {value:g}; choose another strength")

    return check
