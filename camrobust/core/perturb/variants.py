"""From what a configuration says to perturbations at strengths."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown
from camrobust.core.perturb.registry import PERTURBATIONS, Perturbation, without_model

Spec = str | Mapping[str, object]
Strengths = Iterator[tuple[int | None, tuple[float, ...]]]
MAX_REPLICATES = 1000
IMAGENET_C_15 = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
IMAGENET_C_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
PAPER = ("gaussian_noise", "salt_pepper", "speckle_noise", "shot_noise", "uniform_noise", "fgsm", "pgd")
"""The noises of arXiv 2508.18154."""
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "salt_pepper", "speckle_noise", "uniform_noise")


def _five(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}:1-5" for name in names)


PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("gaussian_noise:1,3,5", "salt_pepper:1,3,5"),
    "imagenet-c": _five(IMAGENET_C_15),
    "imagenet-c-extra": _five(IMAGENET_C_EXTRA),
    "noise": _five(NOISE),
    "blur": _five(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")),
    "weather": _five(("snow", "frost", "fog", "brightness", "spatter")),
    "adversarial": _five(("fgsm", "pgd")),
    "paper": _five(PAPER),
    "digital": _five(("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate")),
    "all": (),
}
"""Lists by name, used as "preset:NAME"; `all`: every one that needs no model, at severities 1 to 5."""


@dataclass(frozen=True)
class Variant:
    """One perturbation at one strength, or several in sequence, drawn for one replicate.

    Attributes:
        perturbation: name in the registry; of a sequence, the names joined by +.
        severity: 1 to 5, None where the strength was given by parameter, or where the steps of a sequence differ.
        values: the strength, one value per parameter; empty for a sequence.
        replicate: number of the repetition, from 0.
        steps: of a sequence, in the order in which they are applied.
    """

    perturbation: str
    severity: int | None
    values: tuple[float, ...]
    replicate: int = 0
    steps: tuple["Variant", ...] = ()

    @property
    def strength(self) -> str:
        """The strength in physical terms, for example sigma=0.08; also what names the random stream."""
        if self.steps:
            return "+".join(step.strength for step in self.steps)
        names = PERTURBATIONS[self.perturbation].parameters
        return ",".join(f"{name}={_number(value)}" for name, value in zip(names, self.values, strict=True))

    @property
    def needs_model(self) -> bool:
        """It is made for every model anew."""
        return any(entry.needs_model for entry in self.entries)

    @property
    def attack_passes(self) -> int:
        """Passes forward and back through the whole model that it takes to make it."""
        if not self.needs_model:
            return 0
        strength = dict(zip(PERTURBATIONS[self.perturbation].parameters, self.values, strict=True))
        return 1 + int(strength.get("steps", 1))

    @property
    def entries(self) -> tuple[Perturbation, ...]:
        """What the registry holds of it, one entry per step."""
        return tuple(PERTURBATIONS[step.perturbation] for step in self.steps or (self,))


def _number(value: float) -> str:
    """Short where that is exact, so that two strengths never share a text."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def variants(specs: Sequence[Spec]) -> tuple[Variant, ...]:
    """All variants that some specifications ask for, in their order.

    Args:
        specs: "gaussian_noise" (severities 1 to 5), "gaussian_noise:3", "gaussian_noise:1-5", "gaussian_noise:1,3,5",
            "gaussian_noise:sigma=0.05", "defocus_blur:radius=3,alias=0.1", "fog:2+gaussian_noise:3" (one after the
            other), "preset:NAME", or a mapping {gaussian_noise: 3 | "1-5" | [1, 3] | {sigma: 0.05 | [0.05, 0.1]},
            replicates: 3} or {compose: [fog:1-5, gaussian_noise:1-5]}: level by level.

    Raises:
        UserError: an unknown name, a severity or strength out of range, a variant that occurs twice, something that a
            perturbation needs and that is not installed.
    """
    found = [variant for spec in specs for variant in _expand(spec)]
    seen: set[tuple[str, str, int]] = set()
    for variant in found:
        key = (variant.perturbation, variant.strength, variant.replicate)
        if key in seen:
            raise UserError(
                f"perturbations: '{variant.perturbation}' at {variant.strength} occurs twice; for more draws of the "
                "same strength use replicates"
            )
        seen.add(key)
    if not found:
        raise UserError("perturbations: must name at least one; see `camrobust list perturbations`")
    for entry in {entry.name: entry for variant in found for entry in variant.entries}.values():
        entry.ready()
    return tuple(found)


