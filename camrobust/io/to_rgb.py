"""Converts decoded pictures of every kind to 8-bit RGB."""

import numpy as np
from PIL import Image, ImageCms

from camrobust.io.sample_levels import Levels, stored_values

GREY = (128, 128, 128)
"""What shows through a transparent picture."""


def is_rgb(image: Image.Image, levels: Levels) -> bool:
    """Whether a decoded picture needs no conversion."""
    return image.mode == "RGB" and not levels.grey and not image.has_transparency_data


def to_rgb(strip: Image.Image, levels: Levels) -> Image.Image:
    """Convert some rows of a decoded picture to 8-bit RGB: scale deep greys, lay transparency on mid grey."""
    if levels.grey:
        return _scaled(strip, levels)
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


def _scaled(strip: Image.Image, levels: Levels) -> Image.Image:
    values = stored_values(strip, levels)
    clear = None if levels.transparent is None else values == levels.transparent
    scaled = (values - levels.black) * (255 / (levels.white - levels.black))
    grey = np.clip(np.rint(255 - scaled if levels.negative else scaled), 0, 255).astype(np.uint8)
    if clear is not None:
        grey[clear] = GREY[0]
    return Image.fromarray(grey).convert("RGB")


def _from_lab(strip: Image.Image) -> Image.Image:
    """CIE L*a*b* to sRGB, by LittleCMS."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(strip, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ValueError("LittleCMS cannot convert from L*a*b*")
    return converted
