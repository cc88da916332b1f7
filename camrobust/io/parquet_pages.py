"""How many bytes the pages of a parquet file unpack to, read from their headers alone.

The footer of a parquet file states the size of its columns, and may lie. A reader allocates what each page header
states, so these sizes are added up before anything is unpacked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from camrobust.io.parquet_thrift import Compact, Opened, PageError

HEADER_BYTES = 2**20
"""Longest header; it may repeat the smallest and the largest value of its page."""
MOST_PAGES = 100_000
"""Most pages of one column in one row group."""
DATA, DICTIONARY, DATA_2 = 0, 2, 3
"""Types of pages: values, the distinct values of a column, and values in version 2 of the format."""
INNER = {DATA: 5, DICTIONARY: 7, DATA_2: 8}
"""By the type of a page, the field that counts of those that a header may hold beside each other."""
BY_NUMBER = (2, 8)
"""Encodings whose values are numbers of distinct values."""


@dataclass(frozen=True)
class Page:
    """A page of a column.

    Attributes:
        start: where its header begins.
        length: bytes of its header and its content as stored.
        unpacked_bytes: size of its content once unpacked.
        values: number of its values, nulls included.
        is_dictionary: it holds the distinct values of the column.
        refers: its values are numbers of distinct values.
    """

    start: int
    length: int
    unpacked_bytes: int
    values: int
    is_dictionary: bool
    refers: bool


def pages_of(file: Opened, start: int, length: int, values: int) -> Iterator[Page]:
    """The pages of a column.

    Args:
        file: the parquet file.
        start: where the first page begins.
        length: bytes of all pages with their headers.
        values: number of values in the footer; a reader stops after them.

    Raises:
        PageError: these are not pages.
    """
    place, end = start, start + length
    for _ in range(MOST_PAGES):
        if values <= 0 or place >= end:
            return
        file.seek(place)
        reader = _header(file, end - place)
        header = reader[0]
        kind, unpacked, packed = (_whole(header.get(field)) for field in (1, 2, 3))
        inner = header.get(INNER.get(kind, 0))
        if not isinstance(inner, dict) or min(unpacked, packed) < 0 or place + reader[1] + packed > end:
            raise PageError("the header of a page does not fit its column")
        distinct, count = kind == DICTIONARY, _whole(inner.get(1))
        if not 0 <= count <= (unpacked if distinct else values):
            raise PageError(f"the header of a page states more values than {'bytes' if distinct else 'its column'}")
        values -= 0 if distinct else count
        refers = not distinct and inner.get(4 if kind == DATA_2 else 2) in BY_NUMBER
        yield Page(place, reader[1] + packed, unpacked, count, distinct, refers)
        place += reader[1] + packed
    raise PageError(f"a column has more than {MOST_PAGES:,} pages")


def _whole(value: Any) -> int:
    """A number of 32 bits, of which a reader keeps no more; -1 for anything else."""
    return value if type(value) is int and 0 <= value < 2**31 else -1


def _header(file: Opened, most: int) -> tuple[dict[int, Any], int]:
    """A header and its length; the first 512 bytes are nearly always enough."""
    start = file.tell()
    for size in (512, HEADER_BYTES):
        file.seek(start)
        reader = Compact(file.read(min(size, most)))
        try:
            return reader.structure(), reader.place
        except PageError:
            if size == HEADER_BYTES or size >= most:
                raise
    raise AssertionError
