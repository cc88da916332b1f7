"""Which picture formats are read, and how much memory decoding one takes, known from its header.

Pillow reads more formats than these. Left out are those that start a program (EPS starts Ghostscript), stubs without a
decoder, and formats in which nobody keeps photographs.

A header of a hundred bytes may announce gigabytes. So the memory at the peak is computed before anything is decoded,
with what each codec was measured to hold beside the pixels, and a file above the budget is reduced while it is decoded
(JPEG, JPEG 2000) or refused. The estimate depends on the file alone, so that every machine decides alike.
"""

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image

from camrobust.io.image_errors import ImageError
from camrobust.io.jpeg2000 import Codestream, codestream

FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
MIB = 2**20
BUDGET_BYTES = 768 * MIB
"""What the file and the decoding of it may take together."""
MAX_PIXELS = 178_956_970
"""Pillow refuses more while it opens a file."""
SCALES = (2, 4, 8)
"""By which libjpeg reduces while it decodes."""
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""What Pillow holds of a decoded picture, by its mode; 4 for all others."""
WEBP_BYTES, AVIF_BYTES = 14, 16
"""What the codec holds beside the decoded picture, per pixel."""
AVIF_THREADS = 2
PYTHON_BYTES = 24
"""The same of decoders written in Python; they are also slow, about a second per million pixels."""
PYTHON_DECODERS = ("ppm", "ppm_plain", "dds_rgb", "qoi", "bmp_rle", "SGI16")
SGI_BYTES = 4
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"eXIf")
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH, BITS, SAMPLES, ORIENTATION, PHOTOMETRIC, PLANES = (
    278,
    322,
    323,
    258,
    277,
    274,
    262,
    284,
)
"""Tags of TIFF."""


def open_picture(content: bytes) -> Image.Image:
    """Read the header of a file in one of `FORMATS`; nothing is decoded.

    Raises:
        ImageError: a WebP picture above the budget, for which libwebp takes memory as soon as it is opened.
    """
    canvas = _webp_size(content)
    if canvas is not None:
        need = (4 + WEBP_BYTES) * canvas[0] * canvas[1] + 3 * len(content)
        if need > BUDGET_BYTES:
            raise _too_large(*canvas, "WEBP", need)
    Image.init()
    with _few_threads():
        return Image.open(BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


@contextmanager
def _few_threads() -> Iterator[None]:
    """Have AVIF decoders start few threads: Pillow takes one per core, and on 128 cores their stacks are a gibibyte."""
    plugin: Any = sys.modules.get("PIL.AvifImagePlugin")
    before = getattr(plugin, "DEFAULT_MAX_THREADS", None)
    if before is None:
        yield
        return
    plugin.DEFAULT_MAX_THREADS = AVIF_THREADS
    try:
        yield
    finally:
        plugin.DEFAULT_MAX_THREADS = before


def admit(image: Image.Image, file_bytes: int, side: int, *, ours: bool) -> None:
    """Keep the decoding of a picture within the budget: reduce it while it is decoded, or refuse it.

    Args:
        image: opened, not decoded.
        file_bytes: size of the file, which is in memory, too.
        side: shorter side that is needed, px.
        ours: nobody else holds this picture, so that it may be reduced.

    Raises:
        ImageError: another format, or more memory than the budget.
    """
    if _is_decoded(image):
        return
    if image.format not in (*FORMATS, "MPO"):
        raise ImageError(f"{image.format} is not among the formats that are read: {', '.join(FORMATS)}", "unsupported")
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height}")
    _check_complete(image)
    need = file_bytes + decoding_bytes(image, file_bytes)
    if need <= BUDGET_BYTES or (ours and _reduced(image, file_bytes, side)):
        return
    raise _too_large(*image.size, f"{image.format} ({image.mode})", need)


def _check_complete(image: Any) -> None:
    """Refuse a file without all its strips or tiles: Pillow would leave the rest black without a word."""
    if image.format == "JPEG2000":
        missing = _coded(image).missing_tiles
        if missing:
            raise ImageError(f"truncated or damaged: {missing} of its tiles are missing", "truncated")
    if image.format == "TIFF" and not image.use_load_libtiff:
        covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile)
        planes = len(image.getbands()) if image.tag_v2.get(PLANES, 1) == 2 else 1
        if covered < planes * image.width * image.height:
            raise ImageError("truncated or damaged: some of its strips are missing", "truncated")


def _too_large(width: int, height: int, kind: str, need: int) -> ImageError:
    return ImageError(
        f"{width} x {height} px as {kind} would take {need // MIB} MiB to decode, more than {BUDGET_BYTES // MIB}; "
        "make it smaller",
        "too_large",
    )


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas that a WebP file announces; None for another file."""
    head = content[:30].ljust(30, b"\0")
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def decoding_bytes(image: Image.Image, file_bytes: int, scale: int = 1) -> int:
    """Memory at the peak of decoding, beside the file.

    Args:
        image: opened, not decoded.
        file_bytes: size of the file.
        scale: by which the sides are reduced while it is decoded.
    """
    pixels = image.width * image.height
    native = BYTES_PER_PIXEL.get(image.mode, 4) * (pixels // scale**2)
    if _decoder(image) in PYTHON_DECODERS or image.format == "QOI":
        return native + PYTHON_BYTES * pixels
    if image.format in ("JPEG", "MPO"):
        return native + _coefficient_bytes(image)
    if image.format == "JPEG2000":
        return native + _coded(image).decoding_bytes(scale)
    if image.format == "TIFF":
        return native + _strip_bytes(image, native)
    if image.format == "WEBP":
        return native + WEBP_BYTES * pixels + 2 * file_bytes
    return native + {"AVIF": AVIF_BYTES, "SGI": SGI_BYTES}.get(image.format or "", 0) * pixels


def _coded(image: Any) -> Codestream:
    return codestream(image.fp)


def _is_decoded(image: Any) -> bool:
    """Whether the pixels are in memory already; Pillow keeps no list of tiles for WebP."""
    waits = getattr(image, "tile", None) or (image.format == "WEBP" and image.fp is not None)
    return not waits


def _decoder(image: Any) -> str:
    return str(image.tile[0][0]) if getattr(image, "tile", None) else ""


def _reduced(image: Any, file_bytes: int, side: int) -> bool:
    """Have the codec reduce the picture, as little as the budget asks for; False where it cannot."""
    if image.format == "JPEG2000":
        steps: list[tuple[int, int]] = [(2**power, power) for power in range(1, _coded(image).halvings + 1)]
    elif image.format in ("JPEG", "MPO"):
        steps = [(scale, 0) for scale in SCALES]
    else:
        return False
    for scale, power in steps:
        enough = min(image.size) // scale >= side
        if enough and file_bytes + decoding_bytes(image, file_bytes, scale) <= BUDGET_BYTES:
            if power:
                image.reduce = power
            else:
                image.draft(None, (image.width // scale, image.height // scale))
            return True
    return False


def _coefficient_bytes(image: Any) -> int:
    """What libjpeg holds of a file with several scans: two bytes for each coefficient of the whole picture."""
    components = len(image.layer)
    start = b"\xff\xda" + struct.pack(">HB", 6 + 2 * components, components)
    end = image.fp.tell()
    image.fp.seek(max(0, end - 6 - 2 * components - 2))
    one_scan = image.fp.read(len(start)) == start and not image.info.get("progressive")
    image.fp.seek(end)
    if one_scan and image.format == "JPEG":
        return 0
    whole = max(h for _, h, _, _ in image.layer) * max(v for _, _, v, _ in image.layer)
    share = sum(h * v for _, h, v, _ in image.layer) / whole
    return int(2 * share * image.width * image.height)


def _strip_bytes(image: Any, native: int) -> int:
    """What libtiff holds of one strip or tile, which may be the whole picture, and of a picture that is turned."""
    tags = image.tag_v2
    turned = native if tags.get(ORIENTATION, 1) != 1 else 0
    if not image.use_load_libtiff:
        return turned
    bits = tags.get(BITS, (1,))
    depth = sum(bits) if len(bits) > 1 else bits[0] * tags.get(SAMPLES, 1)
    if TILE_WIDTH in tags:
        pixels = tags[TILE_WIDTH] * tags.get(TILE_LENGTH, image.height)
    else:
        rows = tags.get(ROWS_PER_STRIP, image.height)
        # A picture lying on its side is announced as it will stand.
        pixels = max(image.size) * min(rows, max(image.size)) if turned else image.width * min(rows, image.height)
    pixels = min(pixels, 2**40)
    coefficients = 2 * max(1, len(bits)) if "jpeg" in image.info.get("compression", "") else 0
    return int(turned + pixels * (max(4, -(-depth // 8)) + coefficients))


def is_opaque(image: Any) -> bool:
    """Whether a TGA file says that its fourth channel is no alpha: none of its bits are attributes."""
    if image.format != "TGA" or image.fp is None:
        return False
    where = image.fp.tell()
    image.fp.seek(17)
    attributes = int(image.fp.read(1)[0]) & 0x0F
    image.fp.seek(where)
    return attributes == 0


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kinds of the chunks of a PNG file, and where each begins and ends, as far as the file is whole."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        yield kind, place, place + 12 + length
        place += 12 + length


def without_remarks(content: bytes) -> bytes | None:
    """A PNG file without colour profile, texts and animation; None for another file, and where there are none.

    Pillow refuses a whole file whose profile or texts unpack to more than it allows; the pixels do not depend on them.
    """
    if not content.startswith(PNG_SIGNATURE):
        return None
    chunks = list(png_chunks(content))
    if all(kind in KEPT for kind, _, _ in chunks):
        return None
    kept = (memoryview(content)[start:end] for kind, start, end in chunks if kind in KEPT)
    return b"".join((PNG_SIGNATURE, *kept))


def significant_bits(content: bytes) -> int | None:
    """Bits of a sample that a PNG file says it was made from (its sBIT chunk), the fewest of all channels."""
    if not content.startswith(PNG_SIGNATURE):
        return None
    for kind, start, end in png_chunks(content):
        if kind == b"sBIT":
            return min(content[start + 8 : end - 4], default=None)
        if kind == b"IDAT":
            break
    return None


def white_is_zero(image: Any) -> bool:
    """Whether a TIFF file stores the negative, which Pillow turns round at up to 8 bits only."""
    return bool(image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC, 0) == 0)
