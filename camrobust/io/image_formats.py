"""Which image formats are opened, and whether a file is complete.

Pillow reads more formats than these. Left out are formats that start a program (EPS starts Ghostscript), stubs without
a decoder, and formats in which nobody keeps photos. HEIF, and AVIF in a Pillow that lacks it, need a plugin, which is
used where it is installed.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.ExifTags import Base as Tag

from camrobust.io.decoding_memory import check_webp
from camrobust.io.file_kinds import ARRAY
from camrobust.io.image_errors import ImageError
from camrobust.io.jpeg2000 import codestream

FORMATS = (
    "AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
    "WEBP",
)  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_REMEDY = "pip install 'camrobust[heif]' reads .heic and .heif"
VAGUE = ("BMP", "PCX", "PPM", "SGI")
"""Formats that two bytes announce, as a text may also have; their whole header is read to tell them."""
UNMARKED = ("DIB", "TGA")
"""Formats without a mark of their own."""
MAX_PIXELS = 178_956_970
"""Pillow refuses to open larger pictures."""
AVIF_THREADS = 2


def open_picture(content: bytes) -> Image.Image:
    """Read the header of a file in one of `FORMATS`; nothing is decoded.

    Raises:
        ImageError: a WebP picture above the memory budget, as libwebp takes memory as soon as it opens a file; or a
            HEIF picture where its plugin is not installed.
    """
    check_webp(content)
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS and "HEIF" not in known_formats():
        raise ImageError(f"HEIF is read only with an extra: {HEIF_REMEDY}", "unsupported")
    with _few_threads():
        return Image.open(BytesIO(content), formats=known_formats())


@cache
def known_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this installation reads."""
    Image.init()
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    if "AVIF" not in Image.OPEN:
        with suppress(ImportError):
            import_module("pillow_avif")
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def suffixes(*, arrays: bool = False) -> frozenset[str]:
    """The extensions of files that this installation reads, in small letters: of `FORMATS`, and .mpo.

    Args:
        arrays: with that of arrays, which are photos of other than three channels.
    """
    known = (*known_formats(), "MPO")
    photos = frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)
    return photos | {ARRAY} if arrays else photos


def format_of(head: bytes) -> str | None:
    """The format that the first bytes of a file announce; None if it is none that is read.

    >>> format_of(b"GIF89a" + bytes(10)), format_of(b"Python is a language")
    ('GIF', None)
    """
    for name in known_formats():
        accepts = Image.OPEN[name][1]
        if name not in UNMARKED and accepts is not None and accepts(head[:16]) is True:
            return name if name not in VAGUE or _has_header(name, head) else None
    return None


def _has_header(name: str, head: bytes) -> bool:
    try:
        with Image.open(BytesIO(head), formats=[name]):
            return True
    except Exception:  # noqa: BLE001 - a reader raises anything on untrusted bytes
        return False


@contextmanager
def _few_threads() -> Iterator[None]:
    """Limit the threads of AVIF decoders: Pillow starts one per core, and on 128 cores their stacks take 1 GiB."""
    plugin: Any = sys.modules.get("pillow_avif.AvifImagePlugin") or sys.modules.get("PIL.AvifImagePlugin")
    before = getattr(plugin, "DEFAULT_MAX_THREADS", None)
    if before is None:
        yield
        return
    plugin.DEFAULT_MAX_THREADS = AVIF_THREADS
    try:
        yield
    finally:
        plugin.DEFAULT_MAX_THREADS = before


def is_decoded(image: Any) -> bool:
    """Whether the pixels are in memory already; there is no list of tiles for WebP and HEIF."""
    waits = getattr(image, "tile", None) or (image.format in ("HEIF", "WEBP") and image.fp is not None)
    return not waits


def check_file(image: Any) -> None:
    """Refuse a picture that is not read, or not there as a whole; Pillow would silently leave missing parts black.

    Args:
        image: opened, not decoded.

    Raises:
        ImageError: another format, or strips or tiles are missing.
        DecompressionBombError: more than `MAX_PIXELS`.
    """
    if image.format not in (*FORMATS, "MPO"):
        raise ImageError(
            f"{image.format} is not among the formats that are read: {', '.join(known_formats())}", "unsupported"
        )
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height}")
    if image.format == "JPEG2000":
        missing = codestream(image.fp).missing_tiles
        if missing:
            raise ImageError(f"truncated or damaged: {missing} of its tiles are missing", "truncated")
    if image.format == "TIFF" and not image.use_load_libtiff:
        covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile)
        planes = len(image.getbands()) if image.tag_v2.get(Tag.PlanarConfiguration, 1) == 2 else 1
        if covered < planes * image.width * image.height:
            raise ImageError("truncated or damaged: some of its strips are missing", "truncated")
