"""The small documents of a run folder, each with a typed form: who writes, how far the run is, which files count.

docs/protocol.md says who writes which of them and what a reader believes. Keys that version 0.1 did not write have
their defaults here.
"""

from typing import Self

from pydantic import Field, model_validator

from camrobust.contract.quoting import short
from camrobust.contract.record import Amount, Count, Key, Name, Record, Text
from camrobust.contract.run_files import MANIFEST, is_manifest, number_of


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
