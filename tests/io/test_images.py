from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from camrobust.io.image_characteristics import characteristics
from camrobust.io.image_errors import ImageError
from camrobust.io.images import decode


def encoded(image, kind="PNG", **keywords):
    sink = BytesIO()
    image.save(sink, kind, **keywords)
    return sink.getvalue()


def cropped(content):
    return decode(content, 256, 224)


def ramp(width=300, height=260):
    row = np.linspace(0, 255, width, dtype=np.uint8)
    return np.stack([np.broadcast_to(row, (height, width))] * 3, axis=2).copy()


def test_geometry_is_torchvisions_evaluation_transform():
    from torchvision.transforms import v2

    generator = np.random.default_rng(0)
    for width, height in ((300, 260), (260, 300), (641, 333), (100, 90)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        resize = v2.Compose([v2.Resize(256, v2.InterpolationMode.BILINEAR), v2.CenterCrop(224)])
        photo = cropped(encoded(image))
        np.testing.assert_array_equal(photo.pixels.transpose(1, 2, 0), np.asarray(resize(image)))
        assert (photo.width, photo.height) == (width, height)


def test_16_bit_values_are_scaled_not_clipped():
    deep = ramp()[..., 0].astype(np.uint16) * 257
    photo = cropped(encoded(Image.fromarray(deep)))
    plain = cropped(encoded(Image.fromarray(ramp())))
    assert np.abs(photo.pixels.astype(int) - plain.pixels).max() <= 1


def test_transparency_lies_on_mid_grey():
    clear = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    assert (cropped(encoded(clear)).pixels == 128).all()
    palette = Image.fromarray(ramp()).convert("P")
    palette.info["transparency"] = 0
    assert cropped(encoded(palette, transparency=0)).pixels.shape == (3, 224, 224)


def test_exif_orientation_is_applied():
    image = Image.fromarray(ramp(300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = cropped(encoded(image, "JPEG", exif=exif.tobytes(), quality=95))
    assert (photo.width, photo.height) == (200, 300)
    assert photo.pixels[0, 0].mean() < photo.pixels[0, -1].mean()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(mode):
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    image = Image.fromarray(ramp()).convert(mode)
    assert cropped(encoded(image, kind)).pixels.shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        (b"", "empty", "the file is empty"),
        (b"<html>", "not_an_image", "not an image that Pillow can read"),
        (encoded(Image.fromarray(ramp()), "JPEG")[:2000], "truncated", "truncated or damaged: "),
        (encoded(Image.new("L", (2, 3000))), "too_large", "2 x 3000 px is too narrow to be resized to 256 px"),
    ],
)
def test_what_cannot_be_used_says_why(content, kind, sentence):
    with pytest.raises(ImageError) as caught:
        cropped(content)
    assert caught.value.kind == kind
    assert caught.value.message.startswith(sentence)


def test_a_bomb_is_refused_before_it_is_unpacked():
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(ImageError) as caught:
        cropped(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    assert caught.value.kind == "too_large"


def test_characteristics_of_known_pictures():
    grey = characteristics(np.full((3, 32, 32), 51, np.uint8))
    assert grey["brightness"] == pytest.approx(0.2)
    assert [grey[name] for name in ("contrast", "colourfulness", "edge_density", "high_frequency")] == pytest.approx(
        [0] * 4
    )
    halves = np.zeros((3, 32, 32), np.uint8)
    halves[:, :, 16:] = 255
    found = characteristics(halves)
    assert found["contrast"] == pytest.approx(0.5)
    assert found["edge_density"] == pytest.approx(2 / 32)
    checks = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert characteristics(np.stack([checks] * 3))["high_frequency"] == pytest.approx(1)
    red = np.zeros((3, 8, 8), np.uint8)
    red[0] = 255
    assert characteristics(red)["colourfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))
