"""The description of a run, as run.json holds it: what is measured, and with what.

Every field that version 0.1 did not write has its default here. docs/results.md has a table of the fields.
"""

from typing import Annotated, Self

from pydantic import AliasChoices, Field, model_validator

from camrobust.contract.record import Count, Key, Name, Part, Record, Text
from camrobust.contract.recorded_config import Config, Numbers, RecordedConfig, RecordedNumbers
from camrobust.contract.run_documents import ManifestRecord

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


class PlannedRecord(Part):
    """How much is to be measured, see `plan.Plan.counts`."""

    images: int = Field(ge=1, le=2**40, description="images in the manifest")
    models: Count = Field(0, description="number of models")
    cams: Count = Field(0, description="number of CAMs")
    variants: Count = Field(0, description="perturbed variants of one image")
    parts: int = Field(1, ge=1, lt=2**15, description="groups in which the variants of one image are measured")
    attack_passes: int = Field(0, ge=0, description="forward and backward passes of the attacks on models")
    forwards: int = Field(0, ge=0, description="forward passes, without those of attacks and of costly CAMs")
    rows: int = Field(ge=1, lt=2**62, description="score rows: images × models × variants × CAMs")


class DescribedRecord(Record):
    """What the summaries and the report need to know of a run, or of several that were combined."""

    digest: Text = Field("", description="names the settings that change numbers; a run resumes only under its own")
    models: list[Name] = Field(min_length=1, max_length=1000, description="names of the models")
    cams: list[Name] = Field(min_length=1, max_length=1000, description="names of the CAMs")
    controls: list[Name] = Field([], max_length=1000, description="CAMs that are a floor: random maps")
    families: dict[Text, Name] = Field({}, max_length=100_000, description="family of every perturbation")
    variants: list[VariantRecord] = Field(
        min_length=1, max_length=MAX_ROWS_PER_IMAGE, description="the perturbed variants of every image"
    )
    target_layers: dict[Name, Name] = Field({}, max_length=1000, description="layer that every model is explained at")
    same_as: dict[Name, dict[Name, Name]] = Field(
        {}, max_length=1000, description="for every model, CAMs that give the same maps as another CAM before them"
    )
    versions: dict[Name, Name] = Field({}, max_length=1000, description="versions of Python and of the libraries")
    hardware: dict[Name, Name] = Field({}, max_length=1000, description="the driver's machine")
    started: str = Field("", max_length=100, description="when the run began, UTC")
    config: Config = Field(RecordedConfig(), description="the whole configuration, with all defaults")

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


class RunRecord(DescribedRecord):
    """`run.json`: what is measured, and with what."""

    version: str = Field("", max_length=100, description="of camrobust, when the run began")
    numbers: Numbers = Field(RecordedNumbers(), description="the settings that change numbers; digest is made of them")
    planned: PlannedRecord = Field(description="how much is to be measured")
    warnings: list[Text] = Field([], max_length=1000, description="what the user was warned of when the run began")
    weights_sha256: dict[Name, Annotated[str, Field(max_length=64)] | None] = Field(
        {}, max_length=1000, description="SHA-256 of every model's weights file; null where there is none"
    )
    tails: dict[Name, Name] = Field(
        {}, max_length=1000, description="cut where a model's layers after the target layer run alone, else full passes"
    )
    classes: dict[Name, Annotated[list[Text], Field(max_length=1_000_000)]] = Field(
        {},
        max_length=1000,
        description="names of every model's classes in the order of the logits, where known",
    )
    manifest: ManifestRecord = Field(ManifestRecord(), description="the list of images")
