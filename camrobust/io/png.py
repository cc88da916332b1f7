"""The chunks of a PNG file, as far as Pillow does not read them for us."""

import struct
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"eXIf")


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk that is complete or begun; stops where the file breaks off."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, place, place + 12 + length
        place += 12 + length


def without_metadata(content: bytes) -> bytes | None:
    """A PNG file without colour profile, texts and animation; None if it has none of these or is not a PNG file.

    Pillow refuses a file whose profile or texts unpack to more than it allows. The pixels do not depend on them.
    """
    if not content.startswith(SIGNATURE):
        return None
    chunks = list(png_chunks(content))
    if all(kind in KEPT for kind, _, _ in chunks):
        return None
    kept = (memoryview(content)[start:end] for kind, start, end in chunks if kind in KEPT)
    return b"".join((SIGNATURE, *kept))


def significant_bits(content: bytes) -> int | None:
    """The bits per sample before they were spread over 8 or 16, from the sBIT chunk; the fewest of all channels."""
    if not content.startswith(SIGNATURE):
        return None
    for kind, start, end in png_chunks(content):
        if kind == b"sBIT":
            return min(content[start + 8 : end - 4], default=None)
        if kind == b"IDAT":
            break
    return None
