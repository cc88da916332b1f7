"""The description of a run, as run.json holds it: what is measured, and with what.

Every field that version 0.1 did not write has its default here. docs/results.md has a table of the fields.
"""

from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator

from camrobust.contract.columns import Column
from camrobust.contract.defaults import CROP, MOST_CHANNELS, RESIZE
from camrobust.contract.former_names import ATTACKED
from camrobust.contract.record import Count, Key, Name, Part, Record, Text
from camrobust.contract.recorded_config import Config, Numbers, RecordedConfig, RecordedNumbers
from camrobust.contract.registry import MODULE
from camrobust.contract.run_documents import ManifestRecord
from camrobust.contract.schema import SCORES
from camrobust.contract.sharding import MOST_SHARDS, ShardRecord

ModuleName = Annotated[str, Field(max_length=200, pattern=MODULE)]
PackageWord = Annotated[str, Field(max_length=200, pattern=r"^[\w.!+-]+$")]
"""A distribution's name or version, which PEP 503 and PEP 440 write without spaces."""
UNKNOWN = "unknown"
MAX_ROWS_PER_IMAGE = 1_000_000
"""Variants times CAMs."""


class VariantRecord(Part):
    """One perturbed variant of every image."""

    perturbation: Text = Field(description="name of the perturbation")
    severity: int | None = Field(None, ge=0, le=127, description="1 to 5, null where the strength is a parameter")
    strength: Text = Field(
        validation_alias=AliasChoices("strength", "parameter"),
        description="the strength in physical terms, for example sigma=0.08",
    )
    replicate: int = Field(0, ge=0, lt=2**15, description="number of the repetition with another random draw, from 0")
    attacked_cam: Name | None = Field(None, description="CAM whose map it attacks, null where it attacks no map")

    @property
    def attacked(self) -> str | None:
        """The CAM whose map it attacks, also of a run that does not say."""
        return self.attacked_cam or ATTACKED.get(self.perturbation)

    @property
    def level(self) -> tuple[str, str]:
        """The perturbation and its strength."""
        return self.perturbation, self.strength


class PlannedRecord(Part):
    """How much is to be measured, see `plan.Plan.counts`."""

    images: int = Field(ge=0, le=2**40, description="images in the manifest; of a shard, those that it measures")
    models: Count = Field(0, description="number of models")
    cams: Count = Field(0, description="number of CAMs")
    variants: Count = Field(0, description="perturbed variants of one image")
    parts: int = Field(1, ge=1, lt=2**15, description="groups in which the variants of one image are measured")
    attack_passes: int = Field(0, ge=0, description="forward and backward passes of the attacks on models")
    forwards: int = Field(0, ge=0, description="forward passes, without those of attacks and of costly CAMs")
    rows: int = Field(ge=0, lt=2**62, description="score rows: images × models × variants × CAMs")
    certificates: Count = Field(0, description="rows of certificates: images × models × CAMs × sigmas × radii")
    certificate_forwards: Count = Field(0, description="forward passes of certificates, pilots included")


class PluginRecord(Part):
    """A module of the user's own that registered methods."""

    package: PackageWord = Field(UNKNOWN, description="installed distribution that the module belongs to, or unknown")
    version: PackageWord = Field(UNKNOWN, description="version of that distribution, or unknown")
    sha256: str = Field("", max_length=64, description="of its source files, one after the other")
    cams: tuple[Name, ...] = Field((), max_length=1000, description="names of the CAMs that it registered")
    perturbations: tuple[Name, ...] = Field((), max_length=1000, description="names of its perturbations")
    similarities: tuple[Name, ...] = Field((), max_length=1000, description="names of its similarities")

    @property
    def release(self) -> str:
        """The package and its version."""
        return f"{self.package} {self.version}"


class BuilderRecord(Part):
    """Where the builder of a model is from."""

    package: PackageWord = Field(UNKNOWN, description="installed distribution that the builder belongs to, or unknown")
    version: PackageWord = Field(UNKNOWN, description="version of that distribution, or unknown")
    sha256: str = Field("", max_length=64, description="of its source; empty for torchvision and timm")

    @property
    def release(self) -> str:
        """The package and its version."""
        return f"{self.package} {self.version}"


