"""The small JSON documents by which drivers of one run folder understand each other, each with one typed form.

docs/protocol.md says who writes which of them and what a reader believes.
"""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camrobust.errors import UserError
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError

MAX_BYTES = 64 * 2**20
"""Of one document; a lease that lists a hundred thousand commits takes 5 MB."""


class Record(BaseModel):
    """A document that never changes once it is written; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


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
    accepts: tuple[str, ...] | None = None
    beat: int = 0
    released: bool = False


class BeatRecord(Record):
    """`beats/NUMBER.json`: the holder of that lease is alive, or has given it back."""

    beat: int = 0
    released: bool = False


class FileRecord(Record):
    """One live data file.

    Attributes:
        table: scores, images, failures or maps.
        key: of the file in the run folder.
        size_bytes: of the file.
        dataset: of a score file.
        model: of a score file.
    """

    table: str
    key: str
    size_bytes: int
    dataset: str | None = None
    model: str | None = None


class DoneRecord(Record):
    """`done/NUMBER.json`: the run is complete, and these are the files that count.

    Attributes:
        commits: keys of the commits that count.
        files: the data files that they name.
    """

    commits: tuple[str, ...]
    files: tuple[FileRecord, ...]


R = TypeVar("R", bound=Record)


def read_record(store: Store, key: str, form: type[R]) -> R | None:
    """A document of a run folder; None where there is none.

    Raises:
        UserError: it does not have the form that it must have, or is too large.
    """
    try:
        return form.model_validate_json(store.read(key, MAX_BYTES))
    except MissingObjectError:
        return None
    except (ValidationError, TooLargeObjectError) as error:
        raise UserError(
            f"run: {store.locate(key)} is not what camrobust writes there; choose another output, or --fresh"
        ) from error


def write_record(store: Store, key: str, record: Record) -> bool:
    """Create a document, unless another one is there; says whether it is there now."""
    return store.create(key, record.model_dump_json(exclude_defaults=True).encode())
