"""Photographs: decoded with Pillow, untrusted, to the square crop that everything acts on.

Rules: EXIF orientation is applied, of an animation the first frame is taken, transparency is laid on mid grey,
16-bit values are scaled (not clipped), CMYK and palettes are converted. Files that announce more pixels than Pillow's
limit (about 179 million) are refused before they are unpacked.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970
MAX_BYTES = 4 * MAX_PIXELS
"""Of a file: four for each pixel of the largest picture that Pillow unpacks."""
GREY = (128, 128, 128)
LUMA = (0.299, 0.587, 0.114)
MAX_STRETCH = 50_000
"""Longest side after resizing the shorter side, px: an image of 3 x 40,000 px would otherwise become gigabytes."""


class ImageError(Exception):
    """An image that cannot be used.

    Attributes:
        kind: missing, empty, not_an_image, truncated or too_large.
    """

    def __init__(self, message: str, kind: str = "error") -> None:
        super().__init__(message, kind)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Photo:
    """A decoded photograph.

    Attributes:
        pixels: the crop, (3, H, W) uint8 RGB.
        width: of the upright original, px.
        height: of the upright original, px.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(content: bytes, resize: int, crop: int) -> Photo:
    """Bytes of an image file to the centre crop.

    Args:
        content: of a file in any format that Pillow reads.
        resize: shorter side after resizing (bilinear with antialiasing, as torchvision's evaluation transform), px.
        crop: side of the centre crop, px.

    Raises:
        ImageError: empty, no image, truncated or damaged, too large.
    """
    if not content:
        raise ImageError("the file is empty", "empty")
    return prepare(lambda: Image.open(BytesIO(content)), resize, crop)


def prepare(opened: Callable[[], Image.Image], resize: int, crop: int) -> Photo:
    """A picture of any format, mode and orientation to the centre crop.

    Args:
        opened: opens it.
        resize: shorter side after resizing (bilinear with antialiasing, as torchvision's evaluation transform), px.
        crop: side of the centre crop, px.

    Raises:
        ImageError: no image, truncated or damaged, too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            upright = _upright_rgb(opened())
    except Image.DecompressionBombError as error:
        raise ImageError(f"more than {MAX_PIXELS} pixels; refused before unpacking", "too_large") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read", "not_an_image") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"truncated or damaged: {message}", "truncated") from error
    square = _centre_crop(upright, resize, crop)
    pixels = np.ascontiguousarray(np.asarray(square, dtype=np.uint8).transpose(2, 0, 1))
    return Photo(pixels, upright.width, upright.height)


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height}")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(upright, dtype=np.float64)
        scale = 255 / 65535 if upright.mode != "F" else 255.0
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        background = Image.new("RGBA", layered.size, (*GREY, 255))
        return Image.alpha_composite(background, layered).convert("RGB")
    return upright.convert("RGB")


def _centre_crop(image: Image.Image, resize: int, crop: int) -> Image.Image:
    """Resize the shorter side and cut the centre, without ever holding a stretched strip larger than needed."""
    width, height = image.size
    short = min(width, height)
    if max(width, height) * resize // short > MAX_STRETCH:
        raise ImageError(f"{width} x {height} px is too narrow to be resized to {resize} px", "too_large")
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + crop, top + crop))


def characteristics(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Properties of a crop that may drive stability; names as in `schema.IMAGES`.

    Args:
        pixels: (3, H, W) uint8 RGB.
    """
    colour = pixels.astype(np.float64)
    luma = np.tensordot(np.array(LUMA), colour, axes=1) / 255
    red_green = colour[0] - colour[1]
    yellow_blue = (colour[0] + colour[1]) / 2 - colour[2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())
    return {
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "colourfulness": float(spread + 0.3 * offset),
        "edge_density": _edge_density(luma),
        "high_frequency": _high_frequency(luma),
    }


def _edge_density(luma: NDArray[np.float64]) -> float:
    """Share of pixels whose Sobel gradient (per pixel, of luminance in [0, 1]) exceeds 0.1."""
    padded = np.pad(luma, 1, mode="edge")
    smooth_rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    smooth_columns = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    across = (smooth_rows[:, 2:] - smooth_rows[:, :-2]) / 2
    down = (smooth_columns[2:] - smooth_columns[:-2]) / 2
    return float((np.hypot(across, down) > 0.1).mean())


def _high_frequency(luma: NDArray[np.float64]) -> float:
    """Share of the spectral energy (without the mean) above a quarter of the sampling rate."""
    energy = np.abs(np.fft.fft2(luma - luma.mean())) ** 2
    rows, columns = (np.fft.fftfreq(size) for size in luma.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    total = energy.sum()
    return float(energy[radius > 0.25].sum() / total) if total > 0 else 0.0
