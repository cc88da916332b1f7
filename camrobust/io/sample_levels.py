"""Which stored value of a sample is black and which is white.

Samples of 8 bits need no thought. Deeper samples, 32-bit integers and floats have a meaning only on a scale, and not
every file states one. The rules: what the file states counts (the depth of its samples, WhiteIsZero, TIFF's
SampleFormat and MinSampleValue/MaxSampleValue, a PGM's maxval, PNG's sBIT). Floats from 0 to 1 are taken as they are, a
convention of all tools. Any other image is a failure that says what the file does not state. No image is scaled by its
own content, because that would brighten some photos and not others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag

from camrobust.io.image_errors import ImageError
from camrobust.io.jpeg2000 import codestream

UNUSED = 4
"""If no sample of 16 or 32 bits exceeds a quarter of the range, the file may use fewer bits without saying so."""
STRIP_PIXELS = 2**20
LIMITS = ((Tag.SMinSampleValue, Tag.SMaxSampleValue), (Tag.MinSampleValue, Tag.MaxSampleValue))
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
"""Values of TIFF's SampleFormat."""
SHORT_GREYS = {"L;2": 85, "L;4": 17}
"""Raw modes of PNG whose samples Pillow multiplies to fill 8 bits. It does not multiply their transparent level."""


@dataclass(frozen=True)
class Levels:
    """How to read the samples of one picture.

    Attributes:
        grey: one number per pixel, on a scale; else colours or greys of at most 8 bits.
        black: the value that is black.
        white: the value that is white.
        stored: the type in the file, where Pillow returns another; or None.
        negative: black and white must be exchanged.
        stated: the file states what is white; else some value must exceed a quarter of the range.
        deep: colours of more than 8 bits, of which Pillow reads only the upper 8.
        bits: significant bits of a sample, from PNG's sBIT.
        transparent: the level that is transparent.
        opaque: the fourth channel is not alpha.
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
    """Find out how to read the samples of a picture.

    Args:
        image: opened; best not decoded yet, as Pillow forgets the raw form then.
        bits: significant bits of a sample, from PNG's sBIT.

    Raises:
        ImageError: the file does not state it, or Pillow reads such a file wrongly.
    """
    raw = raw_mode(image)
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        raise _unknown("a CMYK JPEG without Adobe's marker does not state whether 0 or 255 is full ink")
    if image.format == "TIFF":
        return _of_tiff(image)
    if image.mode == "F":
        return Levels(grey=True, white=1, stated=True)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _unknown("32-bit integers do not state which value is white; save it with 8 or 16 bits")
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
    return Levels(deep=deep, stated=not deep, bits=bits, transparent=transparent, opaque=_has_no_alpha(image))


def _has_no_alpha(image: Any) -> bool:
    """Whether a TGA file says that its fourth channel is not alpha: none of its bits are attributes."""
    if image.format != "TGA" or image.fp is None:
        return False
    where = image.fp.tell()
    image.fp.seek(17)
    attributes = int(image.fp.read(1)[0]) & 0x0F
    image.fp.seek(where)
    return attributes == 0


def _fills_16_bits(image: Any) -> bool:
    """Whether a JPEG 2000 file has samples of 16 bits, which Pillow does not scale; False once it is decoded."""
    return image.format == "JPEG2000" and image.fp is not None and codestream(image.fp).depth == 16


def raw_mode(image: Any) -> str:
    """How the file stores samples, in Pillow's words; "" once it is decoded."""
    if not getattr(image, "tile", None):
        return ""
    name, _, _, arguments = image.tile[0][:4]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if name == "SGI16" else str(first)


def _of_tiff(image: Any) -> Levels:
    tags = image.tag_v2
    depth, form = tags.get(Tag.BitsPerSample, (1,))[0], tags.get(Tag.SampleFormat, (UNSIGNED,))[0]
    plain = form == UNSIGNED
    limits = None if plain and depth <= 8 else _stated_limits(tags, scale=not plain)
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        if form == SIGNED:
            return _signed_bytes(image, limits)
        return _deep_colours(image, depth, limits)
    negative = tags.get(Tag.PhotometricInterpretation, 0) == 0  # Pillow inverts at most 8 bits itself
    if form == FLOAT:
        black, white = limits or (0, 1)
        return Levels(grey=True, black=black, white=white, negative=negative)
    if form == SIGNED:
        if limits is None:
            raise _unknown(
                "signed integers, and no SMinSampleValue and SMaxSampleValue that state which are black and white"
            )
        return Levels(grey=True, black=limits[0], white=limits[1], negative=negative)
    black, white = limits or (0, 2**depth - 1)
    stated = limits is not None or depth not in (16, 32)
    return Levels(
        grey=True, black=black, white=white, stored="u4" if depth == 32 else None, negative=negative, stated=stated
    )


