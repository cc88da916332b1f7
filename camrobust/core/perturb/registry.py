"""The registry of perturbations and the decorator that fills it."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args, get_type_hints

from torch import Tensor

from camrobust.contract.defaults import MOST_CHANNELS, RGB
from camrobust.contract.parameters import Parameter
from camrobust.contract.quoting import shown
from camrobust.contract.registry import Registry, registering_module

Function = Callable[..., Tensor]
Strength = float | tuple[float, ...]
NOT_PARAMETERS = ("victim", "images", "draws", "cam", "ranking")
SEVERITIES = 5
RESERVED = ("preset", "compose", "replicates")
"""Words of the configuration that stand where a perturbation's name does."""


@dataclass(frozen=True)
class Perturbation:
    """A perturbation with the facts that a user chooses by.

    Attributes:
        name: as it stands in configurations and results.
        function: as `perturbation` describes it.
        parameters: the physical parameters, in the order of the function's arguments.
        severities: five strengths, each with one value per parameter.
        family: noise, blur, digital, weather or adversarial.
        source: where the constants come from.
        size: side of the images for which the five strengths were chosen, px; None if they suit any size.
        random: the function draws random numbers.
        needs_model: the perturbed image depends on the model.
        attacked_cam: the CAM whose map it attacks unless another one is named; None if it attacks no map.
        needs_ranking: it follows the ranking of the image's segments.
        channels: the numbers of channels that it is defined for; None for any.
        ready: raises UserError if a package or file that the function needs is missing.
    """

    name: str
    function: Function
    parameters: tuple[Parameter, ...]
    severities: tuple[tuple[float, ...], ...]
    family: str
    source: str
    size: int | None
    random: bool
    needs_model: bool
    attacked_cam: str | None
    needs_ranking: bool
    channels: tuple[int, ...] | None
    ready: Callable[[], None]

    def arguments(self, values: Sequence[Any]) -> dict[str, Any]:
        """The parameters' values by name."""
        return {parameter.name: value for parameter, value in zip(self.parameters, values, strict=True)}

    def takes(self, channels: int) -> bool:
        """Whether it is defined for images of so many channels."""
        return self.channels is None or channels in self.channels


PERTURBATIONS: Registry[Perturbation] = Registry("perturbation")


def _always_ready() -> None:
    """Most perturbations need only what camrobust itself needs."""


def perturbation(
    name: str | None = None,
    *,
    severities: Sequence[Strength],
    family: str,
    source: str = "",
    size: int | None = None,
    channels: tuple[int, ...] | None = (RGB,),
    ready: Callable[[], None] = _always_ready,
) -> Callable[[Function], Function]:
    """Register a function as a perturbation, under its own name unless another is given.

    The other arguments are facts of `Perturbation`; the function's signature says the rest. The function takes

    - `images`: (B, C, H, W) float32 in [0, 1], before the model's normalisation; C is 3 unless `channels` says more,
    - its parameters, each annotated with a `Parameter`; an `int` takes whole numbers only,
    - `draws`, if it is random: one random stream per image, its only source of randomness,

    and returns new images of the same shape, type and range. A function that also takes `victim` attacks that model.
    Each image may then have its own strength, so that every parameter is a tensor (B,). If it takes `cam`, it attacks
    the map of the CAM of that name; the argument's default is the CAM that is attacked unless another one is named. If
    it takes `ranking`, it gets the images' segments and how they are ranked (`attacks.on_rank.Ranking`).

        @perturbation(severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="weather", source="mine")
        def haze(images: Tensor, share: Annotated[float, Parameter(0, 1, meaning="weight of white")]) -> Tensor:
            return images * (1 - share) + share

    Raises:
        ValueError: an argument without a `Parameter`, a `cam` without a default, not five severities, or a name that
            is taken or reserved, or channels that are no numbers of channels.
        UserError: a severity out of its parameter's bounds.
    """

    def register(function: Function) -> Function:
        own = name or function.__name__
        if own in RESERVED:
            raise ValueError(
                f"perturbation: the name must be none of {', '.join(RESERVED)}, got '{own}'; choose another name"
            )
        arguments = inspect.signature(function).parameters
        attacked = arguments["cam"].default if "cam" in arguments else None
        if "cam" in arguments and not isinstance(attacked, str):
            raise ValueError(f'perturbation: cam of {own} must have a default; write cam: str = "gradcam"')
        if channels is not None and not (isinstance(channels, tuple) and channels and all(map(_is_count, channels))):
            raise ValueError(
                f"perturbation: channels of {own} must be a tuple of whole numbers from 1 to {MOST_CHANNELS}, or None "
                f"for any, got {shown(channels)}; write channels=(1, 3)"
            )
        parameters = _declared(own, function)
        strengths = _strengths(own, parameters, severities)
        entry = Perturbation(
            own, function, parameters, strengths, family, source, size, "draws" in arguments, "victim" in arguments,
            attacked, "ranking" in arguments, channels, ready,
        )  # fmt: skip
        PERTURBATIONS.add(entry, registering_module())
        return function

    return register


imagenet_c = partial(
    perturbation, source="ImageNet-C: Hendrycks & Dietterich, arXiv 1903.12261", size=224, channels=None
)
"""Registers a corruption of ImageNet-C with the severities of its 224 px set, defined for any number of channels."""


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MOST_CHANNELS


def _declared(name: str, function: Function) -> tuple[Parameter, ...]:
    """The parameters in a function's signature, in its order."""
    hints = get_type_hints(function, include_extras=True)
    declared = []
    for argument in inspect.signature(function).parameters.values():
        if argument.name in NOT_PARAMETERS:
            continue
        kind, *facts = get_args(hints.get(argument.name)) or (None,)
        parameter = next((fact for fact in facts if isinstance(fact, Parameter)), None)
        if parameter is None:
            raise ValueError(
                f"perturbation: {argument.name} of {name} must be annotated with a Parameter; "
                f"write {argument.name}: Annotated[float, Parameter(low, high, unit, meaning)]"
            )
        default = None if argument.default is argument.empty else argument.default
        declared.append(replace(parameter, name=argument.name, whole=parameter.whole or kind is int, default=default))
    return tuple(declared)


def _strengths(
    name: str, parameters: Sequence[Parameter], severities: Sequence[Strength]
) -> tuple[tuple[float, ...], ...]:
    """The checked severities, each with one value per parameter."""
    rows = [severity if isinstance(severity, tuple) else (severity,) for severity in severities]
    if len(rows) != SEVERITIES or any(len(row) != len(parameters) for row in rows):
        raise ValueError(
            f"perturbation: severities of {name} must be {SEVERITIES} strengths with one value per parameter "
            f"({', '.join(parameter.name for parameter in parameters)}), got {shown(severities)}; correct the decorator"
        )
    return tuple(
        tuple(
            parameter.check(value, "perturbation", name, "correct the severities")
            for parameter, value in zip(parameters, row, strict=True)
        )
        for row in rows
    )


def without_model() -> list[str]:
    """Names of the perturbations that are made from the image alone."""
    return [entry.name for entry in PERTURBATIONS if not entry.needs_model]
