"""Reads the codestream of a JPEG 2000 file, as Pillow believes the header in front of it, which may be wrong."""

import struct
from dataclasses import dataclass
from typing import IO

from camrobust.io.image_errors import ImageError

SIGNATURE = b"\xff\x4f\xff\x51"
CODING, START_OF_TILE = b"\xff\x52", b"\xff\x90"
SAMPLE_BYTES = 6
"""What OpenJPEG and Pillow hold per sample of one tile, beside the picture; 5.2 to 6.2 were measured."""
TILE_BYTES, COMPONENT_BYTES = 8192, 2048
"""What OpenJPEG holds per tile, and per component of a tile, before it decodes anything."""


@dataclass(frozen=True)
class Codestream:
    """The facts of one codestream.

    Attributes:
        width: px.
        height: px.
        tile_width: px, may be more than the width.
        tile_height: px.
        components: channels.
        depth: bits of a sample.
        halvings: how often the picture can be halved while it is decoded.
        tiles: number of tiles of the whole picture.
        found_tiles: number of tiles that the file contains.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    components: int
    depth: int
    halvings: int
    tiles: int
    found_tiles: int

    @property
    def missing_tiles(self) -> int:
        """Number of tiles that the file lacks."""
        return max(0, self.tiles - self.found_tiles)

    def decoding_bytes(self, scale: int) -> int:
        """Memory for decoding, without the picture itself, if its sides are reduced by a scale."""
        pixels = min(self.width, self.tile_width) * min(self.height, self.tile_height)
        tables = self.tiles * (TILE_BYTES + COMPONENT_BYTES * self.components)
        return self.components * SAMPLE_BYTES * pixels // scale**2 + tables


def codestream(file: IO[bytes]) -> Codestream:
    """Read the headers of a JPEG 2000 file; the position in the file is restored.

    Raises:
        ImageError: the file has no complete codestream header.
    """
    where = file.tell()
    try:
        file.seek(_start(file) + 8)
        right, bottom, left, top, tile_x, tile_y, from_x, from_y, components = struct.unpack(">8IH", file.read(34))
        samples = file.read(3 * components)
        halvings = 0
        while (marker := file.read(2)) not in (START_OF_TILE, b""):
            (length,) = struct.unpack(">H", file.read(2))
            body = file.read(max(0, length - 2))
            if marker == CODING:
                halvings = body[5]
        tile_numbers = _tiles(file) if marker else set()
    except (struct.error, IndexError) as error:
        raise ImageError("truncated or damaged: the header of its codestream is incomplete", "truncated") from error
    finally:
        file.seek(where)
    depth = (samples[0] & 0x7F) + 1 if samples else 0
    tiles = -(-(right - from_x) // max(1, tile_x)) * -(-(bottom - from_y) // max(1, tile_y))
    return Codestream(right - left, bottom - top, tile_x, tile_y, components, depth, halvings, tiles, len(tile_numbers))


def _tiles(file: IO[bytes]) -> set[int]:
    """Numbers of the tiles in the file, which stands just after the marker of the first one."""
    numbers: set[int] = set()
    while True:
        place = file.tell() - 2
        head = file.read(8)
        if len(head) < 8:
            return numbers
        _, number, length = struct.unpack(">HHI", head)
        numbers.add(number)
        file.seek(place + length)
        if not length or file.read(2) != START_OF_TILE:
            return numbers


def _start(file: IO[bytes]) -> int:
    """Where the codestream begins: at once, or in one of the boxes of a JP2 file."""
    file.seek(0)
    if file.read(4) == SIGNATURE:
        return 0
    place = 0
    while True:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", file.read(8)), 16
        if kind == b"jp2c":
            return place + head
        if length < head:
            raise ImageError("truncated or damaged: it has no codestream", "truncated")
        place += length
