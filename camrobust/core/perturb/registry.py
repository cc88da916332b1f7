"""The registry of perturbations and the decorator that fills it."""

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from camrobust.contract.registry import Registry

Function = Callable[..., Tensor]
Check = Callable[..., None]
Strength = float | tuple[float, ...]


@dataclass(frozen=True)
class Perturbation:
    """A perturbation with the facts that a user chooses by.

    Attributes:
        name: as it stands in configurations and results.
        function: (images (B, 3, H, W) float32 in [0, 1], *strength[, draws]) to new images in [0, 1]; where it needs a
            model (model, images, *strengths of (B,) each[, draws]).
        parameters: names of the physical parameters, in the order in which the function takes them.
        unit: of the parameters.
        severities: five strengths, each with one value per parameter.
        random: takes random streams as its last argument.
        family: noise, blur, digital, weather or adversarial.
        source: where the constants come from.
        check: raises ValueError for a strength outside the domain.
        size: side of the images that the five strengths were chosen for, px; None where any size is as good.
        ready: raises UserError where something that it needs is not installed.
        needs_model: is made anew for every model, from the gradient of its logits.
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
    size: int | None
    ready: Callable[[], None]
    needs_model: bool


PERTURBATIONS: Registry[Perturbation] = Registry("perturbation")
IMAGENET_C = "Hendrycks & Dietterich, arXiv 1903.12261"
IMAGENET_C_SIZE = 224


def _nothing_needed() -> None:
    """For all that runs with what camrobust itself needs."""


def perturbation(
    name: str,
    *,
    parameter: str | tuple[str, ...],
    unit: str,
    severities: tuple[Strength, Strength, Strength, Strength, Strength],
    family: str,
    check: Check,
    random: bool = False,
    source: str = "",
    ready: Callable[[], None] = _nothing_needed,
    needs_model: bool = False,
) -> Callable[[Function], Function]:
    """Register a function of one or several parameters as a perturbation; arguments as in `Perturbation`."""

    def register(function: Function) -> Function:
        parameters = (parameter,) if isinstance(parameter, str) else parameter
        strengths = tuple(one if isinstance(one, tuple) else (one,) for one in severities)
        size = IMAGENET_C_SIZE if source == IMAGENET_C else None
        PERTURBATIONS.add(
            Perturbation(
                name, function, parameters, unit, strengths, random, family, source, check, size, ready, needs_model
            )
        )
        return function

    return register


imagenet_c = partial(perturbation, source=IMAGENET_C)
"""Registers one of ImageNet-C's, whose strengths are for images of its size."""


def without_model() -> list[str]:
    """Names of those that are made from the image alone."""
    return [entry.name for entry in PERTURBATIONS if not entry.needs_model]


def within(where: str, name: str, low: float, high: float, unit: str = "") -> Check:
    """A check that a single strength lies in [low, high]."""
    bounds = f"at least {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
    text = f" ({unit})" if unit else ""

    def check(value: float) -> None:
        if not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"{where}: {name} must be {bounds}{text}, got {value:g}; choose another strength")

    return check


def whole(where: str, name: str, low: int, high: int, unit: str = "") -> Check:
    """A check that a single strength is a whole number in [low, high]."""
    inside = within(where, name, low, high, unit)

    def check(value: float) -> None:
        inside(value)
        if value != int(value):
            raise ValueError(f"{where}: {name} must be a whole number, got {value:g}; choose another strength")

    return check


def each(*checks: Check) -> Check:
    """A check for a strength of several values, one check for each."""

    def check(*values: float) -> None:
        for one, value in zip(checks, values, strict=True):
            one(value)

    return check


def check_streams(where: str, images: Tensor, draws: Sized) -> None:
    """Refuse random streams that are not one per image.

    Raises:
        ValueError: draws does not hold B streams.
    """
    if len(draws) != len(images):
        raise ValueError(f"{where}: draws must hold one stream per image ({len(images)}), got {len(draws)}")
