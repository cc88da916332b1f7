"""From the perturbations of a configuration to variants: perturbations at one strength each."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from camrobust.contract.defaults import RGB
from camrobust.contract.errors import UserError
from camrobust.contract.parameters import Parameter
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown
from camrobust.core.perturb.attacked_cams import EACH, of_run, taken_from
from camrobust.core.perturb.defined import check_defined
from camrobust.core.perturb.presets import preset
from camrobust.core.perturb.registry import PERTURBATIONS, Perturbation

Spec = str | Mapping[str, object]
Strengths = Iterator[tuple[int | None, tuple[float, ...]]]
Member = TypeVar("Member")
MAX_REPLICATES = 1000
STEP = re.compile(r"\+(?=[A-Za-z])|(?<![=:,\s])(?<![0-9.][eE])\+(?=[0-9])")
"""The + between two steps of a sequence. A name may end in +, and a strength may be +3 or 1e+3."""


@dataclass(frozen=True)
class Variant:
    """One perturbation at one strength, or several in sequence, for one replicate.

    Attributes:
        perturbation: name in the registry; for a sequence, the names joined by +.
        severity: 1 to 5; None if the strength was given by parameters, or if the steps of a sequence differ.
        values: the strength, one value per parameter; empty for a sequence.
        replicate: number of the repetition, from 0.
        steps: the variants that make up a sequence, in the order in which they are applied.
        attacked_cam: the CAM whose map it attacks; None if it attacks no map.
    """

    perturbation: str
    severity: int | None
    values: tuple[float, ...]
    replicate: int = 0
    steps: tuple["Variant", ...] = ()
    attacked_cam: str | None = None

    @property
    def strength(self) -> str:
        """The strength in physical terms, such as sigma=0.08. The random stream depends on this text."""
        if self.steps:
            return "+".join(step.strength for step in self.steps)
        entry = PERTURBATIONS[self.perturbation]
        texts = [f"{name}={_number(value)}" for name, value in entry.arguments(self.values).items()]
        # The CAM that is attacked by default is not named, as in runs from before another one could be.
        return ",".join(
            texts if self.attacked_cam in (None, entry.attacked_cam) else [*texts, f"cam={self.attacked_cam}"]
        )

    @property
    def needs_model(self) -> bool:
        """The perturbed image depends on the model."""
        return any(entry.needs_model for entry in self.entries)

    @property
    def attack_passes(self) -> int:
        """Forward and backward passes through the whole model needed to make one image."""
        if not self.needs_model:
            return 0
        return 1 + int(PERTURBATIONS[self.perturbation].arguments(self.values).get("steps", 1))

    @property
    def entries(self) -> tuple[Perturbation, ...]:
        """Registry entries, one per step."""
        return tuple(PERTURBATIONS[step.perturbation] for step in self.steps or (self,))


def _number(value: float) -> str:
    """Six digits if they are exact, else all digits, so that two strengths never share a text."""
    rounded = f"{value:g}"
    return rounded if float(rounded) == value else repr(value)


def variants(specs: Sequence[Spec], channels: int = RGB, cams: Sequence[str] = ()) -> tuple[Variant, ...]:
    """The variants named by specifications, in their order.

    Args:
        specs: "gaussian_noise" (severities 1 to 5), "gaussian_noise:3", "gaussian_noise:1-5", "gaussian_noise:1,3,5",
            "gaussian_noise:sigma=0.05", "defocus_blur:radius=3,alias=0.1", "fog:2+gaussian_noise:3" (one after the
            other), "preset:NAME", or a mapping {gaussian_noise: 3 | "1-5" | [1, 3] | {sigma: 0.05 | [0.05, 0.1]},
            replicates: 3} or {compose: [fog:1-5, gaussian_noise:1-5]}: level by level. An attack on maps may name the
            CAM, "cam_attack:severity=3,cam=layercam", several of them, {cam_attack: {cam: [gradcam, layercam]}}, or
            each that is measured and differentiable, {cam_attack: {severity: 1-3, cam: each}}.
        channels: of the images. A preset leaves out what is not defined for them; see `presets.left_out`.
        cams: names of the CAMs that are measured.

    Raises:
        UserError: an unknown name, a severity or strength out of bounds, a variant that occurs twice, a perturbation
            that is not defined for so many channels, or a missing package that a perturbation needs.
    """
    planned = [one for spec in specs for variant in _expand(spec, channels) for one in _for_each(variant, cams)]
    check_defined((entry for variant in planned for entry in variant.entries), channels)
    seen: set[tuple[str, str, int]] = set()
    for variant in planned:
        key = (variant.perturbation, variant.strength, variant.replicate)
        if key in seen:
            raise UserError(
                f"perturbations: '{variant.perturbation}' at {variant.strength} occurs twice; for more draws of the "
                "same strength use replicates"
            )
        seen.add(key)
    if not planned:
        raise UserError("perturbations: must name at least one; see `camrobust list perturbations`")
    for entry in {entry.name: entry for variant in planned for entry in variant.entries}.values():
        entry.ready()
    return tuple(planned)


def _for_each(variant: Variant, cams: Sequence[str]) -> Iterator[Variant]:
    """The variant; if it attacks each CAM, one for each differentiable CAM of the run."""
    if variant.attacked_cam != EACH:
        yield variant
        return
    yield from (replace(variant, attacked_cam=cam) for cam in of_run(variant.perturbation, cams))


def size_warnings(planned: Sequence[Variant], side: int) -> tuple[str, ...]:
    """One sentence for each image size for which severities in use were chosen, if the crop has another size.

    Args:
        planned: the variants.
        side: of the crop, px.
    """
    steps = [step for variant in planned for step in variant.steps or (variant,) if step.severity is not None]
    chosen = sorted({(entry.size, entry.source, entry.name) for step in steps for entry in step.entries if entry.size})
    return tuple(
        f"image.crop is {side} px, but severities 1 to 5 of {', '.join(name for _, _, name in group)} were chosen for "
        f"{size} px ({source}); results at {side} px are not comparable with published ones"
        for (size, source), group in groupby(chosen, key=lambda row: row[:2])
        if size != side
    )


def _expand(spec: Spec, channels: int = RGB) -> Iterator[Variant]:
    if isinstance(spec, Mapping):
        yield from _from_mapping(spec)
        return
    steps = STEP.split(str(spec))
    if len(steps) > 1:
        yield from _sequence(steps)
        return
    name, _, text = str(spec).partition(":")
    if name == "preset":
        for member in preset(text, channels):
            yield from _expand(member)
        return
    entry = PERTURBATIONS[name]
    yield from _single(entry, _assignments(text) if "=" in text else text or "1-5", str(spec))


def _assignments(text: str) -> dict[str, object]:
    """The names and texts in "radius=3,alias=0.1"."""
    pairs = [(name.strip(), value) for name, _, value in (piece.partition("=") for piece in text.split(","))]
    twice = next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"perturbations: '{twice}' is given twice in '{short(text)}'; write several strengths as a list"
        )
    return dict(pairs)


def _from_mapping(spec: Mapping[str, object]) -> Iterator[Variant]:
    given = dict(spec)
    replicates = given.pop("replicates", 1)
    if isinstance(replicates, bool) or not isinstance(replicates, int) or not 1 <= replicates <= MAX_REPLICATES:
        raise UserError(
            f"perturbations: replicates must be 1 to {MAX_REPLICATES}, got {shown(replicates)}; choose another number"
        )
    if len(given) != 1:
        names = short(", ".join(map(str, given))) or "none"
        raise UserError(
            f"perturbations: a mapping must name one perturbation (and replicates), got {names}; "
            "write one entry for each perturbation"
        )
    ((name, strengths),) = given.items()
    planned = list(
        _sequence(strengths)
        if name == "compose"
        else _single(PERTURBATIONS[str(name)], strengths, f"{name}: {strengths}")
    )
    if replicates > 1 and not any(entry.random for variant in planned for entry in variant.entries):
        raise UserError(
            f"perturbations: '{planned[0].perturbation}' is not random, so its replicates would be identical; "
            "leave them out"
        )
    for replicate in range(replicates):
        yield from (replace(variant, replicate=replicate) for variant in planned)


def _single(entry: Perturbation, given: object, spec: str) -> Iterator[Variant]:
    """One perturbation at the strengths that its settings or its levels name."""
    cams: tuple[str | None, ...] = (entry.attacked_cam,)
    if isinstance(given, Mapping):
        cams, given = taken_from(entry, given)
        if entry.attacked_cam is not None and not {*given} - {"severity"}:
            given = given.get("severity")
    strengths = _by_parameter(entry, given) if isinstance(given, Mapping) else _by_severity(entry, _levels(given), spec)
    for severity, values in strengths:
        yield from (Variant(entry.name, severity, values, attacked_cam=cam) for cam in cams)


def _levels(given: object) -> str:
    """The levels of a configuration as text; all five if there are none."""
    return ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str("1-5" if given is None else given)


def _sequence(steps: object) -> Iterator[Variant]:
    """Perturbations one after the other, level by level."""
    if not isinstance(steps, (list, tuple)) or len(steps) < 2:
        raise UserError(
            f"perturbations: compose must be a list of two or more, as [fog:2, gaussian_noise:3], got {shown(steps)}"
        )
    columns = [list(_expand(step)) for step in steps]
    for step, column in zip(steps, columns, strict=True):
        if len({variant.perturbation for variant in column}) != 1 or any(
            variant.steps or variant.replicate for variant in column
        ):
            raise UserError(
                f"perturbations: a step of compose must be one perturbation without replicates, got {shown(step)}; put "
                "replicates beside compose"
            )
    attack = next((column[0].perturbation for column in columns if column[0].needs_model), None)
    if attack is not None:
        raise UserError(
            f"perturbations: '{attack}' depends on the model, so it cannot be a step of a sequence; use it alone"
        )
    counts = ", ".join(f"{column[0].perturbation} {len(column)}" for column in columns)
    for row in _paired(columns, f"the steps of compose must have equally many strengths, or one, got {counts}"):
        severities = {step.severity for step in row}
        severity = severities.pop() if len(severities) == 1 else None
        yield Variant("+".join(step.perturbation for step in row), severity, (), steps=row)


def _by_severity(entry: Perturbation, text: str, spec: str) -> Strengths:
    remedy = (
        f"give a physical value as {entry.name}:{','.join(f'{parameter.name}=…' for parameter in entry.parameters)}"
    )
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
    names = [parameter.name for parameter in entry.parameters]
    for name in given:
        if name not in names:
            raise unknown(f"parameter of {entry.name}", name, names)
    missing = [parameter.name for parameter in entry.parameters
               if parameter.default is None and parameter.name not in given]  # fmt: skip
    if missing:
        raise UserError(
            f"perturbations: {entry.name} must have values for {', '.join(names)}; add {', '.join(missing)}"
        )
    columns = [_listed(entry, parameter, given) for parameter in entry.parameters]
    counts = ", ".join(f"{name} {len(column)}" for name, column in zip(names, columns, strict=True))
    for row in _paired(columns, f"the lists of {entry.name} must be equally long, or one value, got {counts}"):
        yield None, row


def _listed(entry: Perturbation, parameter: Parameter, given: Mapping[str, object]) -> list[float]:
    """The checked values of one parameter."""
    value = given.get(parameter.name, parameter.default)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    place = entry.parameters.index(parameter)
    levels = ", ".join(f"{severity[place]:g}" for severity in entry.severities)
    remedy = f"severities 1 to 5 have {levels}"
    if not values:
        raise UserError(
            f"perturbations: {parameter.name} of {entry.name} must be one number or several, got an empty list; "
            f"{remedy}"
        )
    return [parameter.check(_from_text(value), "perturbations", entry.name, remedy) for value in values]


def _from_text(value: object) -> object:
    """The number that a text spells; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _paired(columns: Sequence[list[Member]], sentence: str) -> Iterator[tuple[Member, ...]]:
    """Rows of several columns; a column of one member is repeated."""
    length = max(map(len, columns))
    if any(len(column) not in (1, length) for column in columns):
        raise UserError(f"perturbations: {sentence}; write one entry for each pairing")
    yield from zip(*(column * length if len(column) == 1 else column for column in columns), strict=True)
