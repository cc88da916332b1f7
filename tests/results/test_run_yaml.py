"""run.yaml in a run folder: it can be run again from anywhere, and nobody's own file is touched."""

import os

import pytest

from camrobust.contract.config_file import load_config, parse_config
from camrobust.contract.schema import MANIFEST
from camrobust.results.folder import open_run
from camrobust.results.run_yaml import saved_configuration
from tests.documents import run_record
from tests.synthetic import frame


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return parse_config(
        {"output": "out", "datasets": [{"name": "d", "images": "photos"}, {"name": "e", "images": "s3://b/photos"}],
         "models": ["torchvision:resnet18"], "cams": ["gradcam"], "perturbations": ["gaussian_noise:1"]}
    )  # fmt: skip


def begun(config):
    run = open_run("out")
    record = run_record(1, config=config.model_dump(mode="json"))
    assert run.begin(record, frame(MANIFEST, [{"dataset": "d", "image_id": "a", "uri": "a", "label": None}]))
    return run


def test_it_is_the_configuration_with_paths_that_hold_from_everywhere(config, tmp_path):
    run = begun(config)
    path = saved_configuration(run.store)
    assert path == str(tmp_path / "out" / "run.yaml")
    again = load_config(path, output="again")
    assert [one.images for one in again.datasets] == [str(tmp_path / "photos"), "s3://b/photos"]
    assert again.model_copy(update={"datasets": config.datasets, "output": config.output}) == config


def test_every_path_and_pattern_becomes_absolute_and_no_word_does(config, tmp_path):
    """Though folders are named like the words, and nothing matches the patterns."""
    for name in ("folders", "imagenet"):
        (tmp_path / name).mkdir()
    datasets = [
        {"images": "photos/*.jpg", "labels": "folders", "label_names": "names.txt"},
        {"images": "x-{00..63}.tar", "labels": "./folders"},
        {"images": "~/photos", "labels": "gs://b/labels.csv", "label_names": "file:///names.txt"},
    ]
    models = [
        {"classes": "imagenet", "classes_kept": "kept.txt"},
        {"classes": "names.txt", "classes_kept": ["n01440764", 3]},
        {"classes": ["imagenet", "dog"], "classes_kept": "imagenet", "weights": "w.pth"},
    ]
    whole = config.model_dump(mode="json") | {
        "datasets": [{"name": str(place), **one} for place, one in enumerate(datasets)],
        "models": [{"name": str(place), "builder": "a:b", **one} for place, one in enumerate(models)],
    }
    again = load_config(saved_configuration(begun(parse_config(whole)).store))
    here = [[one.images, one.labels, one.label_names] for one in again.datasets]
    assert here == [
        [f"{tmp_path}/photos/*.jpg", "folders", f"{tmp_path}/names.txt"],
        [f"{tmp_path}/x-{{00..63}}.tar", f"{tmp_path}/folders", None],
        ["~/photos", "gs://b/labels.csv", "file:///names.txt"],
    ]
    assert [[one.classes, one.classes_kept, one.weights] for one in again.models] == [
        ["imagenet", f"{tmp_path}/kept.txt", None],
        [f"{tmp_path}/names.txt", ("n01440764", "3"), None],
        [("imagenet", "dog"), f"{tmp_path}/imagenet", f"{tmp_path}/w.pth"],
    ]


def test_a_folder_of_hugging_face_s_holds_from_everywhere(config, tmp_path):
    """Else the same words would name a model of the hub."""
    for name in ("nets/vit", "nets/a@b"):
        (tmp_path / name).mkdir(parents=True)
    given = ["nets/vit", "./nets/vit@main", "nets/a@b", "google/vit", "google/vit@main", "~/nets/vit"]
    builders = [*(f"hf:{name}" for name in given), "timm:nets/vit"]
    models = [{"name": str(place), "builder": builder} for place, builder in enumerate(builders)]
    whole = config.model_dump(mode="json") | {"models": models}
    again = load_config(saved_configuration(begun(parse_config(whole)).store))
    assert [one.builder for one in again.models] == [
        f"hf:{tmp_path}/nets/vit", f"hf:{tmp_path}/nets/vit@main", f"hf:{tmp_path}/nets/a@b", "hf:google/vit",
        "hf:google/vit@main", "hf:~/nets/vit", "timm:nets/vit",
    ]  # fmt: skip


@pytest.mark.linux
def test_below_a_folder_of_odd_bytes_paths_stay_as_they_are(config, tmp_path, monkeypatch):
    """No configuration can hold the folder's name."""
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    again = load_config(saved_configuration(begun(config).store))
    assert [one.images for one in again.datasets] == ["photos", "s3://b/photos"]


@pytest.mark.parametrize("content", ["seed: 1\n", "x" * 1_000_000, ""])
def test_a_file_of_the_users_own_stays_as_it_is_and_is_not_named(config, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.yaml").write_text(content)
    run = begun(config)
    assert (tmp_path / "out" / "run.yaml").read_text() == content
    assert saved_configuration(run.store) is None


def test_a_run_of_an_earlier_version_has_none(config):
    run = begun(config)
    run.store.delete("run.yaml")
    assert saved_configuration(run.store) is None