class PreprocessingRecord(Part):
    """What a model sees of a photograph."""

    resize: int = Field(RESIZE, ge=1, le=4096, description="shorter side after resizing, px")
    crop: int = Field(CROP, ge=1, le=4096, description="side of the centre crop, px")
    interpolation: Name = Field("bilinear", description="filter of the resizing")
    aspect: Name = Field("keep", description="keep, or squash where both sides become resize")
    mean: tuple[float, ...] = Field((), max_length=MOST_CHANNELS, description="mean of the normalisation, by channel")
    std: tuple[float, ...] = Field((), max_length=MOST_CHANNELS, description="standard deviation, by channel")
    source: Name = Field(
        "configuration",
        description="where size and filter come from: configuration, weights (the published ones of every model) or "
        "default",
    )


class SimilarityRecord(Part):
    """A column of the scores that other runs lack: a similarity of a plugin."""

    name: str = Field(max_length=120, pattern=r"^[A-Za-z]\w*$", description="name of the column")
    type: str = Field("float32", pattern="^float32$", description="type of its values")
    meaning: Text = Field("", description="one sentence")
    low: float | None = Field(None, allow_inf_nan=False, description="least value, null where there is none")
    high: float | None = Field(None, allow_inf_nan=False, description="largest value, null where there is none")
    direction: Name = Field("", description="whether higher or lower means more alike")

    @field_validator("name")
    @classmethod
    def _new(cls, value: str) -> str:
        if any(value in column.names for column in SCORES):
            raise ValueError(f"'{value}' is another column of the scores")
        return value


class DescribedRecord(Record):
    """What the summaries and the report need to know of a run, or of several that were combined."""

    digest: Text = Field("", description="names the settings that change numbers; a run resumes only under its own")
    metric: int = Field(1, ge=1, le=1000, description="version of the metric; runs of two versions are not pooled")
    models: list[Name] = Field(min_length=1, max_length=1000, description="names of the models")
    cams: list[Name] = Field(min_length=1, max_length=1000, description="names of the CAMs")
    controls: list[Name] = Field([], max_length=1000, description="CAMs that are a floor: random maps")
    families: dict[Text, Name] = Field({}, max_length=100_000, description="family of every perturbation")
    variants: list[VariantRecord] = Field(
        min_length=1, max_length=MAX_ROWS_PER_IMAGE, description="the perturbed variants of every image"
    )
    target_layers: dict[Name, Name] = Field({}, max_length=1000, description="layer that every model is explained at")
    heads: dict[Name, Name] = Field(
        {}, max_length=1000, description="how every model's outputs are read, as in `models.head`; where none, softmax"
    )
    outputs: dict[Name, Name] = Field(
        {},
        max_length=1000,
        description="what every model puts out: logits, probabilities (they sum to 1) or sigmoids (from 0 to 1 each)",
    )
    preprocessing: dict[Name, PreprocessingRecord] = Field(
        {}, max_length=1000, description="how photographs become what each model takes"
    )
    classes_kept: dict[Name, Annotated[list[Count], Field(max_length=1_000_000)]] = Field(
        {}, max_length=1000, description="numbers of the classes between which a model chooses, where not all"
    )
    same_as: dict[Name, dict[Name, Name]] = Field(
        {}, max_length=1000, description="for every model, CAMs that give the same maps as another CAM before them"
    )
    versions: dict[Name, Name] = Field({}, max_length=1000, description="versions of Python and of the libraries")
    hardware: dict[Name, Name] = Field({}, max_length=1000, description="the driver's machine")
    started: str = Field("", max_length=100, description="when the run began, UTC")
    config: Config = Field(RecordedConfig(), description="the whole configuration, with all defaults")

    def head_of(self, model: str) -> str:
        """How a model's outputs are read; runs of earlier versions took a softmax of everything."""
        return self.heads.get(model, "softmax")

    def readouts(self) -> dict[str, tuple[str, str | None]]:
        """Every model's head and what it puts out; None for the latter in runs of earlier versions."""
        return {model: (self.head_of(model), self.outputs.get(model)) for model in self.models}

    @model_validator(mode="after")
    def _different(self) -> Self:
        for what in ("models", "cams"):
            names = getattr(self, what)
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must have different names")
        if len(self.variants) * len(self.cams) > MAX_ROWS_PER_IMAGE:
            raise ValueError(f"variants times cams must be at most {MAX_ROWS_PER_IMAGE:,}")
        return self


