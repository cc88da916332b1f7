"""Runs over photos inside tars, zips and parquet: the rows of a folder, through a failing store, resumed."""

import polars as pl
import pytest
import torch

from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.interface.inputs import pixels_of
from camrobust.io.manifest import list_dataset
from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.load import Load
from tests import in_process
from tests.packs import in_shards, samples, table_of, tar_of, zip_of
from tests.photos import write_photos
from tests.runs import SMALL, config, failures, scores

QUICK = {**SMALL, "cams": ["gradcam"], "perturbations": ["gaussian_noise:1", "contrast:5"], "gallery_images": 1}


@pytest.fixture(autouse=True)
def only_rows(monkeypatch):
    """No summaries and no page: the score rows are compared."""
    for step in ("aggregate", "report"):
        monkeypatch.setattr(f"camrobust.run.workflow.{step}", lambda folder, number: None)


@pytest.fixture
def photos(tmp_path):
    """Four photos in a folder, and their contents and labels by name."""
    write_photos(tmp_path / "photos", 4)
    found = {path.name: path.read_bytes() for path in sorted((tmp_path / "photos").iterdir())}
    return found, {name: number % 2 for number, name in enumerate(found)}


def forms(folder, contents, labels):
    """Eight addresses of the same photos beside their folder."""
    for name in ("tables", "web", "zips"):
        (folder / name).mkdir()
    for number, some in enumerate(in_shards(contents, 2)):
        table_of(folder / "tables" / f"train-{number:05}-of-00002.parquet", some, labels)
        tar_of(folder / "web" / f"set-{number:03}.tar", samples(some, labels))
        zip_of(folder / "zips" / f"{number}.zip", samples(some, labels))
    (folder / "tables" / "_SUCCESS").write_bytes(b"")
    tar_of(folder / "whole.tar", samples(contents, labels))
    lines = [f"photos/{name},{name},{labels[name]}" for name in contents]
    (folder / "list.csv").write_text("\n".join(["uri,image_id,label", *lines, ""]))
    return {
        "glob": "photos/*.jpg", "csv": "list.csv", "parquet": "tables", "web": "web/set-{000..001}.tar",
        "tar": "whole.tar", "zip": "zips/*.zip",
    }  # fmt: skip


def measured(folder, images, labels=None, **changes):
    folder.mkdir()
    data = {"name": "d", "images": str(images)} | ({"labels": str(labels)} if labels else {})
    outcome = in_process.run(config(folder, images, datasets=[data], **QUICK | changes))
    assert outcome.exit_code == 0
    return scores(folder / "out")


def test_one_set_of_photos_in_many_forms_gives_the_same_rows(photos, tmp_path):
    contents, labels = photos
    table = "\n".join(["image_id,label", *(f"{name},{label}" for name, label in labels.items()), ""])
    (tmp_path / "labels.csv").write_text(table)
    right = measured(tmp_path / "run", tmp_path / "photos", tmp_path / "labels.csv")
    assert right["label"].null_count() == 0
    for name, images in forms(tmp_path, contents, labels).items():
        inside = name not in ("glob", "csv")
        found = measured(tmp_path / f"run-{name}", tmp_path / images, None if inside else tmp_path / "labels.csv")
        assert found.equals(right), name
    # A list of images that a program wrote as parquet.
    pictures = open_run(str(tmp_path / "run" / "out")).manifest().select("uri", "image_id", "label")
    pictures.write_parquet(tmp_path / "list.parquet")
    assert measured(tmp_path / "run-list", tmp_path / "list.parquet").equals(right)


@pytest.mark.s3
def test_a_prefix_gives_the_same_rows(photos, tmp_path, bucket):
    contents, labels = photos
    right = measured(tmp_path / "run", tmp_path / "photos")
    for name, content in contents.items():
        open_store(f"s3://{bucket}/photos").write(name, content)
    forms(tmp_path, contents, labels)
    for path in (*(tmp_path / "web").iterdir(), *(tmp_path / "tables").iterdir()):
        open_store(f"s3://{bucket}/{path.parent.name}").write(path.name, path.read_bytes())
    assert measured(tmp_path / "far", f"s3://{bucket}/photos").equals(right)
    for name, images in (("web", "web/set-{000..001}.tar"), ("tables", "tables")):
        found = measured(tmp_path / f"far-{name}", f"s3://{bucket}/{images}")
        assert found.drop("label").equals(right.drop("label"))


def test_a_damaged_photo_in_an_archive_is_a_failure_and_the_rest_is_measured(photos, tmp_path):
    contents, labels = photos
    second = sorted(contents)[1]
    contents[second] = b"no picture"
    tar_of(tmp_path / "x.tar", samples(contents, labels))
    path = config(tmp_path, tmp_path / "x.tar", **QUICK)
    assert in_process.run(path).exit_code == 1
    failed = failures(tmp_path / "out")
    assert failed.select("image_id", "stage", "kind").rows() == [(second, "load", "not_an_image")]
    # The places come from the run folder: the archive is not listed again.
    tar_of(tmp_path / "x.tar", [])
    assert in_process.run(path, retry_failures=True).exit_code == 1
    assert failures(tmp_path / "out").select("image_id", "kind").rows() == [(second, "truncated")]
    (tmp_path / "x.tar").unlink()
    assert in_process.run(path, retry_failures=True).exit_code == 1
    assert failures(tmp_path / "out").select("image_id", "kind").rows() == [(second, "missing")]
    assert scores(tmp_path / "out")["image_id"].n_unique() == 3


def test_pictures_that_are_not_read_are_failures(photos, tmp_path, monkeypatch):
    contents, labels = photos
    tar_of(tmp_path / "x.tar", samples(contents, labels))
    found = load_config(str(config(tmp_path, tmp_path / "x.tar", **QUICK)))
    listed = list_dataset("made up", str(tmp_path / "x.tar")).images
    odd = listed.with_columns(place=pl.Series(["rar 0+5", *listed["place"][1:]]), parts=pl.Series([[0]] * 4))
    largest = max(len(content) for content in contents.values())
    monkeypatch.setattr("camrobust.run.stages.load.MOST_BYTES", largest + 511)
    monkeypatch.setattr("camrobust.io.readings.READING_BYTES", 1)
    loaded = Load(found)(pending_batch(odd))
    large = [name for name, content in contents.items() if len(content) == largest]
    said = dict(zip(loaded["image_id"].to_pylist(), loaded["kind"].to_pylist(), strict=True))
    first = sorted(contents)[0]
    assert said == dict.fromkeys(contents) | dict.fromkeys(large, "too_large") | {first: "unsupported"}


def test_python_functions_read_archives_too(photos, tmp_path):
    tar_of(tmp_path / "x.tar", samples(*photos))
    table_of(tmp_path / "x.parquet", *photos)
    names, pixels = pixels_of(str(tmp_path / "photos"), 72, 64)
    for name in ("x.tar", "x.parquet"):
        found = pixels_of(tmp_path / name, 72, 64)
        assert found[0] == names
        assert torch.equal(found[1], pixels)


def test_a_bad_photo_in_an_archive_is_named(tmp_path):
    tar_of(tmp_path / "x.tar", [("a/1.jpg", b"\xff\xd8\xff")])
    with pytest.raises(UserError, match=rf"^images: 'a/1\.jpg in {tmp_path}/x\.tar' cannot be used: "):
        pixels_of(tmp_path / "x.tar", 72, 64)
    with pytest.raises(UserError, match=r"^images: crop must be from 8 px to resize \(8 px\), got 64; give both$"):
        pixels_of(tmp_path / "x.tar", 8, 64)
