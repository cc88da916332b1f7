"""Small pictures in every supported format, and ways to damage them, for `camrobust bench fuzz`."""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from camrobust.io.image_formats import known_formats
from camrobust.io.png import SIGNATURE as PNG_SIGNATURE
from camrobust.io.png import png_chunks

WIDTH, HEIGHT = 136, 104
HUGE = (0, 1, 255, 13_377, 16_383, 30_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1)
"""Image sizes to write into a header."""
HEADER_BYTES = 96
SEEDS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "AVIF": (("RGB", {"speed": 10}), ("RGBA", {"speed": 10}), ("L", {"speed": 10}),
             ("RGB", {"speed": 10, "save_all": True})),
    "BMP": (("RGB", {}), ("L", {}), ("P", {}), ("1", {}), ("RGBA", {})),
    "DDS": (("RGB", {}), ("RGBA", {}), ("L", {}), ("RGB", {"pixel_format": "DXT1"}),
            ("RGBA", {"pixel_format": "DXT5"})),
    "DIB": (("RGB", {}),),
    "GIF": (("P", {}), ("L", {}), ("P", {"transparency": 3}), ("RGB", {"save_all": True})),
    "HEIF": (("RGB", {}), ("RGBA", {}), ("L", {}), ("RGB", {"tile_size": 64}), ("RGB", {"save_all": True})),
    "JPEG": (("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("L", {}), ("CMYK", {}),
             ("RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"})),
    "JPEG2000": (("RGB", {}), ("RGBA", {}), ("L", {}), ("I;16", {}), ("RGB", {"tile_size": (64, 64)}),
                 ("RGB", {"no_jp2": True})),
    "PCX": (("RGB", {}), ("L", {}), ("P", {}), ("1", {})),
    "PNG": (("RGB", {}), ("RGBA", {}), ("L", {}), ("LA", {}), ("P", {"transparency": 3}), ("I;16", {}), ("1", {}),
            ("RGB", {"save_all": True}), ("RGB", {"icc_profile": b"profile" * 30})),
    "PPM": (("RGB", {}), ("L", {}), ("1", {}), ("F", {}), ("I;16", {})),
    "QOI": (("RGB", {}), ("RGBA", {})),
    "SGI": (("RGB", {}), ("RGBA", {}), ("L", {})),
    "TGA": (("RGB", {}), ("RGBA", {}), ("L", {}), ("RGB", {"compression": "tga_rle"}), ("P", {})),
    "TIFF": (("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"}), ("I;16", {}),
             ("RGB", {"compression": "tiff_adobe_deflate", "tiffinfo": {274: 6}}), ("F", {}), ("CMYK", {}), ("LA", {}),
             ("1", {"compression": "group4"}), ("LAB", {}), ("YCbCr", {}), ("RGB", {"compression": "zstd"})),
    "WEBP": (("RGB", {}), ("RGBA", {}), ("RGB", {"lossless": True}), ("RGB", {"save_all": True})),
}  # fmt: skip
"""For each format, modes of pictures and Pillow's settings to save them with."""


@cache
def seed_pictures() -> tuple[tuple[str, bytes], ...]:
    """Formats and contents of undamaged pictures, always the same; without formats that cannot be written here."""
    known_formats()
    pictures = []
    for kind, variants in SEEDS.items():
        for mode, settings in variants:
            with suppress(KeyError, OSError):
                pictures.append((kind, _saved(kind, mode, settings)))
    return tuple(pictures)


def _saved(kind: str, mode: str, settings: dict[str, Any]) -> bytes:
    dice = np.random.default_rng(0)
    coarse = Image.fromarray(dice.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    photo = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    if settings.get("save_all"):
        settings = settings | {"append_images": [photo.rotate(180)]}
    sink = BytesIO()
    _in_mode(photo, mode).save(sink, kind, **settings)
    return sink.getvalue()


def _in_mode(photo: Image.Image, mode: str) -> Image.Image:
    grey = np.asarray(photo.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    if mode == "LAB":
        return Image.merge("LAB", [photo.convert("L")] * 3)
    if mode in ("RGBA", "LA"):
        photo.putalpha(photo.convert("L"))
    return photo.convert(mode)


def damaged(seed: int, number: int) -> tuple[str, bytes]:
    """Damaged picture of this number and seed: the original format, and the bytes."""
    dice = Random(f"{seed}/{number}")
    kind, content = dice.choice(seed_pictures())
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        content = dice.choice(DAMAGES)(content, dice)
    if content.startswith(PNG_SIGNATURE) and dice.random() < 0.7:
        content = _with_sums(content)
    return kind, content


def _flipped(content: bytes, dice: Random) -> bytes:
    """Flip some bits, anywhere or in the header."""
    changed = bytearray(content)
    reach = len(changed) if dice.random() < 0.5 else min(len(changed), HEADER_BYTES)
    for _ in range(dice.choice((1, 2, 4, 16, 64)) if reach else 0):
        changed[dice.randrange(reach)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _cut(content: bytes, dice: Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _spliced(content: bytes, dice: Random) -> bytes:
    """Replace the beginning with that of another picture."""
    _, other = dice.choice(seed_pictures())
    place = dice.choice((4, 12, 16, 32, 64, dice.randrange(1, 400)))
    return other[:place] + content[place:]


def _swapped(content: bytes, dice: Random) -> bytes:
    """Exchange pieces: whole chunks of a PNG, any two pieces of another format."""
    if content.startswith(PNG_SIGNATURE):
        pieces = [content[start:end] for _, start, end in png_chunks(content)]
        dice.shuffle(pieces)
        return PNG_SIGNATURE + b"".join(pieces)
    first, second, third = sorted(dice.randrange(len(content) + 1) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def _huge(content: bytes, dice: Random) -> bytes:
    """Write another size, in place of the true one or anywhere in the header."""
    order = dice.choice("<>")
    code = dice.choice("HI")
    value = dice.choice(HUGE) & (0xFFFF if code == "H" else 0xFFFFFFFF)
    new = struct.pack(order + code, value)
    for true in dice.sample((WIDTH, HEIGHT, WIDTH - 1, HEIGHT - 1), 4):
        place = content[:1024].find(struct.pack(order + code, true))
        if place >= 0:
            return content[:place] + new + content[place + len(new) :]
    place = dice.randrange(HEADER_BYTES)
    return content[:place] + new + content[place + len(new) :]


def _repeated(content: bytes, dice: Random) -> bytes:
    start = dice.randrange(len(content) + 1)
    piece = content[start : start + dice.choice((1, 8, 100, 1000))]
    return content[:start] + piece * dice.choice((2, 3, 50)) + content[start:]


def _blank(content: bytes, dice: Random) -> bytes:
    start, length = dice.randrange(len(content) + 1), dice.choice((1, 4, 16, 256))
    return content[:start] + dice.choice((b"\0", b"\xff")) * length + content[start + length :]


def _with_sums(content: bytes) -> bytes:
    """A PNG with correct checksums, so that a decoder does not stop at them."""
    pieces = [PNG_SIGNATURE]
    for kind, start, end in png_chunks(content):
        body = content[start + 8 : end - 4]
        pieces.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(pieces)


DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flipped, _flipped, _cut, _spliced, _swapped, _huge, _huge, _repeated, _blank,
)  # fmt: skip
