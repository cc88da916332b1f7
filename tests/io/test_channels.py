"""Files decoded to one channel that keeps its depth, and to other than three channels."""

import io
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from camrobust.io.image_characteristics import characteristics
from camrobust.io.image_errors import ImageError
from camrobust.io.images import decode, prepare
from camrobust.io.manifest import list_images

SIDE = 48
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (4, SIDE, SIDE), dtype=np.uint16)
BYTES = RNG.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def pages(planes, **options):
    first, *others = map(Image.fromarray, planes)
    return encoded(first, "TIFF", save_all=True, append_images=others, **options)


def array(values, **options):
    sink = io.BytesIO()
    np.save(sink, values, **options)
    return sink.getvalue()


def deep(photo):
    """The pixels as whole levels of 65,535; they are nothing else."""
    assert photo.pixels.dtype == np.float32
    levels = np.rint(photo.pixels * 65535)
    np.testing.assert_array_equal(levels.astype(np.float32) / np.float32(65535), photo.pixels)
    return levels.astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_grey_keeps_its_levels(kind):
    content = encoded(Image.fromarray(DEEP[0]), kind)
    np.testing.assert_array_equal(deep(decode(content, SIDE, SIDE, 1))[0], DEEP[0])
    np.testing.assert_array_equal(deep(prepare(Image.open(io.BytesIO(content)), SIDE, SIDE, 1))[0], DEEP[0])
    as_photo = decode(content, SIDE, SIDE).pixels
    np.testing.assert_array_equal(as_photo[0], np.rint(DEEP[0] / 257).astype(np.uint8))


