"""A small slice of the fuzzing of pictures: the real command, in processes that load as a run does."""

import json
from io import BytesIO

import pytest
from PIL import Image

from camrobust.bench.chaos import fuzz
from camrobust.bench.chaos.pictures import DAMAGES, damaged, seed_pictures
from camrobust.interface.cli import main
from camrobust.io import image_formats
from camrobust.io.images import decode

FORMATS = {kind for kind in image_formats.known_formats() if kind in Image.SAVE}
"""Those that can be written here; all, but for an old Pillow or without the plugin for HEIF."""


def test_damaged_pictures_become_rows(capsys):
    assert main(["bench", "fuzz", "--images", "320", "--seed", "7", "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert rows[-1]["format"] == "all"
    assert rows[-1]["images"] == 320
    assert {row["format"] for row in rows[:-1]} == FORMATS
    assert sum(row["images"] for row in rows[:-1]) == 320
    # Damage that stops nothing, or everything, would test nothing.
    assert 0.1 < rows[-1]["scored"] / 320 < 0.7
    assert {"truncated", "not_an_image", "too_large"} <= rows[-1].keys()
    assert "0 pictures ended wrongly" in captured.err


@pytest.mark.skipif(
    len(FORMATS - {"HEIF"}) < len(image_formats.FORMATS) - 1, reason="an old Pillow writes pictures that it cannot read"
)
def test_the_seeds_are_sixty_sound_pictures_in_every_format():
    pictures = seed_pictures()
    assert len(pictures) >= 60
    assert {kind for kind, _ in pictures} == FORMATS
    assert [decode(content, 64, 64).pixels.shape for _, content in pictures] == [(3, 64, 64)] * len(pictures)
    named = {"MPO": "JPEG"}
    for kind, content in pictures:
        with Image.open(BytesIO(content)) as opened:
            assert named.get(opened.format, opened.format) in {kind, "BMP" if kind == "DIB" else kind}


def test_a_number_of_a_seed_is_one_picture_and_every_damage_does_something():
    first = [damaged(3, number) for number in range(40)]
    assert first == [damaged(3, number) for number in range(40)]
    assert len({content for _, content in first}) > 35
    assert len({*DAMAGES}) == 7


def test_a_picture_that_kills_its_process_or_raises_is_named(monkeypatch):
    class Process:
        """Dies at picture 5 and raises at picture 6; a stand-in, as no picture is known that does either."""

        def __init__(self, seed):
            self.alive = True

        def do(self, numbers):
            if not self.alive or 5 in numbers:
                self.alive = False
                return None
            return {"kinds": ["exception: KeyError: 'x'" if one == 6 else "scored" for one in numbers], "peak_mib": 9.0}

        def end(self):
            """Nothing to end."""

    monkeypatch.setattr(fuzz, "_Process", Process)
    found = fuzz.fuzz(20, 3)
    assert sum(found.outcomes.values()) == 20
    assert [line.partition(" (")[0] for line in found.wrong] == ["picture 5 of seed 3", "picture 6 of seed 3"]
    assert [line.partition("): ")[2] for line in found.wrong] == ["crash", "exception: KeyError: 'x'"]
    assert not found.passed
    assert not fuzz.Fuzzed(peak_mib=1025).passed
    assert fuzz.Fuzzed(peak_mib=1000).passed
