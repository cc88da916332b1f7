"""Which stored value is black and which is white, and pictures of every kind to 8-bit RGB.

Eight bits per sample need no thought. Deeper samples, whole numbers of 32 bits and floats mean something only on a
scale, and not every file says which. The rule: what the file says counts (the depth of its samples, WhiteIsZero,
TIFF's SampleFormat and MinSampleValue/MaxSampleValue, a PGM's maxval, PNG's sBIT); floats from 0 to 1 are taken as they
are, by a convention that all tools share; else the image is a failure that says what the file does not. Nothing is
scaled by its own content, as one photo would then be brightened and the next one not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from camrobust.io.decoding_memory import is_opaque, white_is_zero
from camrobust.io.image_errors import ImageError
from camrobust.io.jpeg2000 import codestream

GREY = (128, 128, 128)
"""What shows through a transparent picture."""
UNUSED = 4
"""A sample of 16 or 32 bits of which no value is above a quarter may hold fewer bits, and the file does not say."""
STRIP_PIXELS = 2**20
BITS, SAMPLE_FORMAT, PLANES = 258, 339, 284
LIMITS = ((280, 281), (340, 341))
"""TIFF's MinSampleValue and MaxSampleValue, SMinSampleValue and SMaxSampleValue."""
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
SHORT_GREYS = {"L;2": 85, "L;4": 17}
"""Raw modes of PNG whose samples are spread to 8 bits, and by what; their transparent level is not."""


@dataclass(frozen=True)
class Levels:
    """How the samples of one picture are read.

    Attributes:
        grey: one number per pixel, on a scale; else colours, or greys of at most 8 bits.
        black: the value that is black.
        white: the value that is white.
        stored: type in which the file stores what Pillow hands out as another, or None.
        negative: black and white are to be exchanged.
        stated: the file says what is white; else values must use the two uppermost bits.
        deep: colours of more than 8 bits, of which Pillow reads the upper 8.
        bits: those of a sample that count, by PNG's sBIT.
        transparent: a level that is transparent.
        opaque: what looks like an alpha channel is none.
    """

    grey: bool = False
    black: float = 0
    white: float = 255
    stored: str | None = None
    negative: bool = False
    stated: bool = True
    deep: bool = False
    bits: int | None = None
    transparent: int | None = None
    opaque: bool = False


def levels_of(image: Any, bits: int | None = None) -> Levels:
    """How a picture's samples are to be read.

    Args:
        image: opened; best before it is decoded, as Pillow forgets the raw form then.
        bits: those of a sample that count, by PNG's sBIT.

    Raises:
        ImageError: the file does not say it, or Pillow cannot read it rightly.
    """
    raw = _raw_mode(image)
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        raise _unknown("a CMYK JPEG without Adobe's marker does not say whether 0 or 255 is full ink")
    if image.format == "TIFF":
        return _of_tiff(image)
    if image.mode == "F":
        return Levels(grey=True, white=1, stated=True)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _unknown("whole numbers of 32 bits do not say which value is white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        stated = image.format == "PPM" or (image.format == "JPEG2000" and not _fills_16_bits(image))
        transparent = image.info.get("transparency")
        return Levels(grey=True, white=65535, stated=stated, bits=bits, transparent=transparent)
    deep = ";16" in raw or raw == "SGI16" or _fills_16_bits(image)
    if deep and "transparency" in image.info:
        raise ImageError(
            "16-bit colours with one transparent colour are not read; save it with an alpha channel", "unsupported"
        )
    scale = SHORT_GREYS.get(raw)
    level = image.info.get("transparency")
    transparent = level * scale if scale and isinstance(level, int) else None
    return Levels(deep=deep, stated=not deep, bits=bits, transparent=transparent, opaque=is_opaque(image))


def _fills_16_bits(image: Any) -> bool:
    """Whether a JPEG 2000 file has samples of 16 bits, which Pillow does not scale; False where that is forgotten."""
    return image.format == "JPEG2000" and image.fp is not None and codestream(image.fp).depth == 16


def _raw_mode(image: Any) -> str:
    """How the file stores samples, in Pillow's words; "" where that is no longer known."""
    if not getattr(image, "tile", None):
        return ""
    name, _, _, arguments = image.tile[0][:4]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if name == "SGI16" else str(first)


def _of_tiff(image: Any) -> Levels:
    tags = image.tag_v2
    depth, form = tags.get(BITS, (1,))[0], tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0]
    plain = form == UNSIGNED
    said = None if plain and depth <= 8 else _said_limits(tags, scale=not plain)
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        if form == SIGNED:
            return _signed_bytes(image, said)
        return _deep_colours(image, depth, said)
    negative = white_is_zero(image)
    if form == FLOAT:
        black, white = said or (0, 1)
        return Levels(grey=True, black=black, white=white, negative=negative)
    if form == SIGNED:
        if said is None:
            raise _unknown(
                "signed whole numbers, and no SMinSampleValue and SMaxSampleValue that say which are black and white"
            )
        return Levels(grey=True, black=said[0], white=said[1], negative=negative)
    black, white = said or (0, 2**depth - 1)
    stated = said is not None or depth not in (16, 32)
    return Levels(
        grey=True, black=black, white=white, stored="u4" if depth == 32 else None, negative=negative, stated=stated
    )


def _signed_bytes(image: Any, said: tuple[float, float] | None) -> Levels:
    if said is None or image.mode != "L":
        raise _unknown("signed bytes, and no SMinSampleValue and SMaxSampleValue that say which are black and white")
    return Levels(grey=True, black=said[0], white=said[1], stored="i1", negative=False)


