"""The small documents of a run folder, each with a typed form: who writes, how far the run is, which files count.

docs/protocol.md says who writes which of them and what a reader believes. Every field that version 0.1 did not write
has its default here. docs/results.md has a table of the fields.
"""

from typing import Self

from pydantic import Field, model_validator

from camrobust.contract.quoting import short
from camrobust.contract.record import Amount, Count, Key, Name, Part, Record, Text
from camrobust.contract.run_files import MANIFEST, is_manifest, number_of

MOST_STAGES = 100
"""Stages in one document; a run has four."""


class LeaseRecord(Record):
    """`lease/NUMBER.json`: who may write under this number, and which of the earlier commits count."""

    holder: str = Field("", max_length=100, description="a random name")
    machine: str = Field("", max_length=100, description="a hash that stands for the machine since its last start")
    process: int = Field(0, ge=0, lt=2**31, description="id of the driver's process on that machine")
    started: str = Field("", max_length=100, description="when that process began, in the kernel's ticks")
    accepts: tuple[Key, ...] | None = Field(
        None, description="keys of the commits that count; version 0.1 wrote none, and all of its commits count"
    )
    beat: Count = Field(0, description="version 0.1 only: counts up while the driver is alive")
    released: bool = Field(False, description="version 0.1 only: the lease was given back")


class BeatRecord(Record):
    """`beats/NUMBER.json`: the holder of that lease is alive, or has given it back."""

    beat: Count = Field(0, description="counts up while the driver is alive")
    released: bool = Field(False, description="the lease was given back")


class StageRecord(Part):
    """What the workers of one stage have done, see `results.progress.Stage`."""

    images: Amount = Field(0.0, description="images that are through; a fraction where one goes through in steps")
    busy_s: Amount = Field(0.0, description="seconds of work, summed over the workers")
    busy: Count = Field(0, description="workers that were at an image")


class ProgressRecord(Record):
    """`progress/NUMBER.json`: how far the holder of that lease is, see `results.progress.Progress`."""

    done: Count = Field(description="images and parts that this attempt committed")
    total: Count = Field(description="images and parts that were pending when it began")
    failures: Count = Field(description="failure rows that this attempt committed")
    seconds: Amount = Field(description="time since it began to measure, s")
    stages: dict[Name, StageRecord] = Field(max_length=100, description="for every stage, what its workers have done")
    updated: str = Field(max_length=100, description="when this was written, UTC")


class FileRecord(Part):
    """One data file that counts."""

    table: Name = Field(description="scores, certificates, images, failures or maps")
    key: Key = Field(description="of the file in the run folder")
    size_bytes: Count = Field(description="size of the file")
    dataset: Key | None = Field(None, description="dataset of a score file, else null")
    model: Key | None = Field(None, description="model of a score file, else null")


class TimesPart(Part):
    """How long measuring took, over all attempts."""

    attempts: Count = Field(0, description="how often measuring was started")
    seconds: dict[Name, Amount] = Field({}, max_length=100, description="time of measure, verify, aggregate, report, s")
    stages: dict[Name, StageRecord] = Field(
        {}, max_length=MOST_STAGES, description="for every stage, what its workers did"
    )


class FinishedRecord(TimesPart, Record):
    """`done.json` of version 0.1, and what `done/NUMBER.json` has in common with it: the counts, and how long."""

    complete: bool = Field(True, description="scored and failed rows add up to the plan, each exactly once")
    planned_rows: Count = Field(0, description="score rows that the plan asks for")
    score_rows: Count = Field(0, description="score rows that are there")
    failed_rows: Count = Field(0, description="planned rows whose image is named in failures")
    planned_certificates: Count = Field(0, description="rows of certificates that the plan asks for")
    certificate_rows: Count = Field(0, description="rows of certificates that are there")
    failed_certificates: Count = Field(0, description="planned ones whose image is named in failures")
    missing: Count = Field(0, description="pairs of image and model without all rows and not named in failures")
    surplus: Count = Field(0, description="pairs of image and model with a row too many")
    images: Count = Field(0, description="images planned")
    failed_images: Count = Field(0, description="images named in failures, for at least one model")
    examples: list[Text] = Field([], max_length=100, description="the first missing or surplus pairs")
    finished: str = Field("", max_length=100, description="when the run was complete, UTC")


class DoneRecord(FinishedRecord):
    """`done/NUMBER.json`: the run is complete, and these are the files that count."""

    lease: Count = Field(0, description="number of the lease under which it was completed")
    commits: tuple[Key, ...] = Field(description="keys of the commits that count")
    files: tuple[FileRecord, ...] = Field(description="the data files that they name")


class CommitRecord(Record):
    """What the metadata of `commits/*.parquet` says beside the table."""

    files: dict[Key, Count] = Field(description="size of every data file, bytes, by its key")

    @model_validator(mode="after")
    def _ours(self) -> Self:
        wrong = next((key for key in self.files if key.startswith("commits/") or number_of(key) is None), None)
        if wrong is not None:
            raise ValueError(f"a run gives no file the name {short(wrong)!r}")
        return self


class ManifestRecord(Part):
    """Where the list of images is; version 0.1 wrote no record of it."""

    key: Key = Field(MANIFEST, description="of the file in the run folder")
    sha256: str = Field("", max_length=64, description="SHA-256 of the file; a changed manifest is refused")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not is_manifest(self.key):
            raise ValueError(f"a run gives no manifest the name {short(self.key)!r}")
        return self