def size_warnings(planned: Sequence[Variant], side: int) -> tuple[str, ...]:
    """A sentence where severities are used on images of another size than they were chosen for.

    Args:
        planned: the variants.
        side: of the crop, px.
    """
    steps = [step for variant in planned for step in variant.steps or (variant,) if step.severity is not None]
    sized = {step.perturbation: PERTURBATIONS[step.perturbation].size for step in steps}
    other = sorted(name for name, size in sized.items() if size not in (None, side))
    if not other:
        return ()
    size = sized[other[0]]
    return (
        f"image.crop is {side} px, but severities 1 to 5 of {', '.join(other)} are ImageNet-C's for {size} px; other "
        "sizes have other strengths there, so these results are not ImageNet-C",
    )


def _expand(spec: Spec) -> Iterator[Variant]:
    if isinstance(spec, Mapping):
        yield from _from_mapping(spec)
        return
    steps = re.split(r"\+(?=[a-z])", str(spec))
    if len(steps) > 1:
        yield from _sequence(steps)
        return
    name, _, text = str(spec).partition(":")
    if name == "preset":
        if text not in PRESETS:
            raise unknown("preset", text, PRESETS)
        every = _five(without_model())
        yield from (variant for one in PRESETS[text] or every for variant in _expand(one))
        return
    entry = PERTURBATIONS[name]
    strengths = _by_parameter(entry, _assignments(text)) if "=" in text else _by_severity(entry, text or "1-5", spec)
    for severity, values in strengths:
        yield Variant(name, severity, values)


def _assignments(text: str) -> dict[str, object]:
    """Of "radius=3,alias=0.1": names and texts."""
    pairs = [(name.strip(), value) for name, _, value in (piece.partition("=") for piece in text.split(","))]
    twice = next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None)
    if twice is not None:
        where = short(text)
        raise UserError(f"perturbations: '{twice}' is given twice in '{where}'; write several strengths as a list")
    return dict(pairs)


def _from_mapping(spec: Mapping[str, object]) -> Iterator[Variant]:
    given = dict(spec)
    replicates = given.pop("replicates", 1)
    if isinstance(replicates, bool) or not isinstance(replicates, int) or not 1 <= replicates <= MAX_REPLICATES:
        raise UserError(f"perturbations: replicates must be 1 to {MAX_REPLICATES}, got {shown(replicates)}")
    if len(given) != 1:
        names = short(", ".join(map(str, given))) or "none"
        raise UserError(f"perturbations: a mapping must name one perturbation (and replicates), got {names}")
    ((name, how),) = given.items()
    planned = list(_sequence(how) if name == "compose" else _one(PERTURBATIONS[str(name)], how))
    if replicates > 1 and not any(entry.random for variant in planned for entry in variant.entries):
        which = planned[0].perturbation
        raise UserError(
            f"perturbations: '{which}' draws nothing at random, so its replicates would be identical; leave them out"
        )
    for replicate in range(replicates):
        yield from (replace(variant, replicate=replicate) for variant in planned)


def _one(entry: Perturbation, how: object) -> Iterator[Variant]:
    """One perturbation at the strengths of a mapping's value."""
    if isinstance(how, Mapping):
        strengths = _by_parameter(entry, how)
    else:
        levels = ",".join(map(str, how)) if isinstance(how, (list, tuple)) else str("1-5" if how is None else how)
        strengths = _by_severity(entry, levels, f"{entry.name}: {how}")
    for severity, values in strengths:
        yield Variant(entry.name, severity, values)


