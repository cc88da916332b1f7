"""Patterns of names: what they match, how long that takes, and how deep a folder is looked into."""

import os
import random
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import polars as pl
import pytest
from PIL import Image

from camrobust.contract.errors import UserError
from camrobust.io.manifest import list_dataset
from camrobust.io.patterns import matcher
from camrobust.run.apart import check_apart


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(path)


def names(images):
    return list_dataset("d", str(images)).images["image_id"].to_list()


def plainly(pattern, name):
    """Whether a name matches, by trying every length of every `*` and every number of folders."""
    if pattern == "**":
        return True
    if pattern.startswith("**/"):
        return plainly(pattern[3:], name) or ("/" in name and plainly(pattern, name.split("/", 1)[1]))
    if not pattern or not name:
        return (not pattern or pattern == "*") and not name
    if pattern[0] == "*":
        return plainly(pattern[1:], name) or (name[0] != "/" and plainly(pattern, name[1:]))
    return (pattern[0] == name[0] or (pattern[0] == "?" and name[0] != "/")) and plainly(pattern[1:], name[1:])


@pytest.mark.parametrize("number", range(10))
def test_a_pattern_matches_what_trying_everything_finds(number):
    dice = random.Random(number)
    for _ in range(100):
        parts = ["".join(dice.choices("ab*?", k=dice.randint(1, 4))).replace("**", "*") for _ in range(3)]
        parts = [part.replace("**", "*") for part in parts]
        pattern = "/".join(dice.choice([part, part, "**"]) for part in parts[: dice.randint(1, 3)])
        for _ in range(10):
            name = "/".join("".join(dice.choices("ab", k=dice.randint(1, 4))) for _ in range(dice.randint(1, 4)))
            assert bool(matcher(pattern).match(name)) == plainly(pattern, name), (pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**/a" * 6 + "/x.jpg", "/a/a" * 60 + "/y.png"),
        ("**/*_*_*_*_*_*.jpg", "_" * 200 + ".png"),
        ("*a" * 30 + "b", "a" * 300),
    ],
)
def test_a_pattern_takes_no_exponential_time(pattern, name):
    """The code before took minutes or longer; steps are counted by time, as nothing else shows them."""
    code = "import sys; from camrobust.io.patterns import matcher; print(matcher(sys.argv[1]).match(sys.argv[2]))"
    done = subprocess.run([sys.executable, "-c", code, pattern, name], capture_output=True, timeout=20, check=True)
    assert done.stdout == b"None\n"


def test_only_patterns_that_match_nothing_are_said(tmp_path):
    for name in ("thumbs/a.png", "b.png", ".h/c.png"):
        photo(tmp_path / name)
    listing = list_dataset("d", str(tmp_path), exclude=["thumbs", "thumbs/*.png", ".h", ".h/*.png", "x"])
    assert listing.images["image_id"].to_list() == ["b.png"]
    assert listing.remarks == ("dataset 'd': exclude 'x' matches no image",)


def test_exclude_is_of_image_ids_not_of_tables(tmp_path):
    (tmp_path / "2023").mkdir()
    pl.DataFrame({"uri": ["/x/e1"], "image_id": ["i1"]}).write_parquet(tmp_path / "2023" / "p.parquet")
    pl.DataFrame({"uri": ["/x/f1"], "image_id": ["j1"]}).write_parquet(tmp_path / "q.parquet")
    listing = list_dataset("d", str(tmp_path), exclude=["2023/**"])
    assert listing.images["image_id"].to_list() == ["i1", "j1"]
    assert listing.remarks == ("dataset 'd': exclude '2023/**' matches no image",)
    photo(tmp_path / "a.jpg")
    assert list_dataset("d", str(tmp_path), exclude=["2023/**"]).left_out == {"excluded": 1, ".parquet": 1}


def test_a_pattern_looks_no_deeper_than_it_names(tmp_path, monkeypatch):
    for name in ("a.jpg", "sub/b.jpg", "sub/secret/c.jpg"):
        photo(tmp_path / name)
    listed, real = [], os.scandir

    def scandir(path):
        listed.append(str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path / "*.jpg") == ["a.jpg"]
    assert names(tmp_path / "*/*.jpg") == ["sub/b.jpg"]
    assert f"{tmp_path}/sub" in listed
    assert f"{tmp_path}/sub/secret" not in listed
    assert names(tmp_path / "**/*.jpg") == ["a.jpg", "sub/b.jpg", "sub/secret/c.jpg"]


@pytest.mark.parametrize(
    ("images", "output", "refused"),
    [
        ("v1.json", "v1.json/out", True),
        ("photos.txt", "photos.txt/a/out", True),
        ("photos/*/*", "photos/out", True),
        ("photos/*/*.jpg", "photos/a/b/out", False),
        ("photos/*.jpg", "photos/out", False),
        ("photos/a*/*.jpg", "photos/out", False),
        ("photos/**/*.jpg", "photos/a/out", True),
        ("runs/m.csv", "runs", False),
        ("runs/m*.csv", "runs", False),
        ("runs/*.jpg", "runs", True),
    ],
)
def test_an_output_where_images_may_lie_is_refused(images, output, refused, tmp_path):
    datasets = [SimpleNamespace(name="d", images=f"{tmp_path}/{images}")]
    config = SimpleNamespace(output=f"{tmp_path}/{output}", datasets=datasets)
    with pytest.raises(UserError, match="lie inside one another; choose an") if refused else nullcontext():
        check_apart(config)
