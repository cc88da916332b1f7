"""What every JSON document of a run folder has in common: limits, a format, and how it is read and written."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short

MAX_BYTES = 192 * 2**20
"""Of one document; a lease that lists a hundred thousand commits takes 5 MB."""
MAX_VALUES = 4_000_000
"""Lists, keys and values in one document, by its commas and brackets: what is read takes some fifty bytes for each."""
FORMAT = 1
"""Of the documents and commits that are written now; version 0.1 wrote none, which is 0."""
MAX_NUMBER = 2**53
Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1000)]
Key = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class Record(BaseModel):
    """A document that never changes once it is written; keys of later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    format: int = Field(0, ge=0, description="raised where an older camrobust would misread what is written")


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
