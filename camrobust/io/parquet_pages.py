"""What the pages of a parquet file will take once they are unpacked, from their headers alone.

A parquet file's footer says how large its columns are, and may lie. A reader allocates what the header of each page
says, so these are what is added up before anything is unpacked. Headers are Thrift structures in the compact protocol.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

HEADER_BYTES = 2**20
"""Of one header: it may repeat the least and the greatest value of its page."""
MOST_PAGES = 100_000
"""Of one column in one group of rows."""
DICTIONARY = 2
"""Type of a page that holds a column's different values."""
DEEPEST = 8
STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12


class PageError(ValueError):
    """The pages are not what a parquet file holds."""


@dataclass
class _Compact:
    """Reads structures of numbers; what else they hold is passed over."""

    content: bytes
    place: int = 0

    def byte(self) -> int:
        if self.place >= len(self.content):
            raise PageError("the header of a page is cut off")
        self.place += 1
        return self.content[self.place - 1]

    def number(self) -> int:
        """A variable-length number without sign."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise PageError("the header of a page holds a number that is none")

    def signed(self) -> int:
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Numbers and structures by the number of their field."""
        if depth > DEEPEST:
            raise PageError("the header of a page is nested too deep")
        found: dict[int, Any] = {}
        field = 0
        while (head := self.byte()) != STOP:
            field = field + (head >> 4) if head >> 4 else self.signed()
            found[field] = self._value(head & 0x0F, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self.byte()
        if kind < DOUBLE:
            return self.signed()
        if kind == STRUCT:
            return self.structure(depth + 1)
        if kind in (DOUBLE, BINARY):
            self._skip(8 if kind == DOUBLE else self.number())
            return None
        if kind in (LIST, SET):
            return self._list(depth)
        raise PageError("the header of a page holds something unknown")

    def _list(self, depth: int) -> None:
        head = self.byte()
        count = self.number() if head >> 4 == 0x0F else head >> 4
        if count > len(self.content):
            raise PageError("the header of a page is cut off")
        for _ in range(count):
            if head & 0x0F in (TRUE, FALSE):
                self.byte()
            else:
                self._value(head & 0x0F, depth + 1)

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.content):
            raise PageError("the header of a page is cut off")


def unpacked_bytes(file: BinaryIO, start: int, length: int, values: int) -> int:
    """Bytes of all pages of a column once they are unpacked.

    Args:
        file: the parquet file.
        start: where the first page begins.
        length: of all pages with their headers, bytes.
        values: how many values the footer promises; a reader takes no page after these.

    Raises:
        PageError: these are no pages.
    """
    return sum(_pages(file, start, start + length, values))


def _pages(file: BinaryIO, place: int, end: int, values: int) -> Iterator[int]:
    for _ in range(MOST_PAGES):
        if values <= 0 or place >= end:
            return
        file.seek(place)
        reader = _header(file, end - place)
        header = reader[0]
        unpacked, packed = header.get(2, -1), header.get(3, -1)
        inner: dict[int, Any] = next((header[field] for field in (5, 7, 8) if isinstance(header.get(field), dict)), {})
        count = inner.get(1, -1)
        if min(unpacked, packed, count) < 0 or place + reader[1] + packed > end:
            raise PageError("the header of a page does not fit its column")
        if header.get(1) != DICTIONARY:
            values -= count
        elif count > unpacked:
            raise PageError("a page says that it holds more values than bytes")
        yield unpacked
        place += reader[1] + packed
    raise PageError(f"a column has more than {MOST_PAGES:,} pages")


def _header(file: BinaryIO, most: int) -> tuple[dict[int, Any], int]:
    """A header and its length; a few bytes are nearly always enough."""
    start = file.tell()
    for size in (512, HEADER_BYTES):
        file.seek(start)
        reader = _Compact(file.read(min(size, most)))
        try:
            return reader.structure(), reader.place
        except PageError:
            if size == HEADER_BYTES or size >= most:
                raise
    raise AssertionError