def _deep_colours(image: Any, depth: int, said: tuple[float, float] | None) -> Levels:
    """Colours of 16 bits, of which Pillow reads the upper eight; those of 8 bits and less need nothing."""
    if depth <= 8:
        return Levels()
    if image.tag_v2.get(PLANES, 1) == 2 and not image.use_load_libtiff:
        raise ImageError(
            f"colours of {depth} bits in separate planes are not read rightly; save it with 8 bits", "unsupported"
        )
    if said is not None and said != (0, 2**depth - 1):
        raise ImageError(
            f"MaxSampleValue says that {said[1]:g} is white, but of {depth}-bit colours only the upper 8 bits are "
            "read; save it with 8 bits",
            "unsupported",
        )
    return Levels(deep=True, stated=said is not None)


def _said_limits(tags: Any, *, scale: bool) -> tuple[float, float] | None:
    """The black and the white level that a TIFF file states.

    TIFF 6.0 calls these tags statistics: they may hold the darkest and the brightest value of this very picture. So
    they are taken for a scale only where they are one: from 0 to 1, to all bits of a depth (255, 4095, ...), or the
    whole range of a signed number.

    Args:
        tags: of the file.
        scale: whether the levels cannot be known without one.

    Raises:
        ImageError: they are no scale, where one is needed.
    """
    for low_tag, high_tag in LIMITS[::-1]:
        if high_tag in tags:
            lows, highs = _numbers(tags.get(low_tag, 0)), _numbers(tags[high_tag])
            low, high = min(lows), max(highs)
            top = high + 1
            depth = high > 0 and float(top).is_integer() and int(top) & (int(top) - 1) == 0
            if depth and len({*highs}) == 1 and (low == 0 or low == -top):
                return low, high
            if not scale:
                return None
            raise _unknown(
                f"its tags give the levels {low:g} to {high:g}, which is the range of this picture, not a scale"
            )
    return None


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in (value if isinstance(value, tuple) else (value,))]


def _unknown(what: str) -> ImageError:
    return ImageError(f"its levels cannot be known: {what}", "unknown_scale")


def checked(image: Image.Image, levels: Levels) -> Levels:
    """The same levels, after a look at the values of a decoded picture.

    Raises:
        ImageError: they contradict the levels, or leave open what is white.
    """
    if levels.grey:
        return _checked_grey(image, levels)
    if levels.deep and not levels.stated:
        highest = max(_brightest(strip) for strip in _strips(image))
        if 0 < highest < 256 // UNUSED:
            raise _unfilled(f"{highest} of 255 after 8 of its bits are left out")
    return levels


def _brightest(strip: Image.Image) -> int:
    """The highest value of any channel but alpha."""
    found: Any = strip.getextrema()
    bands = found if isinstance(found[0], tuple) else (found,)
    return max(int(high) for (_, high), name in zip(bands, strip.getbands(), strict=True) if name not in "Aa")


def _unfilled(highest: str) -> ImageError:
    return _unknown(
        f"no value is above {highest}, so that perhaps only some of the bits are used, and the file does not say how "
        "many; save it with 8 bits"
    )


def _checked_grey(image: Image.Image, levels: Levels) -> Levels:
    lowest, highest, low_bits = np.inf, -np.inf, False
    spare = 2 ** (16 - levels.bits) - 1 if levels.bits and levels.bits < 16 else 0
    for strip in _strips(image):
        values = _values(strip, levels)
        if not np.isfinite(values).all():
            raise _unknown("some of its floats are not finite")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        if spare and not low_bits:
            low_bits = bool((values.astype(np.int64) & spare).any())
    if levels.bits and levels.bits < 16 and highest < 2**levels.bits:
        # PNG wants samples spread over all 16 bits; low bits that are used show that these are not.
        return replace(levels, white=2**levels.bits - 1) if low_bits else levels
    if not levels.stated and 0 < highest <= levels.white // UNUSED:
        raise _unfilled(f"{highest:g} of {levels.white:g}")
    if lowest < levels.black or highest > levels.white:
        said = f"but its tags say {levels.black:g} to {levels.white:g}"
        if (levels.black, levels.white) == (0, 1):
            said = "and nothing in it says which are black and white; save it with 8 bits"
        raise _unknown(f"its values reach from {lowest:g} to {highest:g}, {said}")
    return levels


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _values(strip: Image.Image, levels: Levels) -> NDArray[np.float64]:
    array = np.asarray(strip)
    return (array if levels.stored is None else array.view(levels.stored)).astype(np.float64)


def is_rgb(image: Image.Image, levels: Levels) -> bool:
    """Whether a decoded picture needs no conversion."""
    return image.mode == "RGB" and not levels.grey and not image.has_transparency_data


def to_rgb(strip: Image.Image, levels: Levels) -> Image.Image:
    """Some pixels of a decoded picture as 8-bit RGB: deep greys scaled, transparency laid on mid grey."""
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
    values = _values(strip, levels)
    clear = None if levels.transparent is None else values == levels.transparent
    scaled = (values - levels.black) * (255 / (levels.white - levels.black))
    grey = np.clip(np.rint(255 - scaled if levels.negative else scaled), 0, 255).astype(np.uint8)
    if clear is not None:
        grey[clear] = GREY[0]
    return Image.fromarray(grey).convert("RGB")


def _from_lab(strip: Image.Image) -> Image.Image:
    """CIE L*a*b* to sRGB, by LittleCMS."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(strip, lab, srgb, outputMode="RGB")
    if made is None:
        raise ValueError("no picture from L*a*b*")
    return made
