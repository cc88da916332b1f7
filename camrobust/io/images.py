"""Decodes untrusted photos with Pillow, to the square crop that is measured.

Only the formats in `image_formats.FORMATS` are opened, within a memory budget. EXIF orientation is applied; an
animation gives its first frame; transparency is laid on mid grey; deeper samples are scaled to 8 bits
(`sample_levels`); CMYK, L*a*b* and palettes are converted. Any exception of a decoder becomes an `ImageError` and
never ends the run.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from camrobust.contract.defaults import RGB
from camrobust.io.bands import NUMPY, Band, array_bands, checked_bands, picture_bands
from camrobust.io.decoding_memory import MIB, fit_into_budget
from camrobust.io.image_errors import ImageError
from camrobust.io.image_formats import MAX_PIXELS, check_file, is_decoded, known_formats, open_picture
from camrobust.io.png import significant_bits, without_metadata
from camrobust.io.sample_levels import STRIP_PIXELS, Levels, checked, levels_of
from camrobust.io.to_rgb import DEEP, converted, grey_mode, needs_nothing

MAX_BYTES = 512 * MIB
"""Larger files are not read."""
MAX_STRETCH = 50_000
"""Longest side after resizing, px. Without a limit, 3 x 40,000 px would become gigabytes."""
MAX_RESIZED_PIXELS = 2**26
WHOLE_PIXELS = 48 * 10**6
"""Larger pictures that must be rotated or converted are resized in strips."""
FILTERS = {filter_.name.lower(): filter_ for filter_ in Image.Resampling}
"""Pillow's filters by name: bilinear, bicubic, lanczos, nearest, box, hamming."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to set each EXIF orientation upright."""
ON_ITS_SIDE = (5, 6, 7, 8)


@dataclass(frozen=True)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: the crop, (3, H, W) uint8 RGB; for other numbers of channels (C, H, W) float32, multiples of 1/65535.
        width: width of the upright original, px.
        height: its height, px.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    width: int
    height: int


@dataclass(frozen=True)
class Resizing:
    """How a picture becomes a square.

    Attributes:
        resize: shorter side after resizing, px.
        crop: side of the centre crop, px.
        filter: with antialiasing, as torchvision's and timm's evaluation transforms do it on pictures.
        squash: both sides become `resize`, as many processors of Hugging Face do it.
    """

    resize: int
    crop: int
    filter: Image.Resampling = Image.Resampling.BILINEAR
    squash: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture after resizing, px.

        Raises:
            ImageError: it is so narrow that it would become gigabytes.
        """
        side = self.resize
        if self.squash:
            return side, side
        short, long = min(width, height), max(width, height)
        if long * side // short > min(MAX_STRETCH, MAX_RESIZED_PIXELS // side):
            raise ImageError(f"{width} x {height} px is too narrow to be resized to {side} px", "too_large")
        return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)


def decode(
    content: bytes,
    resize: int,
    crop: int,
    channels: int = RGB,
    *,
    interpolation: str = "bilinear",
    squash: bool = False,
) -> Photo:
    """Decode an image file to the centre crop.

    Args:
        content: bytes of a file in one of `image_formats.FORMATS`.
        resize: shorter side after resizing, px.
        crop: side of the centre crop, px.
        channels: of the result. One: greys keep their depth, colours become their luma. Other numbers: see `bands`.
        interpolation: name of the filter, which always antialiases.
        squash: both sides become `resize`.

    Raises:
        ImageError: the file is empty, not an image, damaged, too large, of an unsupported kind or on an unknown scale.
    """
    if not content:
        raise ImageError("the file is empty", "empty")
    if len(content) > MAX_BYTES:
        raise ImageError(f"the file has more than {MAX_BYTES} bytes", "too_large")
    how = Resizing(resize, crop, FILTERS[interpolation], squash)
    try:
        return _decode(content, how, len(content), channels)
    except ImageError as error:
        whole = without_metadata(content) if error.kind in ("truncated", "not_an_image") else None
        if whole is None:
            raise
    return _decode(whole, how, len(content) + len(whole), channels)


def _decode(content: bytes, how: Resizing, held_bytes: int, channels: int) -> Photo:
    with _as_image_error():
        if channels != RGB and content.startswith(NUMPY):
            return _joined(array_bands(content, channels), how)
        image = open_picture(content)
        if channels in (1, RGB):
            return _photo(image, how, held_bytes, significant_bits(content), channels, ours=True)
        fit = partial(fit_into_budget, file_bytes=held_bytes, side=how.resize, ours=True)
        return _joined(picture_bands(image, channels, fit), how)


def prepare(image: Image.Image, resize: int, crop: int, channels: int = RGB) -> Photo:
    """Cut the centre crop from a picture that a program opened or made, of any mode and orientation.

    Args:
        image: the picture; it is decoded and otherwise left as it is.
        resize: shorter side after resizing (bilinear with antialiasing, as torchvision's evaluation transform), px.
        crop: side of the centre crop, px.
        channels: of the result, as for `decode`.

    Raises:
        ImageError: the picture is damaged, too large, of an unsupported kind or on an unknown scale.
    """
    how, fit = Resizing(resize, crop), partial(fit_into_budget, file_bytes=0, side=resize, ours=False)
    with _as_image_error():
        if channels in (1, RGB):
            return _photo(image, how, 0, None, channels, ours=False)
        return _joined(picture_bands(image, channels, fit), how)


@contextmanager
def _as_image_error() -> Iterator[None]:
    """Turn any exception of a decoder into an ImageError with a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS} pixels; refused before unpacking", "too_large") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"not an image that Pillow can read, in one of the formats {', '.join(known_formats())}", "not_an_image"
        ) from error
    except NotImplementedError as error:
        raise ImageError(f"a kind of image that Pillow does not read: {_words(error)}", "unsupported") from error
    except MemoryError as error:
        raise ImageError("decoding it takes more memory than a worker may use", "too_large") from error
    except Exception as error:  # decoders raise anything on untrusted bytes
        raise ImageError(f"truncated or damaged: {_words(error)}", "truncated") from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _photo(image: Image.Image, how: Resizing, file_bytes: int, bits: int | None, channels: int, *, ours: bool) -> Photo:
    size = image.size
    if not is_decoded(image):
        check_file(image)
        fit_into_budget(image, file_bytes, how.resize, ours=ours)
    levels = levels_of(image, bits)
    image.load()
    if image.format == "TIFF":
        size = image.size  # Pillow rotates it while it loads
    turn = _turn(image)
    width, height = size[::-1] if turn in ON_ITS_SIDE else size
    levels = checked(image, levels)
    square = _centre_crop(image, levels, turn, how, "RGB" if channels == RGB else grey_mode(levels))
    if channels != RGB:
        return Photo(_plane(square)[None], width, height)
    return Photo(np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)), width, height)


