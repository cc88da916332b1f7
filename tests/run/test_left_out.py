"""A run says which files it leaves out, writes it down, and resumes with the images that it listed first."""

import json

import pytest

from camrobust.contract.config_file import load_config
from camrobust.interface.cli import main
from camrobust.interface.inputs import pixels_of
from camrobust.results.folder import open_run
from tests import in_process
from tests.photos import write_photos
from tests.runs import SMALL, config, scores

TINY = {**SMALL, "cams": ["gradcam"], "perturbations": ["contrast:5"]}


@pytest.fixture
def photos(tmp_path):
    """Two photos, one of them without an extension, and files of other kinds."""
    folder = tmp_path / "set"
    write_photos(folder, 2)
    (folder / "photo-001.jpg").rename(folder / "3f2a9c")
    for name in ("notes.txt", ".DS_Store", "c.PSD", "@eaDir/photo-000.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no photo")
    return folder


def test_plan_run_and_run_json_say_what_is_left_out(photos, tmp_path, capsys):
    dataset = {"name": "d", "images": str(photos), "exclude": ["**/@eaDir/**", "*.gif"]}
    path = config(tmp_path, photos, **TINY | {"datasets": [dataset]})
    sentence = "dataset 'd': 4 files left out: 1 .psd, 1 .txt, 1 excluded, 1 hidden"
    warning = "dataset 'd': exclude '*.gif' matches no image"
    assert main(["plan", str(path), "--json", "--forwards-per-s", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["left_out"]) == (2, sentence)
    assert found["warnings"].endswith(warning)
    said = []
    assert in_process.run(path, say=said.append).exit_code == 0
    assert sentence in said
    assert f"warning: {warning}" in said
    record = open_run(str(tmp_path / "out")).run()
    assert record.left_out == {"d": {".txt": 1, ".psd": 1, "excluded": 1, "hidden": 1}}
    assert record.warnings[-1] == warning
    whole = scores(tmp_path / "out")
    assert sorted(whole["image_id"].unique()) == ["3f2a9c", "photo-000.jpg"]

    # A photo that comes later is not of this run, and one that is gone is a failure of it.
    write_photos(photos / "later", 1, seed=9)
    for score in (tmp_path / "out" / "scores").rglob("*.parquet"):
        score.unlink()
    resumed = in_process.run(path)
    assert (resumed.exit_code, resumed.measured) == (0, 2)
    assert scores(tmp_path / "out").equals(whole)


def test_evaluate_and_explain_warn_of_what_a_folder_leaves_out(photos):
    (photos / "@eaDir" / "photo-000.jpg").unlink()
    with pytest.warns(UserWarning, match=r"^images: 2 files left out: 1 \.psd, 1 \.txt$"):
        names, _ = pixels_of(str(photos), 72, 64)
    assert names == ["3f2a9c", "photo-000.jpg"]


def test_exclude_belongs_to_the_settings_that_change_numbers(photos, tmp_path):
    plain = load_config(str(config(tmp_path, photos)))
    assert plain.digest() == load_config(str(config(tmp_path, photos, datasets=[
        {"name": "made up", "images": str(photos), "exclude": []}]))).digest()  # fmt: skip
    assert [*plain.numbers()["datasets"][0]] == ["name", "images", "labels"]
    other = load_config(
        str(config(tmp_path, photos, datasets=[{"name": "made up", "images": str(photos), "exclude": ["*.gif"]}]))
    )
    assert other.digest() != plain.digest()
    assert other.numbers()["datasets"] == [
        {"name": "made up", "images": str(photos), "exclude": ["*.gif"], "labels": None}
    ]
