"""How much memory decoding a picture takes, computed from its header, and whether that fits the budget.

A header of a hundred bytes may announce gigabytes. So the peak is computed before anything is decoded, from what each
codec was measured to hold beside the pixels. A file above the budget is reduced while it is decoded (JPEG, JPEG 2000)
or refused. The estimate depends on the file alone, so every machine decides alike.
"""

import struct
from typing import Any

from PIL import Image
from PIL.ExifTags import Base as Tag

from camrobust.io.image_errors import ImageError
from camrobust.io.jpeg2000 import Codestream, codestream

MIB = 2**20
BUDGET_BYTES = 768 * MIB
"""For the file and its decoding together."""
SCALES = (2, 4, 8)
"""By which libjpeg can reduce a picture while it decodes it."""
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Size of a decoded picture in Pillow by its mode; 4 for all other modes."""
WEBP_BYTES, AVIF_BYTES, HEIF_BYTES, SGI_BYTES = 14, 16, 11, 4
"""What the codec holds beside the decoded picture, per pixel; HEIF as phones write it takes 5."""
PYTHON_BYTES = 24
"""The same for decoders written in Python. They are also slow: about a second per million pixels."""
PYTHON_DECODERS = ("ppm", "ppm_plain", "dds_rgb", "qoi", "bmp_rle", "SGI16")


def fit_into_budget(image: Image.Image, file_bytes: int, side: int, *, ours: bool) -> None:
    """Have the codec reduce a picture whose decoding would exceed the budget.

    Args:
        image: opened, not decoded.
        file_bytes: size of the file, which is in memory, too.
        side: the shorter side that is needed, px.
        ours: nobody else uses this picture, so it may be reduced.

    Raises:
        ImageError: the picture is too large and cannot be reduced enough.
    """
    need = file_bytes + decoding_bytes(image, file_bytes)
    if need <= BUDGET_BYTES or (ours and _reduced(image, file_bytes, side)):
        return
    raise _too_large(*image.size, f"{image.format} ({image.mode})", need)


def check_webp(content: bytes) -> None:
    """Refuse a WebP file above the budget before it is opened, as libwebp takes the memory then.

    Raises:
        ImageError: the picture is too large.
    """
    canvas = _webp_size(content)
    if canvas is not None:
        need = (4 + WEBP_BYTES) * canvas[0] * canvas[1] + 3 * len(content)
        if need > BUDGET_BYTES:
            raise _too_large(*canvas, "WEBP", need)


def _too_large(width: int, height: int, kind: str, need: int) -> ImageError:
    return ImageError(
        f"{width} x {height} px as {kind} would take {need // MIB} MiB to decode, more than {BUDGET_BYTES // MIB}; "
        "make it smaller",
        "too_large",
    )


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of the canvas in the header of a WebP file; None for other files."""
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
    """The peak memory of decoding, without the file itself.

    Args:
        image: opened, not decoded.
        file_bytes: size of the file.
        scale: by how much the sides are reduced while the picture is decoded.
    """
    pixels = image.width * image.height
    native = BYTES_PER_PIXEL.get(image.mode, 4) * (pixels // scale**2)
    if _decoder(image) in PYTHON_DECODERS or image.format == "QOI":
        return native + PYTHON_BYTES * pixels
    if image.format in ("JPEG", "MPO"):
        return native + _coefficient_bytes(image)
    if image.format == "JPEG2000":
        return native + _codestream_of(image).decoding_bytes(scale)
    if image.format == "TIFF":
        return native + _strip_bytes(image, native)
    if image.format == "WEBP":
        return native + WEBP_BYTES * pixels + 2 * file_bytes
    return native + {"AVIF": AVIF_BYTES, "HEIF": HEIF_BYTES, "SGI": SGI_BYTES}.get(image.format or "", 0) * pixels


def _codestream_of(image: Any) -> Codestream:
    return codestream(image.fp)


def _decoder(image: Any) -> str:
    return str(image.tile[0][0]) if getattr(image, "tile", None) else ""


def _reduced(image: Any, file_bytes: int, side: int) -> bool:
    """Have the codec reduce the picture as little as the budget allows; False if it cannot."""
    if image.format == "JPEG2000":
        steps: list[tuple[int, int]] = [(2**power, power) for power in range(1, _codestream_of(image).halvings + 1)]
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
    """What libjpeg holds for a file with several scans: two bytes per coefficient of the whole picture."""
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
    """What libtiff holds for one strip or tile, which may be the whole picture, and for a rotated picture."""
    tags = image.tag_v2
    turned = native if tags.get(Tag.Orientation, 1) != 1 else 0
    if not image.use_load_libtiff:
        return turned
    bits = tags.get(Tag.BitsPerSample, (1,))
    depth = sum(bits) if len(bits) > 1 else bits[0] * tags.get(Tag.SamplesPerPixel, 1)
    if Tag.TileWidth in tags:
        pixels = tags[Tag.TileWidth] * tags.get(Tag.TileLength, image.height)
    else:
        rows = tags.get(Tag.RowsPerStrip, image.height)
        # The announced size of a picture on its side is its size after rotation.
        pixels = max(image.size) * min(rows, max(image.size)) if turned else image.width * min(rows, image.height)
    pixels = min(pixels, 2**40)
    coefficients = 2 * max(1, len(bits)) if "jpeg" in image.info.get("compression", "") else 0
    return int(turned + pixels * (max(4, -(-depth // 8)) + coefficients))
