"""The channels of images that have neither one nor three: bands of a picture, pages of a TIFF file, a NumPy array."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from camrobust.io.decoding_memory import BUDGET_BYTES
from camrobust.io.image_errors import ImageError
from camrobust.io.image_formats import MAX_PIXELS, check_file, is_decoded
from camrobust.io.sample_levels import Levels, checked, levels_of, raw_mode

NUMPY = b"\x93NUMPY"
"""A .npy file begins so."""
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
WHITE = {"uint8": 255, "uint16": 65535, "float32": 1, "float64": 1}
BYTES_PER_PIXEL = 24
"""Of one channel of an array while it is converted."""
BANDS = {2: "LA", 4: "RGBA"}
Band = tuple[Image.Image, Levels]


def picture_bands(image: Any, channels: int, fit: Callable[[Any], None]) -> Iterator[Band]:
    """The channels of an opened picture, one after the other, decoded.

    Args:
        image: with transparency as its last channel, which is taken as it is; or a TIFF file of grey pages.
        channels: how many there must be.
        fit: raises ImageError if decoding takes too much memory.

    Raises:
        ImageError: other channels, colours of more than 8 bits, or pages of different sizes.
    """
    if image.mode == BANDS.get(channels):
        yield from _of_one_page(image, fit)
    elif image.format == "TIFF" and _is_grey(image):
        yield from _of_pages(image, channels, fit)
    else:
        raise _not_so_many(channels, f"this is a picture of mode {image.mode}")


def _of_one_page(image: Any, fit: Callable[[Any], None]) -> Iterator[Band]:
    raw = raw_mode(image)
    levels = _opened(image, fit)
    if levels.deep or (image.format == "TIFF" and raw != image.mode):
        raise ImageError(
            f"of channels stored as {raw or image.mode} only a part can be read; save each as a page of a TIFF file",
            "unsupported",
        )
    for band in range(len(image.getbands())):
        yield image.getchannel(band), Levels()


def _of_pages(image: Any, channels: int, fit: Callable[[Any], None]) -> Iterator[Band]:
    for page in range(channels):
        if not _turned_to(image, page):
            raise _not_so_many(channels, f"this TIFF file has {page}")
        if not _is_grey(image):
            raise _not_so_many(channels, f"page {page + 1} is of mode {image.mode}")
        yield image, _opened(image, fit)
    if _turned_to(image, channels):
        raise _not_so_many(channels, "this TIFF file has more")


def _is_grey(image: Any) -> bool:
    return image.mode in ("1", "L", "F", "I") or image.mode.startswith("I;16")


def _turned_to(image: Any, page: int) -> bool:
    try:
        image.seek(page)
    except EOFError:
        return False
    return True


def _opened(image: Any, fit: Callable[[Any], None]) -> Levels:
    """Decode a picture, or a page of it, and say how to read its samples."""
    if not is_decoded(image):
        check_file(image)
        fit(image)
    levels = levels_of(image)
    image.load()
    return levels


def _not_so_many(channels: int, got: str) -> ImageError:
    pages = f"a TIFF file of {channels} grey pages" if channels > 1 else "a grey picture"
    bands = f", a picture of mode {BANDS[channels]}" if channels in BANDS else ""
    return ImageError(
        f"an image of {channels} channel{'s' if channels > 1 else ''} must be {pages}{bands} or a .npy array "
        f"({channels}, H, W), but {got}",
        "unsupported",
    )


def array_bands(content: bytes, channels: int) -> Iterator[Band]:
    """The channels of a .npy file; nothing in it is unpickled.

    Raises:
        ImageError: it is not (C, H, W), of another type than uint8, uint16, float32 and float64, or cut off.
    """
    file = BytesIO(content)
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ImageError(f"a .npy file of version {version} is not read; save it with NumPy's defaults", "unsupported")
    shape, by_columns, kind = HEADERS[version](file)
    if kind.name not in WHITE or len(shape) != 3 or shape[0] != channels or min(shape) < 1:
        raise _not_so_many(channels, f"this array is {shape} {kind.name}")
    start, pixels = file.tell(), shape[1] * shape[2]
    if len(content) - start != math.prod(shape) * kind.itemsize:
        raise ImageError("truncated or damaged: the array has more or fewer bytes than its header says", "truncated")
    if pixels > MAX_PIXELS or len(content) + BYTES_PER_PIXEL * pixels > BUDGET_BYTES:
        raise ImageError(f"{shape[2]} x {shape[1]} px take too much memory to convert; make it smaller", "too_large")
    array: NDArray[Any] = np.frombuffer(content, kind, offset=start)
    levels = Levels(grey=True, white=WHITE[kind.name], stated=kind.name != "uint16")
    for plane in array.reshape(shape, order="F" if by_columns else "C"):
        yield Image.fromarray(plane.astype(np.float32)), levels


def checked_bands(bands: Iterator[Band]) -> Iterator[Band]:
    """Bands whose levels are corrected by their values (`sample_levels.checked`); one of them may be dark, not all.

    Raises:
        ImageError: the values contradict the levels, or leave open what is white.
    """
    dark: list[ImageError] = []
    count = 0
    for image, levels in bands:
        count += 1
        try:
            known = checked(image, levels)
        except ImageError as error:
            if levels.stated:
                raise
            dark.append(error)
            known = checked(image, replace(levels, stated=True))
        yield image, known
    if dark and len(dark) == count:
        raise dark[0]
