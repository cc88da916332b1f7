"""Where a picture lies in a file that holds many, as the column `place` of a list of images writes it.

`tar 1024+2000 0a1b2c3d`: the header of a member begins at byte 1,024, and 2,000 bytes of picture follow its 512 bytes;
the last number is the CRC-32 of the name in the header.

`zip 0+2100 deflated 2000 0a1b2c3d`: the local header and the data of a member lie in 2,100 bytes from 0 on; unpacked,
it has 2,000 bytes and this CRC-32.

`parquet 4+9000 SNAPPY 2 17 of 100`: 9,000 bytes from 4 on are pages of one column with 100 rows, which may be null at 2
levels; the picture is in row 17, counted from 0. ` dictionary 4+300` behind the range is a page that these refer to.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tarfile import BLOCKSIZE, TarError, TarInfo
from typing import NamedTuple

from camrobust.io.image_errors import ImageError
from camrobust.io.images import MAX_BYTES
from camrobust.io.parquet_excerpt import CODECS, Pages, values_of

LOCAL_HEADER = b"PK\x03\x04"
LOCAL_BYTES = 30
"""Length of the fixed part of a zip's local header."""
_N = r"(\d{1,18})"
_TAR = re.compile(rf"tar {_N}\+{_N} ([0-9a-f]{{8}})")
NAME_BYTES = 100
"""Length of the name in a tar's header."""
_ZIP = re.compile(rf"zip {_N}\+{_N} (stored|deflated) {_N} ([0-9a-f]{{8}})")
_PARQUET = re.compile(rf"parquet {_N}\+{_N}(?: dictionary {_N}\+{_N})? ({'|'.join(CODECS)}) (\d) {_N} of {_N}")
MOST_BYTES = MAX_BYTES // 2
"""Largest picture in a file with many: for a moment there are two copies of it."""
CHANGED = "the file that holds it has changed since it was listed, or is damaged"


class Span(NamedTuple):
    """Bytes of a file."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind them."""
        return self.start + self.length


Read = Callable[[Span], bytes]


def name_check(header: bytes) -> int:
    """Tells members of one size apart, as where photos were packed again in another order: the CRC-32 of the name."""
    return zlib.crc32(header[:NAME_BYTES])


@dataclass(frozen=True)
class TarPlace:
    """A member of a tar: its header, then its bytes."""

    start: int
    size_bytes: int
    name_crc: int

    def __str__(self) -> str:
        """As `parse_place` reads it."""
        return f"tar {self.start}+{self.size_bytes} {self.name_crc:08x}"

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is to be read."""
        return (Span(self.start, BLOCKSIZE + self.size_bytes),)

    def picture(self, read: Read) -> bytes:
        """The bytes; raises ImageError if the header is not that of a member of this size and name."""
        content = read(self.spans[0])
        try:
            size = TarInfo.frombuf(content[:BLOCKSIZE], "utf-8", "surrogateescape").size
        except (TarError, ValueError) as error:
            raise ImageError(CHANGED, "truncated") from error
        same = size == self.size_bytes and name_check(content) == self.name_crc
        if not same or len(content) != BLOCKSIZE + size:
            raise ImageError(CHANGED, "truncated")
        return content[BLOCKSIZE:]


@dataclass(frozen=True)
class ZipPlace:
    """A member of a zip: its local header and its data lie within some bytes."""

    start: int
    length: int
    method: str
    size_bytes: int
    crc: int

    def __str__(self) -> str:
        """As `parse_place` reads it."""
        return f"zip {self.start}+{self.length} {self.method} {self.size_bytes} {self.crc:08x}"

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is to be read."""
        return (Span(self.start, self.length),)

    def picture(self, read: Read) -> bytes:
        """The bytes, unpacked; raises ImageError if size or checksum differ."""
        if self.size_bytes > MOST_BYTES:
            raise ImageError(f"it would unpack to more than {MOST_BYTES} bytes", "too_large")
        content = read(self.spans[0])
        if not content.startswith(LOCAL_HEADER) or len(content) < LOCAL_BYTES:
            raise ImageError(CHANGED, "truncated")
        begin = LOCAL_BYTES + sum(int.from_bytes(content[place : place + 2], "little") for place in (26, 28))
        data = content[begin : begin + self.size_bytes] if self.method == "stored" else self._unpacked(content[begin:])
        if len(data) != self.size_bytes or zlib.crc32(data) != self.crc:
            raise ImageError(CHANGED, "truncated")
        return data

    def _unpacked(self, packed: bytes) -> bytes:
        """At most one byte more than the size that was stated."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.size_bytes + 1)
        except zlib.error as error:
            raise ImageError(CHANGED, "truncated") from error


@dataclass(frozen=True)
class ParquetPlace:
    """A row of some pages of a parquet file."""

    pages: Pages
    row: int

    def __str__(self) -> str:
        """As `parse_place` reads it."""
        pages = self.pages
        behind = f" dictionary {pages.dictionary[0]}+{pages.dictionary[1]}" if pages.dictionary else ""
        return (
            f"parquet {pages.start}+{pages.length}{behind} {pages.codec} {pages.levels} {self.row} of {pages.rows}"
        )  # fmt: skip

    @property
    def size_bytes(self) -> int:
        """At least the size of the picture, if it is not compressed."""
        return self.pages.length

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is to be read."""
        behind = (Span(*self.pages.dictionary),) if self.pages.dictionary else ()
        return (*behind, Span(self.pages.start, self.pages.length))