def _joined(bands: Iterator[Band], how: Resizing) -> Photo:
    """The crops of all channels."""
    planes, sizes = [], set()
    for image, levels in checked_bands(bands):
        turn = _turn(image)
        sizes.add(image.size[::-1] if turn in ON_ITS_SIDE else image.size)
        planes.append(_plane(_centre_crop(image, levels, turn, how, grey_mode(levels))))
    if len(sizes) > 1:
        raise ImageError("its pages have different sizes", "unsupported")
    return Photo(np.stack(planes), *sizes.pop())


def _turn(image: Image.Image) -> int | None:
    orientation = image.getexif().get(Base.Orientation)
    return orientation if isinstance(orientation, int) and orientation in TURNS else None


def _plane(square: Image.Image) -> NDArray[np.float32]:
    """A grey picture (H, W) as multiples of 1/65535; a level v of 255 is 257·v of them."""
    white = np.float32(255 if square.mode == "L" else DEEP)
    levels: NDArray[np.float32] = np.rint(np.asarray(square, np.float32)).clip(0, white)
    return levels / white


def _centre_crop(image: Image.Image, levels: Levels, turn: int | None, how: Resizing, mode: str) -> Image.Image:
    """Set a picture upright, convert it to RGB, L or F, resize it and cut the centre."""
    width, height = image.size[::-1] if turn in ON_ITS_SIDE else image.size
    size, crop = how.size(width, height), how.crop
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    as_it_is = turn is None and needs_nothing(image, levels, mode)
    if width * height > WHOLE_PIXELS and not as_it_is:
        columns = _columns(image, levels, turn, (width, height), (size[0], left, crop), mode, how.filter)
        return columns.resize((crop, size[1]), how.filter).crop((0, top, crop, top + crop))
    if not as_it_is:
        image = _whole(image, levels, turn, (width, height), mode)
    return image.resize(size, how.filter).crop((left, top, left + crop, top + crop))


def _whole(image: Image.Image, levels: Levels, turn: int | None, size: tuple[int, int], mode: str) -> Image.Image:
    """The picture upright, in a mode."""
    whole = Image.new(mode, size)
    for first, last in _rows(size):
        whole.paste(converted(_upright(image, turn, first, last), levels, mode), (0, first))
    return whole


def _columns(
    image: Image.Image,
    levels: Levels,
    turn: int | None,
    size: tuple[int, int],
    target: tuple[int, int, int],
    mode: str,
    filter_: Image.Resampling,
) -> Image.Image:
    """The picture upright, in a mode, resized along its rows and cut to some columns.

    This avoids a second copy of a large picture. Pillow, too, resizes along the rows first, except for pictures more
    than twice as high as wide; there the result may differ by one level from a single call.
    """
    width, left, crop = target
    columns = Image.new(mode, (crop, size[1]))
    for first, last in _rows((max(size[0], width), size[1])):
        strip = converted(_upright(image, turn, first, last), levels, mode)
        resized = strip.resize((width, last - first), filter_)
        columns.paste(resized.crop((left, 0, left + crop, last - first)), (0, first))
    return columns


def _rows(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First and last row of each strip of about `STRIP_PIXELS`."""
    rows = max(1, STRIP_PIXELS // size[0])
    for first in range(0, size[1], rows):
        yield first, min(first + rows, size[1])


def _upright(image: Image.Image, turn: int | None, first: int, last: int) -> Image.Image:
    """Rows first to last of the upright picture."""
    width, height = image.size
    if turn in ON_ITS_SIDE:
        box = (first, 0, last, height) if turn in (5, 6) else (width - last, 0, width - first, height)
    else:
        box = (0, height - last, width, height - first) if turn in (3, 4) else (0, first, width, last)
    strip = image.crop(box)
    return strip if turn is None else strip.transpose(TURNS[turn])