class CombinedRecord(DescribedRecord):
    """`combined.json`: which runs were put together."""

    combined: list[Key] = Field(min_length=1, max_length=10_000, description="addresses of the runs")
    finished: str = Field("", max_length=100, description="when they were combined, UTC")
    strengths: Literal["common", "all"] = Field(
        "all", description="whether only strengths that everything was measured under are pooled, or all"
    )
    uncommon: list[VariantRecord] = Field(
        [],
        max_length=MAX_ROWS_PER_IMAGE,
        description="variants that not everything was measured under",
    )


class RunRecord(DescribedRecord):
    """`run.json`: what is measured, and with what."""

    version: str = Field("", max_length=100, description="of camrobust, when the run began")
    numbers: Numbers = Field(RecordedNumbers(), description="the settings that change numbers; digest is made of them")
    planned: PlannedRecord = Field(description="how much is to be measured")
    warnings: list[Text] = Field([], max_length=1000, description="what the user was warned of when the run began")
    left_out: dict[Name, dict[Name, Count]] = Field(
        {},
        max_length=1000,
        description="for every dataset, how many files of its folder were no images or were excluded, by kind",
    )
    weights_sha256: dict[Name, Annotated[str, Field(max_length=64)] | None] = Field(
        {}, max_length=1000, description="SHA-256 of every model's weights file; null where there is none"
    )
    state_sha256: dict[Name, Annotated[str, Field(max_length=64)]] = Field(
        {},
        max_length=1000,
        description="SHA-256 over the names and values of every model's tensors; workers compare it",
    )
    builders: dict[Name, BuilderRecord] = Field(
        {}, max_length=1000, description="where every model's builder is from; workers compare it"
    )
    pass_sizes: dict[Literal["cpu", "cuda"], Annotated[int, Field(ge=1, le=2**20)]] = Field(
        {}, description="images in every forward pass, on a CPU and on a GPU; another number changes last bits"
    )
    tails: dict[Name, Name] = Field(
        {}, max_length=1000, description="cut where a model's layers after the target layer run alone, else full passes"
    )
    classes: dict[Name, Annotated[list[Text], Field(max_length=1_000_000)]] = Field(
        {},
        max_length=1000,
        description="names of every model's classes in the order of the logits, where known",
    )
    manifest: ManifestRecord = Field(ManifestRecord(), description="the list of images; of a shard, that of the run")
    shard: ShardRecord | None = Field(None, description="which shard of the run this is, null for a run without shards")
    plugins: dict[ModuleName, PluginRecord] = Field(
        {}, max_length=50, description="modules of the user's own that registered methods"
    )
    similarities: list[SimilarityRecord] = Field(
        [], max_length=1000, description="columns that plugins add to the scores"
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        planned = self.planned
        if not planned.images and self.shard is None:
            raise ValueError("planned.images must be at least 1, got 0")
        keys = {(variant.level, variant.replicate) for variant in self.variants}
        if len(keys) < len(self.variants):
            raise ValueError("variants must be different")
        for what in ("models", "cams", "variants"):
            count = len(getattr(self, what))
            if getattr(planned, what) not in (0, count):
                raise ValueError(f"planned.{what} must be {count}, got {getattr(planned, what)}")
        rows = planned.images * len(self.models) * len(self.cams) * len(self.variants)
        if planned.rows != rows:
            raise ValueError(f"planned.rows must be images × models × variants × cams = {rows}, got {planned.rows}")
        return self

    @model_validator(mode="after")
    def _different_columns(self) -> Self:
        if len({similarity.name for similarity in self.similarities}) < len(self.similarities):
            raise ValueError("similarities must have different names")
        return self

    def score_columns(self) -> tuple[Column, ...]:
        """The columns of the score rows: those of every run, then its plugins' similarities."""
        return (*SCORES, *(Column(one.name, one.type, one.meaning) for one in self.similarities))


class ShardsRecord(RunRecord):
    """`shards.json`: what all shards of a run have in common, as run.json would hold it without shards."""

    shards: int = Field(ge=1, le=MOST_SHARDS, description="how many shards the run has")
