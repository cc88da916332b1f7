"""The structures of a parquet file's footer and page headers: Thrift in its compact protocol, as in parquet.thrift."""

from dataclasses import dataclass
from typing import Any, Protocol

MOST_FIELDS = 2**15 - 1
"""Highest number of a field."""
DEEPEST = 8
"""Most levels of structures inside one another."""
STOP, TRUE, FALSE, BYTE, INT32, INT64, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12
"""Field types of the compact protocol."""
MAGIC = b"PAR1"
"""How a parquet file begins and ends."""
CODECS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "LZO": 3, "BROTLI": 4, "LZ4 of Hadoop": 5, "ZSTD": 6, "LZ4": 7}
"""Numbers of the codecs by pyarrow's names, which has none for two of them."""


class Opened(Protocol):
    """An open file of bytes."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Choose where the next read begins."""

    def tell(self) -> int:
        """Where the next read begins."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""


class PageError(ValueError):
    """These are not pages of a parquet file."""


@dataclass
class Compact:
    """Reads structures and lists of numbers and skips all other fields."""

    content: bytes
    place: int = 0

    def byte(self) -> int:
        """The next byte."""
        if self.place >= len(self.content):
            raise PageError("a header is cut off")
        self.place += 1
        return self.content[self.place - 1]

    def number(self) -> int:
        """An unsigned number of variable length."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise PageError("a header holds a number of more than 64 bits")

    def signed(self) -> int:
        """A signed number of variable length."""
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Numbers, structures and lists by field number."""
        if depth > DEEPEST:
            raise PageError("a header is nested too deep")
        fields: dict[int, Any] = {}
        field = 0
        while (head := self.byte()) & 0x0F != STOP:
            field = field + (head >> 4) if head >> 4 else self.signed()
            if field in fields or not 0 < field <= MOST_FIELDS:
                # Another reader might take the other one, or 16 bits of the number.
                raise PageError("a header holds a field twice, or one of a strange number")
            fields[field] = self._value(head & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self.byte()
        if STOP < kind < DOUBLE:
            return self.signed()
        if kind == STRUCT:
            return self.structure(depth + 1)
        if kind in (DOUBLE, BINARY):
            self._skip(8 if kind == DOUBLE else self.number())
            return None
        if kind in (LIST, SET):
            return self._list(depth)
        raise PageError("a header holds an unknown type")

    def _list(self, depth: int) -> list[Any]:
        head = self.byte()
        count = self.number() if head >> 4 == 0x0F else head >> 4
        if count > len(self.content):
            raise PageError("a header is cut off")
        boolean = head & 0x0F in (TRUE, FALSE)
        return [self.byte() if boolean else self._value(head & 0x0F, depth + 1) for _ in range(count)]

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self.content):
            raise PageError("a header is cut off")
