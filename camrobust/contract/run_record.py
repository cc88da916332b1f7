"""The JSON documents of a run folder, each with one typed form that says what may stand in it, and how much.

docs/protocol.md says who writes which of them and what a reader believes. A reader of
`results.documents.read_record` meets every key with a value of its kind: keys that version 0.1 did not write have their
defaults here.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from camrobust.contract.errors import UserError
from camrobust.contract.former_names import renamed_settings
from camrobust.contract.quoting import short
from camrobust.contract.run_files import MANIFEST, is_manifest, number_of

MAX_BYTES = 192 * 2**20
"""Of one document; a lease that lists a hundred thousand commits takes 5 MB."""
MAX_VALUES = 4_000_000
"""Lists, keys and values in one document, by its commas and brackets: what is read takes some fifty bytes for each."""
FORMAT = 1
"""Of the documents and commits that are written now; version 0.1 wrote none, which is 0."""
DEEPEST = 40
"""Levels in what a document repeats of a configuration, as in the configuration itself."""
MAX_PLAIN = 4 * 2**20
"""Characters and values of it; a configuration has a quarter of that at most."""
MAX_ROWS_PER_IMAGE = 1_000_000
"""Variants times CAMs."""
MAX_NUMBER = 2**53
LARGEST_BITS = 64

Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class Record(BaseModel):
    """A document that never changes once it is written; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    format: int = Field(0, ge=0, description="raised where an older camrobust would misread what is written")


class LeaseRecord(Record):
    """`lease/NUMBER.json`: who may write under this number, and what counts of all that was written before.

    Attributes:
        holder: a random name.
        machine: a hash that stands for the machine since its last start.
        process: id of the driver's process there.
        started: when that process began, in the kernel's ticks.
        accepts: keys of the commits that count from now on. None was written by version 0.1: all of its commits count.
        beat, released: version 0.1 showed in the same file that it was alive, and gave its lease back.
    """

    holder: str = Field("", max_length=100)
    machine: str = Field("", max_length=100)
    process: int = Field(0, ge=0, lt=2**31)
    started: str = Field("", max_length=100)
    accepts: tuple[Key, ...] | None = None
    beat: Count = 0
    released: bool = False


class BeatRecord(Record):
    """`beats/NUMBER.json`: the holder of that lease is alive, or has given it back."""

    beat: Count = 0
    released: bool = False


class StageRecord(Record):
    """What the workers of one stage have done, see `io.progress.Stage`."""

    images: Amount = 0.0
    busy_s: Amount = 0.0
    busy: Count = 0


class ProgressRecord(Record):
    """`progress/NUMBER.json`: how far the holder of that lease is, see `io.progress.Progress`."""

    done: Count
    total: Count
    failures: Count
    seconds: Amount
    stages: dict[Name, StageRecord] = Field(max_length=100)
    updated: str = Field(max_length=100)


class FileRecord(Record):
    """One live data file.

    Attributes:
        table: scores, images, failures or maps.
        key: of the file in the run folder.
        size_bytes: of the file.
        dataset: of a score file.
        model: of a score file.
    """

    table: Name
    key: Key
    size_bytes: Count
    dataset: Key | None = None
    model: Key | None = None


class FinishedRecord(Record):
    """`done.json` of version 0.1, and what `done/NUMBER.json` has in common with it: the verdict, and how long."""

    complete: bool = True
    planned_rows: Count = 0
    score_rows: Count = 0
    failed_rows: Count = 0
    missing: Count = 0
    surplus: Count = 0
    images: Count = 0
    failed_images: Count = 0
    examples: list[Text] = Field([], max_length=100)
    finished: str = Field("", max_length=100)
    attempts: Count = 0
    seconds: dict[Name, Amount] = Field({}, max_length=100)
    stages: dict[Name, StageRecord] = Field({}, max_length=100)


class DoneRecord(FinishedRecord):
    """`done/NUMBER.json`: the run is complete, and these are the files that count.

    Attributes:
        lease: its number.
        commits: keys of the commits that count.
        files: the data files that they name.
    """

    lease: Count = 0
    commits: tuple[Key, ...]
    files: tuple[FileRecord, ...]


class CommitRecord(Record):
    """What the metadata of `commits/*.parquet` says beside the table.

    Attributes:
        files: keys of the data files and their sizes, in bytes.
    """

    files: dict[Key, Count]

    @model_validator(mode="after")
    def _ours(self) -> Self:
        wrong = next((key for key in self.files if key.startswith("commits/") or number_of(key) is None), None)
        if wrong is not None:
            raise ValueError(f"a run gives no file the name {short(wrong)!r}")
        return self


class ManifestRecord(Record):
    """Where the manifest lies, and the SHA-256 that it has; version 0.1 knew neither."""

    key: Key = MANIFEST
    sha256: str = Field("", max_length=64)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not is_manifest(self.key):
            raise ValueError(f"a run gives no manifest the name {short(self.key)!r}")
        return self


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


R = TypeVar("R", bound=Record)


def parse_record(content: bytes, form: type[R], where: str) -> R:
    """A document from its bytes; nesting is limited by the parser, and nothing is made of bytes that ask for too much.

    Raises:
        ValueError: it does not have the form that it must have.
        UserError: it was written by a later version.
    """
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    found = form.model_validate_json(content)
    if found.format > FORMAT:
        raise UserError(f"run: {where} was written by a later version of camrobust; update camrobust to read it")
    return found


def problem(error: Exception) -> str:
    """What is wrong with a document, in a few words that repeat little of it."""
    if not isinstance(error, ValidationError):
        return short(str(error))
    first = error.errors(include_url=False, include_input=False)[0]
    place = short(".".join(str(part) for part in first["loc"]))
    told = short(first["msg"].removeprefix("Value error, "))
    return f"{place}: {told}" if place else told


def content_of(record: Record) -> bytes:
    """A document as it is written, with the format of this version."""
    return record.model_copy(update={"format": FORMAT}).model_dump_json(exclude_defaults=True).encode()
