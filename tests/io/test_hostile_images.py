"""Files from strangers: whatever a decoder does with them, one image fails and says why."""

import os
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from camrobust.contract.errors import UserError
from camrobust.interface.inputs import photo, pixels_of
from camrobust.io import decoding_memory, image_formats, images
from camrobust.io.image_errors import ImageError
from camrobust.io.images import decode, prepare
from tests.io.test_sample_levels import FLOAT, RAMP, grey
from tests.pictures import chunk, tiff

AVIF = "AVIF" in Image.registered_extensions().values()
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8))


def saved(image, kind, **settings):
    sink = BytesIO()
    image.save(sink, kind, **settings)
    return sink.getvalue()


def flipped_avif():
    content = bytearray(saved(PHOTO, "AVIF"))
    for place in range(272, 276):
        content[place] ^= 0xFF
    return bytes(content)


def odd_dds():
    return b"DDS " + struct.pack("<I", 124) + b"\0" * 120


def short_jpeg2000():
    return b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 "


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        pytest.param(flipped_avif, "truncated", "truncated or damaged: Failed to decode frame 0",
                     marks=pytest.mark.skipif(not AVIF, reason="Pillow without AVIF")),
        (odd_dds, "unsupported", "a kind of image that Pillow does not read: Unknown pixel format flags 0"),
        (short_jpeg2000, "truncated", "truncated or damaged: Expected to read 8 bytes but only got 0."),
    ],
)  # fmt: skip
def test_what_a_decoder_raises_is_a_failure_of_that_image(content, kind, sentence):
    with pytest.raises(ImageError) as caught:
        decode(content(), 128, 128)
    assert caught.value.kind == kind
    assert caught.value.message.startswith(sentence)


def without_last_tile():
    """A JPEG 2000 file of six tiles, cut where the sixth begins."""
    content = saved(PHOTO, "JPEG2000", tile_size=(80, 80), no_jp2=True)
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"\xff\x90\0\x0a"]
    assert len(starts) == 6
    return content[: starts[5]] + b"\xff\xd9"


def without_last_strip():
    """A TIFF file of 150 rows with 100 of them."""
    tags = {256: ("I", 200), 257: ("I", 150), 258: ("H", 8), 262: ("H", 1), 278: ("I", 50)}
    return tiff(bytes(20_000), tags | {273: ("I", 8, 10_008), 279: ("I", 10_000, 10_000)})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (without_last_tile, "truncated or damaged: 1 of its tiles are missing"),
        (without_last_strip, "truncated or damaged: some of its strips are missing"),
    ],
)
def test_what_pillow_would_fill_with_black_is_truncated(content, sentence):
    with Image.open(BytesIO(content())) as opened:
        assert opened.convert("RGB").getpixel((199, 149)) == (0, 0, 0), "or this test shows nothing"
    with pytest.raises(ImageError) as caught:
        decode(content(), 128, 128)
    assert (caught.value.kind, caught.value.message) == ("truncated", sentence)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("odd"), "truncated"), (ZeroDivisionError("odd"), "truncated"), (struct.error("odd"), "truncated"),
        (RecursionError("odd"), "truncated"), (SystemError("odd"), "truncated"), (KeyError("odd"), "truncated"),
        (NotImplementedError("odd"), "unsupported"), (MemoryError(), "too_large"),
    ],
)  # fmt: skip
def test_every_exception_of_a_decoder_has_a_kind(error, kind):
    class Odd(Image.Image):
        def load(self):
            raise error

    odd = Odd()
    odd._mode, odd._size = "RGB", (200, 150)
    with pytest.raises(ImageError) as caught:
        prepare(odd, 128, 128)
    assert caught.value.kind == kind


def test_postscript_under_another_name_starts_no_program(tmp_path):
    """Pillow would call gs, here a script that leaves a trace."""
    trace = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {trace}\n")
    (tmp_path / "gs").chmod(0o755)
    eps = tmp_path / "photo.jpg"
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EndProlog\nshowpage\n%%EOF\n")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    code = f"from PIL import Image; Image.open({str(eps)!r}).load()"
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert trace.exists(), "Pillow alone starts it, or this test shows nothing"
    trace.unlink()
    code = (
        "from pathlib import Path\nfrom camrobust.io.images import decode\n"
        "from camrobust.io.image_errors import ImageError\n"
        f"try: decode(Path({str(eps)!r}).read_bytes(), 64, 64)\nexcept ImageError as error: print(error.kind)"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "not_an_image"
    assert not trace.exists()


def with_texts():
    texts = PngImagePlugin.PngInfo()
    for number in range(80):
        texts.add_text(f"key{number}", "x" * 1_000_000, zip=True)
    return texts


@pytest.mark.parametrize(
    "settings",
    [
        {"icc_profile": os.urandom(1_200_000)},
        {"pnginfo": with_texts()},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + b"\0" * 3_000_000},
    ],
    ids=["profile", "texts", "exif"],
)
def test_remarks_beside_whole_pixels_do_not_matter(settings):
    plain, remarked = decode(saved(PHOTO, "PNG"), 128, 128), decode(saved(PHOTO, "PNG", **settings), 128, 128)
    np.testing.assert_array_equal(plain.pixels, remarked.pixels)


def test_a_bomb_among_the_texts_is_not_unpacked_and_damaged_pixels_stay_damaged():
    whole = saved(PHOTO, "PNG")
    bomb = saved(PHOTO, "PNG", icc_profile=b"\0" * 200_000_000)
    assert len(bomb) < 500_000
    np.testing.assert_array_equal(decode(bomb, 128, 128).pixels, decode(whole, 128, 128).pixels)
    text = chunk(b"tEXt", b"key\0text")
    for damaged in (whole[:33] + text + whole[33:-2000], bomb[:-2000]):
        with pytest.raises(ImageError) as caught:
            decode(damaged, 128, 128)
        assert caught.value.kind == "truncated"