def _signed_bytes(image: Any, limits: tuple[float, float] | None) -> Levels:
    if limits is None or image.mode != "L":
        raise _unknown("signed bytes, and no SMinSampleValue and SMaxSampleValue that state which are black and white")
    return Levels(grey=True, black=limits[0], white=limits[1], stored="i1", negative=False)


def _deep_colours(image: Any, depth: int, limits: tuple[float, float] | None) -> Levels:
    """Colours of 16 bits, of which Pillow reads the upper 8; colours of at most 8 bits need no care."""
    if depth <= 8:
        return Levels()
    if image.tag_v2.get(Tag.PlanarConfiguration, 1) == 2 and not image.use_load_libtiff:
        raise ImageError(
            f"colours of {depth} bits in separate planes cannot be read correctly; save it with 8 bits", "unsupported"
        )
    if limits is not None and limits != (0, 2**depth - 1):
        raise ImageError(
            f"MaxSampleValue states that {limits[1]:g} is white, but only the upper 8 bits of {depth}-bit colours are "
            "read; save it with 8 bits",
            "unsupported",
        )
    return Levels(deep=True, stated=limits is not None)


def _stated_limits(tags: Any, *, scale: bool) -> tuple[float, float] | None:
    """The black and the white level that a TIFF file states.

    TIFF 6.0 calls these tags statistics: they may hold the darkest and the brightest value of this picture alone. So
    they count as a scale only if they reach from 0 to 1, from 0 to all bits of a depth (255, 4095, ...), or over the
    whole range of a signed number.

    Args:
        tags: tags of the file.
        scale: whether the levels are unknown without a scale.

    Raises:
        ImageError: a scale is needed, and the tags are none.
    """
    for low_tag, high_tag in LIMITS:
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
    return [float(number) for number in (value if isinstance(value, tuple) else (value,))]


def _unknown(what: str) -> ImageError:
    return ImageError(f"its levels are unknown: {what}", "unknown_scale")


def checked(image: Image.Image, levels: Levels) -> Levels:
    """The levels, corrected by the values of the decoded picture.

    Raises:
        ImageError: the values contradict the levels, or leave open what is white.
    """
    if levels.grey:
        return _checked_grey(image, levels)
    if levels.deep and not levels.stated:
        highest = max(_brightest(strip) for strip in _strips(image))
        if 0 < highest < 256 // UNUSED:
            raise _unfilled(f"{highest} of 255 after 8 of its bits were dropped")
    return levels


def _brightest(strip: Image.Image) -> int:
    """The highest value of any channel but alpha."""
    extrema: Any = strip.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return max(int(high) for (_, high), name in zip(bands, strip.getbands(), strict=True) if name not in "Aa")


def _unfilled(highest: str) -> ImageError:
    return _unknown(
        f"no value is above {highest}, so perhaps not all bits are used, and the file does not state how many are; "
        "save it with 8 bits"
    )


def _checked_grey(image: Image.Image, levels: Levels) -> Levels:
    lowest, highest, low_bits = np.inf, -np.inf, False
    spare = 2 ** (16 - levels.bits) - 1 if levels.bits and levels.bits < 16 else 0
    for strip in _strips(image):
        values = stored_values(strip, levels)
        if not np.isfinite(values).all():
            raise _unknown("some of its floats are not finite")
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        if spare and not low_bits:
            low_bits = bool((values.astype(np.int64) & spare).any())
    if levels.bits and levels.bits < 16 and highest < 2**levels.bits:
        # PNG requires samples spread over all 16 bits; used low bits show that these were not spread.
        return replace(levels, white=2**levels.bits - 1) if low_bits else levels
    if not levels.stated and 0 < highest <= levels.white // UNUSED:
        raise _unfilled(f"{highest:g} of {levels.white:g}")
    if lowest < levels.black or highest > levels.white:
        reason = f"but its tags state {levels.black:g} to {levels.white:g}"
        if (levels.black, levels.white) == (0, 1):
            reason = "and nothing in it states which are black and white; save it with 8 bits"
        raise _unknown(f"its values reach from {lowest:g} to {highest:g}, {reason}")
    return levels


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def stored_values(strip: Image.Image, levels: Levels) -> NDArray[np.float64]:
    """The samples of a grey picture as the file stores them."""
    array = np.asarray(strip)
    return (array if levels.stored is None else array.view(levels.stored)).astype(np.float64)
