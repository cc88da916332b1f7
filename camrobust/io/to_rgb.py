"""Converts decoded pictures of every kind to 8-bit RGB, or to one grey channel that keeps its depth."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from camrobust.io.sample_levels import Levels, stored_values

GREY = (128, 128, 128)
"""What shows through a transparent picture."""


DEEP = 65535
"""White in a picture of mode F."""


def needs_nothing(image: Image.Image, levels: Levels, mode: str) -> bool:
    """Whether a decoded picture is of that mode already."""
    return image.mode == mode and not levels.grey and not image.has_transparency_data


def grey_mode(levels: Levels) -> str:
    """The mode of a grey channel: L for samples of at most 8 bits, F from 0 to 65535 for deeper ones."""
    return "F" if levels.grey else "L"


def converted(strip: Image.Image, levels: Levels, mode: str) -> Image.Image:
    """Convert some rows of a decoded picture.

    Args:
        strip: the rows.
        levels: how to read them.
        mode: RGB; or a grey channel, see `grey_mode`. Colours become their luma (BT.601).
    """
    if mode == "F":
        scaled, clear = _scaled(strip, levels, DEEP)
        if clear is not None:
            scaled[clear] = GREY[0] / 255 * DEEP
        return Image.fromarray(scaled.astype(np.float32))
    rgb = to_rgb(strip, levels)
    return rgb if mode == "RGB" else rgb.convert(mode)


def to_rgb(strip: Image.Image, levels: Levels) -> Image.Image:
    """Convert some rows of a decoded picture to 8-bit RGB: scale deep greys, lay transparency on mid grey."""
    if levels.grey:
        scaled, clear = _scaled(strip, levels, 255)
        grey = np.rint(scaled).astype(np.uint8)
        if clear is not None:
            grey[clear] = GREY[0]
        return Image.fromarray(grey).convert("RGB")
    if levels.transparent is not None:
        strip.info["transparency"] = levels.transparent
    if strip.mode == "LAB":
        return _from_lab(strip)
    if strip.mode in ("La", "RGBa"):
        strip = strip.convert(strip.mode.upper())
    if strip.has_transparency_data and not levels.opaque:
        layered = strip.convert("RGBA")
        background = Image.new("RGBA", layered.size, (*GREY, 255))
        return Image.alpha_composite(background, layered).convert("RGB")
    return strip if strip.mode == "RGB" else strip.convert("RGB")


def _scaled(strip: Image.Image, levels: Levels, white: int) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Values from 0 to `white`, and which of them are transparent."""
    values = stored_values(strip, levels)
    clear = None if levels.transparent is None else values == levels.transparent
    scaled = (values - levels.black) * (white / (levels.white - levels.black))
    return np.clip(white - scaled if levels.negative else scaled, 0, white), clear


def _from_lab(strip: Image.Image) -> Image.Image:
    """CIE L*a*b* to sRGB, by LittleCMS."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(strip, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("LittleCMS cannot convert from L*a*b*")
    return converted
