"""From what a configuration says to variants of an image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.perturb.catalogue import PERTURBATIONS, Perturbation
from camrobust.errors import UserError
from camrobust.registry import unknown

Spec = str | Mapping[str, object]
MAX_REPLICATES = 1000
PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("gaussian_noise:1,3,5", "salt_pepper:1,3,5"),
    "noise": tuple(
        f"{name}:1-5"
        for name in ("gaussian_noise", "shot_noise", "impulse_noise", "salt_pepper", "speckle_noise", "uniform_noise")
    ),
    "all": (),
}
"""Lists by name, used as "preset:NAME"; `all` stands for every registered perturbation at severities 1 to 5."""


@dataclass(frozen=True)
class Variant:
    """One perturbation at one strength, drawn for one replicate.

    Attributes:
        perturbation: name in the registry.
        severity: 1 to 5, None where the strength was given by parameter.
        values: the strength, one value per parameter.
        replicate: number of the repetition, from 0.
    """

    perturbation: str
    severity: int | None
    values: tuple[float, ...]
    replicate: int = 0

    @property
    def parameter(self) -> str:
        """The strength in physical terms, for example sigma=0.08; also what names the random stream."""
        names = PERTURBATIONS[self.perturbation].parameters
        return ",".join(f"{name}={value:g}" for name, value in zip(names, self.values, strict=True))


def variants(specs: Sequence[Spec]) -> tuple[Variant, ...]:
    """All variants that some specifications ask for, in their order.

    Args:
        specs: "gaussian_noise" (severities 1 to 5), "gaussian_noise:3", "gaussian_noise:1-5", "gaussian_noise:1,3,5",
            "gaussian_noise:sigma=0.05", "preset:NAME", or a mapping {gaussian_noise: 3 | "1-5" | [1, 3] |
            {sigma: 0.05 | [0.05, 0.1]}, replicates: 3}.

    Raises:
        UserError: an unknown name, a severity or strength out of range, a variant that occurs twice.
    """
    found = [variant for spec in specs for variant in _expand(spec)]
    seen: set[tuple[str, tuple[float, ...], int]] = set()
    for variant in found:
        key = (variant.perturbation, variant.values, variant.replicate)
        if key in seen:
            raise UserError(
                f"perturbations: '{variant.perturbation}' at {variant.parameter} occurs twice; for more draws of the "
                "same strength use replicates"
            )
        seen.add(key)
    if not found:
        raise UserError("perturbations: must name at least one; see `camrobust list perturbations`")
    return tuple(found)


def _expand(spec: Spec) -> Iterator[Variant]:
    if isinstance(spec, Mapping):
        yield from _from_mapping(spec)
        return
    name, _, text = str(spec).partition(":")
    if name == "preset":
        if text not in PRESETS:
            raise unknown("preset", text, PRESETS)
        every = [f"{one}:1-5" for one in PERTURBATIONS.names()]
        yield from (variant for one in PRESETS[text] or every for variant in _expand(one))
        return
    entry = PERTURBATIONS[name]
    parameter, equals, value = text.partition("=")
    strengths = _by_parameter(entry, {parameter: value}) if equals else _by_severity(entry, text or "1-5", str(spec))
    for severity, values in strengths:
        yield Variant(name, severity, values)


def _from_mapping(spec: Mapping[str, object]) -> Iterator[Variant]:
    given = dict(spec)
    replicates = given.pop("replicates", 1)
    if isinstance(replicates, bool) or not isinstance(replicates, int) or not 1 <= replicates <= MAX_REPLICATES:
        raise UserError(f"perturbations: replicates must be 1 to {MAX_REPLICATES}, got {replicates!r}")
    if len(given) != 1:
        names = ", ".join(map(str, given)) or "none"
        raise UserError(f"perturbations: a mapping must name one perturbation (and replicates), got {names}")
    ((name, how),) = given.items()
    entry = PERTURBATIONS[str(name)]
    if replicates > 1 and not entry.random:
        raise UserError(
            f"perturbations: '{name}' draws nothing at random, so its replicates would be identical; leave them out"
        )
    if isinstance(how, Mapping):
        strengths = list(_by_parameter(entry, how))
    else:
        levels = ",".join(map(str, how)) if isinstance(how, (list, tuple)) else str(how or "1-5")
        strengths = list(_by_severity(entry, levels, f"{name}: {how}"))
    for replicate in range(replicates):
        for severity, values in strengths:
            yield Variant(entry.name, severity, values, replicate)


def _by_severity(entry: Perturbation, text: str, spec: str) -> Iterator[tuple[int | None, tuple[float, ...]]]:
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if match is None:
            raise UserError(
                f"perturbations: levels must be like 3, 1-5 or 1,3,5, got '{piece}' in '{spec}'; give a physical value "
                f"as {entry.name}:{entry.parameters[0]}=…"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        for severity in (first, last):
            if not 1 <= severity <= len(entry.severities):
                raise UserError(
                    f"perturbations: severity must be 1 to 5, got {severity} in '{spec}'; give a physical value as "
                    f"{entry.name}:{entry.parameters[0]}=…"
                )
        for severity in range(first, last + 1):
            yield severity, entry.severities[severity - 1]


def _by_parameter(entry: Perturbation, given: Mapping[str, object]) -> Iterator[tuple[int | None, tuple[float, ...]]]:
    for name in given:
        if name not in entry.parameters:
            raise unknown(f"parameter of {entry.name}", name, entry.parameters)
    (name,) = entry.parameters
    asked = given.get(name)
    for value in asked if isinstance(asked, (list, tuple)) else [asked]:
        try:
            strength = float(value)  # type: ignore[arg-type]
            entry.check(strength)
        except (TypeError, ValueError) as error:
            if str(error).startswith(entry.name):
                raise UserError(f"perturbations: {error}") from error
            raise UserError(f"perturbations: {entry.name}: {name} must be a number, got {value!r}") from error
        yield None, (strength,)


def _apply(images: Tensor, variant: Variant, image_ids: Sequence[str], dataset: str, seed: int) -> Tensor:
    entry = PERTURBATIONS[variant.perturbation]
    if not entry.random:
        return entry.function(images, *variant.values)
    strength = variant.parameter
    draws = Draws.of(seed, dataset, image_ids, variant.perturbation, strength, variant.replicate, images.device)
    return entry.function(images, *variant.values, draws)


def perturb(
    images: Tensor,
    variant: str | Variant,
    image_ids: Sequence[str],
    seed: int = 0,
    replicate: int = 0,
    dataset: str = "",
) -> Tensor:
    """Perturb some images.

    The random numbers of an image depend on (seed, dataset, image id, perturbation, strength, replicate) only: the
    batch, its order, the worker and the machine change nothing.

    Args:
        images: (B, 3, H, W) float32 in [0, 1], before the model's normalisation.
        variant: such as "gaussian_noise:3" or "gaussian_noise:sigma=0.05": one perturbation at one strength.
        image_ids: B names.
        seed: of the run.
        replicate: number of the repetition, where `variant` is a text.
        dataset: name of the dataset.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        UserError: an unknown perturbation or strength, or several of them.
        ValueError: images of another shape, or as many ids as there are not images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"perturb: images must have the shape (B, 3, H, W), got {tuple(images.shape)}; add the batch axis"
        )
    if len(image_ids) != len(images):
        raise ValueError(f"perturb: image_ids must be one per image ({len(images)}), got {len(image_ids)}")
    if isinstance(variant, str):
        found = variants([variant])
        if len(found) != 1:
            raise UserError(f"perturb: '{variant}' must be a single strength, got {len(found)}; add :1 to :5")
        variant = Variant(found[0].perturbation, found[0].severity, found[0].values, replicate)
    return _apply(images, variant, image_ids, dataset, seed)


def make_variants(image: Tensor, planned: Sequence[Variant], image_id: str, dataset: str, seed: int) -> Tensor:
    """The clean image and its variants as 8-bit images, as a camera or a file would hold them.

    Args:
        image: (3, H, W) uint8.
        planned: V variants.
        image_id: its name.
        dataset: name of its dataset.
        seed: of the run.

    Returns:
        (V+1, 3, H, W) uint8, the clean one first.
    """
    scaled = image[None].float() / 255
    stack = [image]
    for variant in planned:
        perturbed = _apply(scaled, variant, [image_id], dataset, seed)[0]
        stack.append((perturbed * 255).round().to(torch.uint8))
    return torch.stack(stack)
