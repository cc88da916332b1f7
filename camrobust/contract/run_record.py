"""The description of a run, as run.json holds it: what is measured, and with what.

A reader meets every key with a value of its kind: keys that version 0.1 did not write have their defaults here.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from camrobust.contract.former_names import renamed_settings
from camrobust.contract.record import Count, Key, Name, Record, Text, problem
from camrobust.contract.run_documents import ManifestRecord

DEEPEST = 40
"""Levels in what a document repeats of a configuration, as in the configuration itself."""
MAX_PLAIN = 4 * 2**20
"""Characters and values of it; a configuration has a quarter of that at most."""
MAX_ROWS_PER_IMAGE = 1_000_000
"""Variants times CAMs."""
LARGEST_BITS = 64


class VariantRecord(Record):
    """One perturbed variant of every image; the severity is null where the strength was given by parameter."""

    perturbation: Text
    severity: int | None = Field(None, ge=0, le=127)
    strength: Text = Field(validation_alias=AliasChoices("strength", "parameter"))
    replicate: int = Field(0, ge=0, lt=2**15)


class PlannedRecord(Record):
    """How much is to be measured, see `plan.Plan.counts`."""

    images: int = Field(ge=1, le=2**40)
    models: Count = 0
    cams: Count = 0
    variants: Count = 0
    parts: int = Field(1, ge=1, lt=2**15)
    attack_passes: int = Field(0, ge=0)
    forwards: int = Field(0, ge=0)
    rows: int = Field(ge=1, lt=2**62)


class _Part(BaseModel):
    """A part of a configuration as it was when the run began: what readers use is typed, the rest plain."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)


class MetricPart(_Part):
    """`metric`."""

    average: Literal["macro", "micro"] = "macro"


class SummaryPart(_Part):
    """`summary`."""

    intervals: Literal["delta", "bootstrap"] = "delta"


class NamedPart(_Part):
    """An entry of `datasets` or `models`."""

    name: Name


class NumbersPart(_Part):
    """What changes numbers, by which runs are compared."""

    datasets: list[NamedPart] = Field([], max_length=1000)
    models: list[NamedPart] = Field([], max_length=1000)


class ConfigPart(_Part):
    """The whole configuration."""

    seed: int = Field(0, ge=0, lt=2**63)
    gallery_images: Count = 0
    metric: MetricPart = MetricPart()
    summary: SummaryPart = SummaryPart()


def _typed(form: type[_Part], raw: dict[str, Any]) -> dict[str, Any]:
    """Plain data in its own order, what the form names of its kind, and there."""
    _check_plain(raw)
    raw = renamed_settings(raw)
    try:
        return _filled(raw, form.model_validate(raw))
    except ValidationError as error:
        raise ValueError(problem(error)) from None


def _filled(raw: Mapping[str, Any], part: _Part) -> dict[str, Any]:
    found = {name: getattr(part, name) for name in type(part).model_fields}
    for name, value in found.items():
        if isinstance(value, _Part):
            found[name] = _filled(raw.get(name, {}), value)
        elif isinstance(value, list):
            found[name] = list(raw.get(name, []))
    return {**raw, **found}


def _check_plain(value: Any) -> None:
    """Refuse what a configuration cannot hold.

    Raises:
        ValueError: it is too large or too deep, or holds a number that is not finite or beyond 64 bits.
    """
    size, waiting = 0, [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        size += 1 + (len(one) if isinstance(one, str) else 0)
        if size > MAX_PLAIN:
            raise ValueError(f"more than {MAX_PLAIN} characters and values")
        if depth > DEEPEST:
            raise ValueError(f"values lie more than {DEEPEST} levels deep")
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError("a number must be finite")
        if isinstance(one, int) and one.bit_length() > LARGEST_BITS:
            raise ValueError(f"a number must fit into {LARGEST_BITS} bits")
        if isinstance(one, (dict, list)):
            below = one if isinstance(one, list) else [*one, *one.values()]
            waiting += [(part, depth + 1) for part in below]


class DescribedRecord(Record):
    """What the summaries and the report need to know of a run, or of several that were combined."""

    digest: Text = ""
    models: list[Name] = Field(min_length=1, max_length=1000)
    cams: list[Name] = Field(min_length=1, max_length=1000)
    controls: list[Name] = Field([], max_length=1000)
    families: dict[Text, Name] = Field({}, max_length=100_000)
    variants: list[VariantRecord] = Field(min_length=1, max_length=MAX_ROWS_PER_IMAGE)
    target_layers: dict[Name, Name] = Field({}, max_length=1000)
    same_as: dict[Name, dict[Name, Name]] = Field({}, max_length=1000)
    versions: dict[Name, Name] = Field({}, max_length=1000)
    hardware: dict[Name, Name] = Field({}, max_length=1000)
    started: str = Field("", max_length=100)
    config: Annotated[dict[str, Any], AfterValidator(partial(_typed, ConfigPart))] = Field({}, validate_default=True)

    @model_validator(mode="after")
    def _once(self) -> Self:
        for what in ("models", "cams"):
            names = getattr(self, what)
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must have different names")
        if len(self.variants) * len(self.cams) > MAX_ROWS_PER_IMAGE:
            raise ValueError(f"variants times cams must be at most {MAX_ROWS_PER_IMAGE:,}")
        return self


class CombinedRecord(DescribedRecord):
    """`combined.json`: which runs were put together."""

    combined: list[Key] = Field(min_length=1, max_length=10_000)
    finished: str = Field("", max_length=100)


class RunRecord(DescribedRecord):
    """`run.json`: what is measured, and with what."""

    version: str = Field("", max_length=100)
    numbers: Annotated[dict[str, Any], AfterValidator(partial(_typed, NumbersPart))] = Field({}, validate_default=True)
    planned: PlannedRecord
    warnings: list[Text] = Field([], max_length=1000)
    weights_sha256: dict[Name, Annotated[str, Field(max_length=64)] | None] = Field({}, max_length=1000)
    tails: dict[Name, Name] = Field({}, max_length=1000)
    classes: dict[Name, Annotated[list[Text], Field(max_length=1_000_000)]] = Field({}, max_length=1000)
    manifest: ManifestRecord = ManifestRecord()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        planned = self.planned
        if len({(one.perturbation, one.strength, one.replicate) for one in self.variants}) < len(self.variants):
            raise ValueError("variants must be different")
        for what in ("models", "cams", "variants"):
            count = len(getattr(self, what))
            if getattr(planned, what) not in (0, count):
                raise ValueError(f"planned.{what} must be {count}, got {getattr(planned, what)}")
        rows = planned.images * len(self.models) * len(self.cams) * len(self.variants)
        if planned.rows != rows:
            raise ValueError(f"planned.rows must be images × models × variants × cams = {rows}, got {planned.rows}")
        return self

    def plain(self) -> dict[str, Any]:
        """Lists, keys and values, as in the file, with the defaults of what is not there."""
        return self.model_dump(mode="json")