def _sequence(steps: object) -> Iterator[Variant]:
    """Perturbations one after the other, level by level."""
    if not isinstance(steps, (list, tuple)) or len(steps) < 2:
        raise UserError(
            f"perturbations: compose must be a list of two or more, as [fog:2, gaussian_noise:3], got {shown(steps)}"
        )
    columns = [list(_expand(step)) for step in steps]
    for step, column in zip(steps, columns, strict=True):
        if len({one.perturbation for one in column}) != 1 or any(one.steps or one.replicate for one in column):
            raise UserError(
                f"perturbations: a step of compose must be one perturbation without replicates, got {shown(step)}; put "
                "replicates beside compose"
            )
    attack = next((column[0].perturbation for column in columns if column[0].needs_model), None)
    if attack is not None:
        raise UserError(f"perturbations: '{attack}' is made for every model anew, so it cannot be a step of a sequence")
    length = max(map(len, columns))
    if any(len(column) not in (1, length) for column in columns):
        counts = ", ".join(f"{column[0].perturbation} {len(column)}" for column in columns)
        raise UserError(
            f"perturbations: the steps of compose must have equally many strengths, or one, got {counts}; write one "
            "entry for each pairing"
        )
    for row in zip(*(column * length if len(column) == 1 else column for column in columns), strict=True):
        severities = {step.severity for step in row}
        severity = severities.pop() if len(severities) == 1 else None
        yield Variant("+".join(step.perturbation for step in row), severity, (), steps=row)


def _by_severity(entry: Perturbation, text: str, spec: str) -> Strengths:
    remedy = f"give a physical value as {entry.name}:{','.join(f'{name}=…' for name in entry.parameters)}"
    spec = short(spec)
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", piece)
        if match is None:
            given = short(piece)
            raise UserError(f"perturbations: levels must be like 3, 1-5 or 1,3,5, got '{given}' in '{spec}'; {remedy}")
        first, last = int(match[1]), int(match[2] or match[1])
        for severity in (first, last):
            if not 1 <= severity <= len(entry.severities):
                raise UserError(f"perturbations: severity must be 1 to 5, got {severity} in '{spec}'; {remedy}")
        if last < first:
            raise UserError(
                f"perturbations: levels must go up, got '{short(piece.strip())}' in '{spec}'; write {last}-{first}"
            )
        for severity in range(first, last + 1):
            yield severity, entry.severities[severity - 1]


def _by_parameter(entry: Perturbation, given: Mapping[str, object]) -> Strengths:
    for name in given:
        if name not in entry.parameters:
            raise unknown(f"parameter of {entry.name}", name, entry.parameters)
    missing = [name for name in entry.parameters if name not in given]
    if missing:
        raise UserError(
            f"perturbations: {entry.name} needs {', '.join(entry.parameters)}; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    columns = [_listed(entry, name, given[name]) for name in entry.parameters]
    length = max(map(len, columns))
    if any(len(column) not in (1, length) for column in columns):
        counts = ", ".join(f"{name} {len(column)}" for name, column in zip(entry.parameters, columns, strict=True))
        raise UserError(
            f"perturbations: {entry.name}: lists of parameters are taken value by value, so they must be equally long, "
            f"or one value, got {counts}"
        )
    for row in zip(*(column * length if len(column) == 1 else column for column in columns), strict=True):
        values = tuple(_strength(entry, name, value) for name, value in zip(entry.parameters, row, strict=True))
        try:
            entry.check(*values)
        except ValueError as error:
            raise UserError(f"perturbations: {error}") from error
        yield None, values


def _listed(entry: Perturbation, name: str, value: object) -> list[object]:
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    if not listed:
        raise UserError(f"perturbations: {entry.name}: {name} must be one number or several, got an empty list")
    return listed


def _strength(entry: Perturbation, name: str, value: object) -> float:
    sentence = f"perturbations: {entry.name}: {name} must be a number, got {shown(value)}"
    if isinstance(value, bool):
        raise UserError(sentence)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(sentence) from error