Place = TarPlace | ZipPlace | ParquetPlace


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: as the archive writes it.
        size_bytes: its size once unpacked, as the archive states it.
        place: where it lies; None if it is left out.
        kind: why it is left out, or empty.
        read: gives its first bytes; they are valid until the next member is asked for.
    """

    name: str
    size_bytes: int
    place: Place | None
    read: Callable[[int], bytes]
    kind: str = ""


def parse_place(text: str) -> Place:
    """The place that a list of images names; raises ImageError if it is none that this version reads."""
    if found := _TAR.fullmatch(text):
        return TarPlace(int(found[1]), int(found[2]), int(found[3], 16))
    if found := _ZIP.fullmatch(text):
        return ZipPlace(int(found[1]), int(found[2]), found[3], int(found[4]), int(found[5], 16))
    if found := _PARQUET.fullmatch(text):
        behind = None if found[3] is None else (int(found[3]), int(found[4]))
        pages = Pages(int(found[1]), int(found[2]), found[5], int(found[6]), int(found[8]), behind)
        return ParquetPlace(pages, int(found[7]))
    raise ImageError("the list of images names a place in a file that this version does not read", "unsupported")


def pictures(places: Sequence[Place], read: Read) -> Iterator[bytes | ImageError]:
    """The pictures at some places of one file, in this order, or why there is none.

    Args:
        places: of one file.
        read: gives the bytes of a span.
    """
    unpacked: dict[Pages, dict[int, bytes | ImageError]] = {}
    for place in places:
        try:
            if not isinstance(place, ParquetPlace):
                yield place.picture(read)
                continue
            if place.pages not in unpacked:
                # Pages of neighbours are unpacked one after the other, not kept.
                wanted = [one.row for one in places if isinstance(one, ParquetPlace) and one.pages == place.pages]
                unpacked = {place.pages: _rows(place.pages, wanted, read)}
            yield unpacked[place.pages][place.row]
        except ImageError as error:
            yield error
        except MemoryError:
            yield ImageError("unpacking it takes more memory than a worker may use", "too_large")


def _rows(pages: Pages, wanted: Sequence[int], read: Read) -> dict[int, bytes | ImageError]:
    """The pictures in some rows, or why there is none; the same error for all of them if the pages are damaged."""
    try:
        behind = read(Span(*pages.dictionary)) if pages.dictionary else b""
        found = values_of(pages, behind + read(Span(pages.start, pages.length)), set(wanted))
    except ImageError as error:
        return dict.fromkeys(wanted, error)
    empty = ImageError("the row holds no picture", "missing")
    return {row: empty if content is None else content for row, content in found.items()}
