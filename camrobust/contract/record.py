"""What every JSON document of a run folder has in common: limits, a format, and how it is read and written."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short

MAX_BYTES = 192 * 2**20
"""Largest document; a lease that lists a hundred thousand commits takes 5 MB."""
MAX_VALUES = 4_000_000
"""Lists, keys and values in one document, counted by its commas and brackets; each takes some fifty bytes when read."""
FORMAT = 1
"""Format of the documents and commits that are written now; those of version 0.1 have none, which means 0."""
MAX_NUMBER = 2**53
MAX_AMOUNT = 1e15

Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Amount = Annotated[float, Field(ge=0, le=MAX_AMOUNT, allow_inf_nan=False)]


class Part(BaseModel):
    """Something that stands inside a document; it never changes, and keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Record(Part):
    """A document that never changes once it is written."""

    format: int = Field(0, ge=0, description="schema version; a reader refuses a later one; version 0.1 wrote none")


R = TypeVar("R", bound=Record)


def parse_record(content: bytes, form: type[R], where: str) -> R:
    """Read a document from its bytes; the parser limits the nesting, and the number of values is limited first.

    Raises:
        ValueError: it does not have the form that it must have.
        UserError: it was written by a later version.
    """
    values = sum(map(content.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    record = form.model_validate_json(content)
    if record.format > FORMAT:
        raise UserError(f"run: {where} was written by a later version of camrobust; update camrobust to read it")
    return record


def new_record(form: type[R], **values: Any) -> R:
    """Make a document that is about to be written.

    Raises:
        UserError: no reader would accept it.
    """
    try:
        return form(**values)
    except ValidationError as error:
        raise UserError(f"run: {problem(error)}") from None


def problem(error: Exception) -> str:
    """What is wrong with a document, in a few words that repeat little of it."""
    if not isinstance(error, ValidationError):
        return short(str(error))
    first = error.errors(include_url=False, include_input=False)[0]
    place = short(".".join(str(part) for part in first["loc"]))
    message = short(first["msg"].removeprefix("Value error, "))
    return f"{place}: {message}" if place else message


def content_of(record: Record, *, defaults: bool = False, indent: int | None = None) -> bytes:
    """The bytes of a document, with the format of this version.

    Args:
        record: the document.
        defaults: write values that are the default, too.
        indent: spaces per level, None for one line.
    """
    today = record.model_copy(update={"format": FORMAT})
    return today.model_dump_json(exclude_defaults=not defaults, indent=indent).encode()
