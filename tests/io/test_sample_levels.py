"""Pictures of every depth and kind give the right mean level, or a failure that says what the file does not state."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from camrobust.io.image_errors import ImageError
from camrobust.io.images import decode
from tests.pictures import png, tiff

RAMP = np.linspace(20, 220, 200 * 150).reshape(150, 200)
"""Levels of 8 bits, not rounded; their mean is 120."""
WHITE_IS_ZERO, BLACK_IS_ZERO, COLOURS, PALETTE, INKS, LAB = 0, 1, 2, 3, 5, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def grey(array, photometric=BLACK_IS_ZERO, form=UNSIGNED, order="<", **said):
    """A TIFF file of one sample per pixel."""
    names = {"low": 280, "high": 281, "s_low": 340, "s_high": 341}
    tags = {258: ("H", array.dtype.itemsize * 8), 262: ("H", photometric), 339: ("H", form)}
    return tiff(array, tags | {names[name]: value for name, value in said.items()}, order)


def colours(array, photometric=COLOURS, extra=(), **tags):
    """A TIFF file of several samples per pixel."""
    samples, bits = array.shape[2], array.dtype.itemsize * 8
    tags = {258: ("H", *[bits] * samples), 262: ("H", photometric), 277: ("H", samples)} | {
        int(name[1:]): value for name, value in tags.items()
    }
    return tiff(array, tags | ({338: ("H", *extra)} if extra else {}))


def depth(bits, kind="u2", ramp=RAMP):
    """The ramp in a number of bits."""
    return np.rint(ramp / 255 * (2**bits - 1)).astype(kind)


def stack(*channels):
    return np.stack([np.broadcast_to(one, RAMP.shape) for one in channels], axis=2)


def packed12(values):
    pairs = values.reshape(-1, 2).astype(np.uint32)
    both = pairs[:, 0] << 12 | pairs[:, 1]
    return np.stack([both >> 16, both >> 8 & 255, both & 255], axis=1).astype(np.uint8).tobytes()


def spread(bits):
    """Samples of fewer bits spread over 16, as PNG requires."""
    values = depth(bits).astype(np.uint32)
    return (values << (16 - bits) | values >> (2 * bits - 16)).astype(">u2")


def png16(values, *before):
    return png([row.astype(">u2").tobytes() for row in values], 200, 150, 16, 0, *before)


def saved(image, kind, **settings):
    sink = BytesIO()
    image.save(sink, kind, **settings)
    return sink.getvalue()


def tga(array, attributes):
    """A TGA file of four 8-bit channels whose header states a number of attribute bits."""
    head = bytes((0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 150, 0, 32, attributes | 0x20))
    return head + array.astype("u1").tobytes()


def mean_level(content):
    return float(decode(content, 128, 128).pixels.mean())


def lab():
    """The ramp of sRGB greys as L*, without a colour."""
    light = ((RAMP / 255 + 0.055) / 1.055) ** 2.4
    return stack(np.rint((116 * np.cbrt(light) - 16) * 2.55), 0, 0).astype(np.uint8)


U1, U2, U4 = depth(8, "u1"), depth(16), depth(32, "u4", RAMP.astype(np.float64))
HALF = np.full(RAMP.shape, 128)
SIZE = {256: ("I", 200), 257: ("I", 150)}
RIGHT = {
    "tiff, 16 bits": (grey(U2), 120),
    "tiff, 16 bits, Motorola": (grey(U2, order=">"), 120),
    "tiff, 16 bits, white is zero": (grey(U2, WHITE_IS_ZERO), 135),
    "tiff, 8 bits, white is zero": (grey(U1, WHITE_IS_ZERO), 135),
    "tiff, 12 bits packed": (
        tiff(packed12(depth(12)), SIZE | {258: ("H", 12), 262: ("H", 1), 339: ("H", 1)}), 120,
    ),
    "tiff, 12 of 16 bits, by MaxSampleValue": (grey(depth(12), high=("H", 4095)), 120),
    "tiff, 10 of 16 bits, by MaxSampleValue": (grey(depth(10), high=("H", 1023), low=("H", 0)), 120),
    "tiff, 10 of 16 bits, by SMaxSampleValue, Motorola": (grey(depth(10), s_high=("H", 1023), order=">"), 120),
    "tiff, 12 of 16 bits, white is zero": (grey(depth(12), WHITE_IS_ZERO, high=("H", 4095)), 135),
    "tiff, dark, but the file says so": (grey(U2 // 16, high=("H", 65535)), 7.5),
    "tiff, 32 bits": (grey(U4), 120),
    "tiff, 16 of 32 bits, by SMaxSampleValue": (grey(U2.astype("u4"), s_high=("I", 65535)), 120),
    "tiff, signed 16 bits from zero, by its limits": (
        grey(depth(12, "i2"), form=SIGNED, s_low=("h", 0), s_high=("h", 4095)), 120,
    ),
    "tiff, all of signed 16 bits, by its limits": (
        grey((U2.astype(int) - 32768).astype("i2"), form=SIGNED, s_low=("h", -32768), s_high=("h", 32767)), 120,
    ),
    "tiff, all of signed 8 bits, by its limits": (
        grey((U1.astype(int) - 128).astype("i1"), form=SIGNED, s_low=("b", -128), s_high=("b", 127)), 120,
    ),
    "tiff, signed 32 bits, by its limits": (
        grey(depth(12, "i4"), form=SIGNED, s_low=("i", 0), s_high=("i", 4095), order=">"), 120,
    ),
    "tiff, floats 0 to 1": (grey((RAMP / 255).astype("f4"), form=FLOAT), 120),
    "tiff, floats 0 to 1, white is zero": (grey((RAMP / 255).astype("f4"), WHITE_IS_ZERO, form=FLOAT), 135),
    "tiff, floats 0 to 255, by its limits": (
        grey(RAMP.astype("f4"), form=FLOAT, s_low=("f", 0), s_high=("f", 255)), 120,
    ),
    "tiff, floats 0 to 65535, by its limits, Motorola": (
        grey((RAMP * 257).astype("f4"), form=FLOAT, s_high=("f", 65535), order=">"), 120,
    ),
    "tiff, colours of 16 bits": (colours(stack(U2, U2, U2)), 120),
    "tiff, colours of 16 bits and alpha": (colours(stack(U2, U2, U2, 0).astype("u2"), extra=(2,)), 128),
    "tiff, premultiplied alpha": (
        # Half transparent white, premultiplied: 255 and 128 mixed half and half.
        colours(stack(HALF, HALF, HALF, HALF).astype("u1"), extra=(1,)), 191.5,
    ),
    "tiff, premultiplied alpha of 16 bits": (colours(stack(*[HALF * 257] * 4).astype("u2"), extra=(1,)), 191.5),
    "tiff, grey and alpha": (colours(stack(U1, 0).astype("u1"), BLACK_IS_ZERO, extra=(2,)), 128),
    "tiff, grey and premultiplied alpha": (colours(stack(HALF, HALF).astype("u1"), BLACK_IS_ZERO, extra=(1,)), 191.5),
    "tiff, palette and alpha": (
        colours(stack(U1, 0).astype("u1"), PALETTE, extra=(2,), t320=("H", *[v * 257 for v in range(256)] * 3)), 128,
    ),
    "tiff, inks": (colours(stack(0, 0, 0, 255 - U1).astype("u1"), INKS), 120),
    "tiff, inks of 16 bits": (colours(stack(0, 0, 0, 65535 - U2).astype("u2"), INKS), 120),
    "tiff, L*a*b*": (colours(lab(), LAB), 120),
    "png, 16 bits": (png16(U2), 120),
    "png, 12 bits spread over 16, by sBIT": (png16(spread(12), (b"sBIT", b"\x0c")), 120),
    "png, 12 of 16 bits, by sBIT": (png16(depth(12), (b"sBIT", b"\x0c")), 120),
    "png, 10 of 16 bits, by sBIT": (png16(depth(10), (b"sBIT", b"\x0a")), 120),
    "png, dark 12 bits spread over 16, by sBIT": (png16(depth(12) // 16 * 16, (b"sBIT", b"\x0c")), 7),
    "png, 16 bits, one level transparent": (png16(HALF * 0 + 50000, (b"tRNS", b"\xc3\x50")), 128),
    "png, 4 bits, one level transparent": (png([b"\xff" * 100] * 150, 200, 150, 4, 0, (b"tRNS", b"\0\x0f")), 128),
    "png, 2 bits, another level transparent": (png([b"\xaa" * 50] * 150, 200, 150, 2, 0, (b"tRNS", b"\0\1")), 170),
    "png, 1 bit": (png([b"\xaa" * 25] * 150, 200, 150, 1, 0), 127.5),
    "png, colours of 16 bits": (png([row.tobytes() for row in stack(U2, U2, U2).astype(">u2")], 200, 150, 16, 2), 120),
    "png, grey of 16 bits and alpha": (
        png([row.tobytes() for row in stack(U2, 0).astype(">u2")], 200, 150, 16, 4), 128,
    ),
    "pgm, 12 of 16 bits, by maxval": (b"P5 200 150 4095\n" + depth(12).astype(">u2").tobytes(), 120),
    "pgm, dark 16 bits": (b"P5 200 150 65535\n" + (U2 // 16).astype(">u2").tobytes(), 7.5),
    "ppm, 10 bits, by maxval": (b"P6 200 150 1023\n" + stack(*[depth(10)] * 3).astype(">u2").tobytes(), 120),
    "pfm, floats 0 to 1": (b"Pf 200 150\n-1.0\n" + (RAMP / 255).astype("<f4").tobytes(), 120),
    "jpeg, inks": (saved(Image.fromarray(stack(0, 0, 0, 255 - U1).astype("u1"), "CMYK"), "JPEG", quality=95), 120),
    "jpeg 2000, 16 bits": (saved(Image.fromarray(U2), "JPEG2000"), 120),
    "tga, a fourth channel that is no alpha": (tga(stack(U1, U1, U1, 0), 0), 120),
    "tga, transparent": (tga(stack(U1, U1, U1, 0), 8), 128),
    "gif": (saved(Image.fromarray(U1), "GIF"), 120),
    "bmp, 1 bit": (saved(Image.fromarray(U1).point(lambda level: 255 * (level > 119)).convert("1"), "BMP"), 127.5),
}  # fmt: skip


if (b"II", BLACK_IS_ZERO, (UNSIGNED,), 1, (8, 8), (1,)) not in TiffImagePlugin.OPEN_INFO:
    del RIGHT["tiff, grey and premultiplied alpha"]  # older Pillow cannot read it


@pytest.mark.parametrize("name", RIGHT)
def test_the_mean_level_is_right(name):
    content, level = RIGHT[name]
    assert mean_level(content) == pytest.approx(level, abs=1.5)
    assert decode(content, 128, 128, 1).pixels.mean() * 255 == pytest.approx(level, abs=1.5)


UNFILLED = "of 65535, so perhaps not all bits are used, and the file does not state how many are; save it with 8"
UNKNOWN = {
    "float 0 to 255": (
        grey(RAMP.astype("f4"), form=FLOAT),
        "its values reach from 20 to 220, and nothing in it states which are black and white; save it with 8 bits",
    ),
    "float, its own range in its tags": (
        grey(RAMP.astype("f4"), form=FLOAT, s_low=("f", 20), s_high=("f", 220)),
        "its tags give the levels 20 to 220, which is the range of this picture, not a scale",
    ),
    "float, more than its tags say": (
        grey(RAMP.astype("f4"), form=FLOAT, s_low=("f", 0), s_high=("f", 127)),
        "its values reach from 20 to 220, but its tags state 0 to 127",
    ),
    "not finite": (grey(np.full((150, 200), np.nan, "f4"), form=FLOAT), "some of its floats are not finite"),
    "12 of 16 bits": (grey(depth(12)), f"no value is above 3533 {UNFILLED}"),
    "10 of 16 bits in a png": (png16(depth(10)), f"no value is above 883 {UNFILLED}"),
    "12 of 16 bits in colours": (
        colours(stack(*[depth(12)] * 3)),
        "no value is above 13 of 255 after 8 of its bits were dropped, so perhaps not all bits are used",
    ),
    "8 of 32 bits": (grey(U1.astype("u4")), "no value is above 220 of 4.29497e+09, so perhaps not all"),
    "signed 8 bits": (
        grey((U1.astype(int) - 128).astype("i1"), form=SIGNED),
        "signed bytes, and no SMinSampleValue and SMaxSampleValue that state which are black and white",
    ),
    "signed 16 bits": (
        grey(depth(12, "i2"), form=SIGNED),
        "signed integers, and no SMinSampleValue and SMaxSampleValue that state which are black and white",
    ),
    "signed 32 bits": (
        saved(Image.fromarray(U1).convert("I"), "TIFF"),
        "signed integers, and no SMinSampleValue and SMaxSampleValue that state which are black and white",
    ),
    "inks without Adobe's marker": (
        saved(Image.fromarray(stack(0, 0, 0, 255 - U1).astype("u1"), "CMYK"), "JPEG").replace(b"Adobe", b"Other"),
        "a CMYK JPEG without Adobe's marker does not state whether 0 or 255 is full ink",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_levels_that_no_tag_states_are_a_failure(name):
    content, sentence = UNKNOWN[name]
    with pytest.raises(ImageError) as caught:
        decode(content, 128, 128)
    assert caught.value.kind == "unknown_scale"
    assert caught.value.message.startswith(f"its levels are unknown: {sentence}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            colours(stack(*[depth(12)] * 3), t281=("H", 4095, 4095, 4095)),
            "MaxSampleValue states that 4095 is white, but only the upper 8 bits of 16-bit colours are read; save it",
        ),
        (
            tiff(np.stack([U2] * 3).reshape(450, 200), SIZE | {
                258: ("H", 16, 16, 16), 262: ("H", 2), 277: ("H", 3), 284: ("H", 2),
                273: ("I", 8, 60008, 120008), 279: ("I", 60000, 60000, 60000), 278: ("I", 150),
            }),
            "colours of 16 bits in separate planes cannot be read correctly; save it with 8 bits",
        ),
        (
            png([row.tobytes() for row in stack(U2, U2, U2).astype(">u2")], 200, 150, 16, 2, (b"tRNS", bytes(6))),
            "16-bit colours with one transparent colour are not read; save it with an alpha channel",
        ),
    ],
)  # fmt: skip
def test_files_that_pillow_reads_wrongly_are_refused(content, sentence):
    with pytest.raises(ImageError) as caught:
        decode(content, 128, 128)
    assert caught.value.kind == "unsupported"
    assert caught.value.message.startswith(sentence)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_minimum_and_maximum_tags_do_not_matter_at_8_bits(mode):
    """TIFF 6.0 calls MinSampleValue and MaxSampleValue statistics: 8 bits are taken as they are."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[280], tags[281] = 3, 251
    sink = BytesIO()
    Image.new(mode, (40, 40), 100 if mode == "L" else (100, 100, 100)).save(sink, "TIFF", tiffinfo=tags)
    assert abs(decode(sink.getvalue(), 32, 32).pixels.mean() - 100) < 1