def test_a_16_bit_grey_is_resized_without_losing_depth():
    smooth = np.add.outer(np.arange(0, 60000, 500), np.arange(0, 5000, 50)).astype(np.uint16)
    smooth[40:60, 30:70] = 777
    found = deep(decode(encoded(Image.fromarray(smooth)), 64, 64, 1))[0]
    wanted = interpolate(
        torch.from_numpy(smooth.astype(np.float64))[None, None], (76, 64), mode="bilinear", antialias=True
    )[0, 0, 6:70]
    assert np.abs(found - wanted.numpy()).max() < 1
    assert len(np.unique(found // 257)) < len(np.unique(found)) / 4


GREYS = {
    "png": encoded(Image.fromarray(BYTES[..., 0])),
    "png, transparent": encoded(Image.fromarray(BYTES[..., :2])),
    "png, one transparent level": encoded(Image.fromarray(BYTES[..., 0] // 16 * 16), transparency=32),
    "png, one bit": encoded(Image.fromarray(BYTES[..., 0] > 128)),
    "jpeg": encoded(Image.fromarray(BYTES[..., 0]), "JPEG"),
    "jpeg on its side": encoded(Image.fromarray(BYTES[:40, :, 0]), "JPEG", exif=struct.pack(
        "<6s2sHIHHHIHHI", b"Exif\0\0", b"II", 42, 8, 1, 274, 3, 1, 6, 0, 0)),
    "tiff, white is zero": encoded(Image.fromarray(BYTES[..., 0]), "TIFF", tiffinfo={262: 0}),
    "grey stored as colours": encoded(Image.fromarray(BYTES[..., :1].repeat(3, axis=2))),
    "palette of greys": encoded(Image.fromarray(BYTES[..., 0]).convert("P")),
}  # fmt: skip


@pytest.mark.parametrize("name", GREYS)
def test_a_grey_of_8_bits_is_a_channel_of_its_photo(name):
    for resize in (SIDE, 40):
        photo, one = (decode(GREYS[name], resize, 32, channels) for channels in (3, 1))
        np.testing.assert_array_equal(one.pixels[0], photo.pixels[0] / np.float32(255))
        assert (one.width, one.height) == (photo.width, photo.height)


def test_a_16_bit_grey_with_a_transparent_level_shows_mid_grey():
    content = encoded(Image.fromarray(DEEP[0]), transparency=int(DEEP[0, 3, 5]))
    found = deep(decode(content, SIDE, SIDE, 1))[0]
    assert found[3, 5] == 128 * 257
    different = DEEP[0] != DEEP[0, 3, 5]
    np.testing.assert_array_equal(found[different], DEEP[0][different])


def test_colours_become_their_luma():
    found = decode(encoded(Image.fromarray(BYTES[..., :3])), SIDE, SIDE, 1).pixels[0] * 255
    wanted = BYTES[..., :3].astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(found - wanted).max() <= 0.51


def test_pages_of_a_tiff_file_are_channels():
    np.testing.assert_array_equal(deep(decode(pages(DEEP), SIDE, SIDE, 4)), DEEP)
    np.testing.assert_array_equal(deep(decode(pages(DEEP[:2], compression="tiff_lzw"), SIDE, SIDE, 2)), DEEP[:2])
    floats = [np.float32(plane / 65535) for plane in DEEP]
    np.testing.assert_array_equal(deep(decode(pages(floats), SIDE, SIDE, 4)), DEEP)
    mixed = decode(pages([DEEP[0], BYTES[..., 0], floats[1]]), SIDE, SIDE, 3)
    assert mixed.pixels.dtype == np.uint8  # three channels are a photo, so its first page
    dark = DEEP.copy()
    dark[2] //= 16
    np.testing.assert_array_equal(deep(decode(pages(dark), SIDE, SIDE, 4)), dark)


def test_transparency_is_the_last_channel():
    four, two = decode(encoded(Image.fromarray(BYTES)), SIDE, SIDE, 4), Image.fromarray(BYTES[..., :2])
    np.testing.assert_array_equal(four.pixels, BYTES.transpose(2, 0, 1) / np.float32(255))
    np.testing.assert_array_equal(
        prepare(two, SIDE, SIDE, 2).pixels, BYTES[..., :2].transpose(2, 0, 1) / np.float32(255)
    )


@pytest.mark.parametrize(
    "values", [DEEP, np.asfortranarray(DEEP), DEEP.astype(">u2"), (DEEP / 65535).astype("f4"), DEEP / 65535],
    ids=["uint16", "by columns", "Motorola", "float32", "float64"],
)  # fmt: skip
def test_an_array_is_read_as_it_is(values):
    np.testing.assert_array_equal(deep(decode(array(values), SIDE, SIDE, 4)), DEEP)
    assert decode(array(values), 32, 24, 4).pixels.shape == (4, 24, 24)


def test_an_array_of_bytes():
    found = decode(array(BYTES.transpose(2, 0, 1)[:1]), SIDE, SIDE, 1).pixels
    np.testing.assert_array_equal(found[0], BYTES[..., 0] / np.float32(255))
    assert found.dtype == np.float32


class Thing:
    def __reduce__(self):
        return print, ("unpickled",)


def header(shape, kind="|u1"):
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


REFUSED = {
    "objects": (
        array(np.array([[[Thing()]]]), allow_pickle=True),
        1,
        "unsupported",
        r"an image of 1 channel must be a grey picture or .*, but this array is \(1, 1, 1\) object",
    ),
    "pickle": (pickle.dumps(Thing()), 4, "not_an_image", "not an image"),
    "channels last": (array(BYTES), 4, "unsupported", r"a .npy array \(4, H, W\), but this array is \(48, 48, 4\)"),
    "integers": (array(DEEP.astype("i4")), 4, "unsupported", "int32"),
    "cut off": (array(DEEP)[:-1], 4, "truncated", "more or fewer bytes than its header says"),
    "huge": (header((4, 10**9, 10**9)), 4, "truncated", "more or fewer bytes than its header says"),
    "no size": (header((4, 0, 5)), 4, "unsupported", r"\(4, 0, 5\) uint8"),
    "a header that is code": (header("__import__('os').abort()"), 4, "truncated", "damaged"),
    "version 9": (b"\x93NUMPY\x09\x00" + bytes(200), 4, "unsupported", "version"),
    "floats beyond 1": (array(DEEP / 100), 4, "unknown_scale", "its values reach from 0"),
    "not finite": (array(np.full((2, 9, 9), np.nan)), 2, "unknown_scale", "not finite"),
    "12 of 16 bits": (array(DEEP // 16), 4, "unknown_scale", "no value is above 4093 of 65535"),
    "dark pages": (pages(DEEP // 16), 4, "unknown_scale", "no value is above 4093 of 65535"),
    "three pages": (pages(DEEP[:3]), 4, "unsupported", "a TIFF file of 4 grey pages, .* but this TIFF file has 3"),
    "four pages": (pages(DEEP), 2, "unsupported", "this TIFF file has more"),
    "pages of two sizes": (pages([DEEP[0], DEEP[1, :30]]), 2, "unsupported", "its pages have different sizes"),
    "a page of colours": (pages([DEEP[0], BYTES[..., :3]]), 2, "unsupported", "page 2 is of mode RGB"),
    "a photo": (encoded(Image.fromarray(BYTES[..., :3])), 4, "unsupported", "but this is a picture of mode RGB"),
    "CMYK": (encoded(Image.fromarray(BYTES[..., :3]).convert("CMYK"), "JPEG"), 4, "unsupported", "mode CMYK"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_says_why(name, capsys):
    content, channels, kind, words = REFUSED[name]
    with pytest.raises(ImageError, match=words) as caught:
        decode(content, 24, 24, channels)
    assert caught.value.kind == kind
    assert capsys.readouterr().out == ""


def test_an_array_is_no_photo():
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        decode(array(BYTES.transpose(2, 0, 1)[:3]), 24, 24)


def test_arrays_are_listed_where_they_can_be_images(tmp_path):
    (tmp_path / "a.npy").write_bytes(array(DEEP))
    (tmp_path / "b.tif").write_bytes(pages(DEEP))
    assert list_images("d", str(tmp_path), arrays=True)["image_id"].to_list() == ["a.npy", "b.tif"]
    assert list_images("d", str(tmp_path))["image_id"].to_list() == ["b.tif"]


def test_characteristics_of_other_channels():
    """One channel has those of its grey photo, but no colourfulness; others those of their mean."""
    grey = BYTES[None, ..., 0]
    photo, one = characteristics(grey.repeat(3, axis=0)), characteristics(grey / np.float32(255))
    assert photo.pop("colourfulness") == 0
    assert one.pop("colourfulness") is None
    assert one == pytest.approx(photo, abs=1e-3)  # a gradient may lie at the threshold of an edge
    four = (BYTES / np.float32(255)).transpose(2, 0, 1)
    assert characteristics(four)["brightness"] == pytest.approx(four.mean(), abs=1e-6)
    assert characteristics(four)["colourfulness"] is None