def test_a_large_picture_is_reduced_only_as_much_as_the_budget_asks(monkeypatch):
    smooth = PHOTO.resize((40, 30)).resize((2000, 1500), Image.Resampling.BICUBIC)
    for kind, settings in (("JPEG", {"quality": 95}), ("JPEG2000", {})):
        content = saved(smooth, kind, **settings)
        exact = decode(content, 256, 224)
        with image_formats.open_picture(content) as opened:
            need = len(content) + decoding_memory.decoding_bytes(opened, len(content))
        monkeypatch.setattr(decoding_memory, "BUDGET_BYTES", need)
        np.testing.assert_array_equal(decode(content, 256, 224).pixels, exact.pixels)
        monkeypatch.setattr(decoding_memory, "BUDGET_BYTES", need - 1)
        reduced = decode(content, 256, 224)
        assert (reduced.width, reduced.height) == (2000, 1500)
        difference = np.abs(reduced.pixels.astype(int) - exact.pixels)
        assert difference.max() > 0
        assert difference.mean() < 2
        with pytest.raises(
            ImageError, match=r"2000 x 1500 px as JPEG.* would take .* MiB to decode, more than .*; make it"
        ):
            decode(content, 1000, 224)
        monkeypatch.undo()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(300, 260), (260, 300), (700, 260)])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK"])
def test_strips_give_the_same_bits_as_the_whole(monkeypatch, mode, size, orientation):
    """A large picture is turned, converted and resized in strips; here strips of a few rows, and all at once."""
    image = PHOTO.resize(size).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(image, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    whole = decode(content, 256, 224)
    upright = size[::-1] if orientation > 4 else size
    monkeypatch.setattr(images, "STRIP_PIXELS", 5000)
    monkeypatch.setattr(images, "WHOLE_PIXELS", 1)
    strips = decode(content, 256, 224)
    assert (whole.width, whole.height) == (strips.width, strips.height) == upright
    # Pillow resizes what is more than twice as high as wide along its columns first.
    most = 1 if upright[1] > 2 * upright[0] else 0
    assert np.abs(whole.pixels.astype(int) - strips.pixels).max() <= most


def test_callers_in_process_get_the_same_sentence(tmp_path):
    file = tmp_path / "float.tif"
    file.write_bytes(grey(RAMP.astype("f4"), form=FLOAT))
    said = (
        "cannot be used: its levels are unknown: its values reach from 20 to 220, and nothing in it states which are "
        "black and white; save it with 8 bits"
    )
    with pytest.raises(UserError) as caught:
        photo(file, "explain", 64, 64)
    assert str(caught.value) == f"explain: '{file}' {said}"
    with pytest.raises(UserError) as caught:
        pixels_of([Image.open(file)], 64, 64)
    assert str(caught.value) == f"images: the picture {said}"
    eps = tmp_path / "photo.eps"
    PHOTO.save(eps)
    with Image.open(eps) as opened, pytest.raises(UserError, match="EPS is not among the formats that are read: AVIF"):
        pixels_of([opened], 64, 64)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", *["AVIF"] * AVIF, "JPEG2000", "GIF", "BMP"])
def test_a_picture_that_is_decoded_already_is_read_as_its_file(kind):
    content = saved(PHOTO, kind)
    with Image.open(BytesIO(content)) as opened:
        first, second = (prepare(opened, 128, 128).pixels for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, decode(content, 128, 128).pixels)


def test_a_picture_of_the_callers_is_left_as_it_was(tmp_path):
    path = tmp_path / "photo.jpg"
    PHOTO.resize((2000, 1500)).save(path)
    with Image.open(path) as opened:
        pixels_of([opened], 64, 64)
        assert opened.size == (2000, 1500)


@pytest.mark.skipif(not AVIF, reason="Pillow without AVIF")
def test_avif_decoders_start_few_threads_and_the_callers_setting_stays(monkeypatch):
    from PIL import AvifImagePlugin

    monkeypatch.setattr(AvifImagePlugin, "DEFAULT_MAX_THREADS", 64)
    made = []
    decoder = AvifImagePlugin._avif.AvifDecoder

    class Library:
        """The real library; notes how many threads are asked for."""

        def __getattr__(self, name):
            return getattr(real, name)

        def AvifDecoder(self, content, codec, threads):  # noqa: N802
            made.append(threads)
            return decoder(content, codec, threads)

    real = AvifImagePlugin._avif
    monkeypatch.setattr(AvifImagePlugin, "_avif", Library())
    assert decode(saved(PHOTO, "AVIF", max_threads=1), 64, 64).width == 200
    assert made == [image_formats.AVIF_THREADS]
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 64


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_above_the_ceiling_fails_the_image_alone(tmp_path):
    """In a process of its own, whose limit is lowered and given back."""
    code = f"""
import resource
from camrobust.io.memory_limit import memory_limit, private_bytes
from camrobust.io.images import decode
from camrobust.io.image_errors import ImageError
content = open({str(tmp_path / "photo.png")!r}, "rb").read()
before = resource.getrlimit(resource.RLIMIT_DATA)
try:
    with memory_limit(private_bytes() + 20 * 2**20):
        decode(content, 64, 64)
except ImageError as error:
    print(error.kind)
assert resource.getrlimit(resource.RLIMIT_DATA) == before
print(decode(content, 64, 64).width)
"""
    Image.new("RGB", (4000, 3000)).save(tmp_path / "photo.png", compress_level=1)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["too_large", "4000"], found.stderr
