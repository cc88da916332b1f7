"""Labels through a whole run: accuracy against a plain loop, classes_kept, and what is refused before it begins."""

import os

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torchvision import models, transforms

from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.core.perturb import make_variants, variants
from camrobust.results.folder import open_run
from camrobust.run.summarise import summaries
from tests import in_process
from tests.photos import write_photos
from tests.runs import ROOT, SMALL, TINY, config, scores
from tests.toys import pooled

IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = (72, 64, "contrast:5")


def plain_accuracy(network, normalise, photos, resize, crop, perturbation):
    """Shares of right predictions on clean and on perturbed photos, one photo after the other.

    Args:
        network: to logits.
        normalise: of pixels in [0, 1].
        photos: path and label of each.
        resize: shorter side, px.
        crop: side of the crop, px.
        perturbation: its name, with one severity.
    """
    prepare = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop), transforms.PILToTensor()])
    right, planned = np.zeros(2), variants([perturbation])
    network.eval()
    for path, label in photos:
        pixels = prepare(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))[None]
        both = make_variants(pixels, planned, [path.name], "d", 0)[0]
        with torch.no_grad():
            right += (network(normalise(both.float() / 255)).argmax(dim=1) == label).numpy()
    return tuple(right / len(photos))


def accuracies(out):
    table = summaries(open_run(str(out)))["by_level"]
    names = ("accuracy_clean", "accuracy_perturbed")
    return {row["model"]: tuple(row[name] for name in names) for row in table.iter_rows(named=True)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for place, name in enumerate("abcdefghij"):
        write_photos(folder / name, 1 if place else 2, seed=place)
    return folder


def run_of(folder, photos, **changes):
    given = {"datasets": [{"name": "d", "images": str(photos), "labels": "folders"}], "cams": ["gradcam"],
             "perturbations": ["contrast:5"], "gallery_images": 2, **SMALL}  # fmt: skip
    return config(folder, photos, **given | changes)


def test_accuracy_is_that_of_a_plain_loop(photos, tmp_path):
    # Labels that this random network gets right now and then: its own prediction for every second photo.
    images, labels = sorted(photos.rglob("*.jpg")), {}
    for place, path in enumerate(images):
        own = [label for label in range(10) if plain_accuracy(pooled(), IMAGENET, [(path, label)], *SIZES)[0]]
        labels[path] = own[0] if place % 2 else place % 10
    table = pl.DataFrame({"file": [str(one.relative_to(photos)) for one in images], "label": [*labels.values()]})
    table.write_csv(tmp_path / "labels.csv")
    dataset = {"name": "d", "images": str(photos), "labels": str(tmp_path / "labels.csv")}
    path = run_of(tmp_path, photos, summary={"only": "correct"}, datasets=[dataset])
    assert in_process.run(path).exit_code == 0
    wanted = plain_accuracy(pooled(), IMAGENET, [*labels.items()], *SIZES)
    assert accuracies(tmp_path / "out") == {"tests.toys:pooled": pytest.approx(wanted, abs=1e-12)}
    run = open_run(str(tmp_path / "out"))
    line, right = summaries(run)["by_model"].row(0, named=True), round(wanted[0] * len(labels))
    assert 0 < right < len(labels)
    assert (line["n_images"], line["n_left_out"], line["n_labelled"]) == (right, len(labels) - right, len(labels))
    page = run.store.read(run.place("report") + "index.html").decode()
    assert f"All numbers but accuracy leave out {len(labels) - right} of {len(labels)} pairs" in page
    assert "predicts the label of" in page
    assert "<bdi>tests.toys:pooled</bdi>: resize 72 px, crop 64 px, bilinear</dd>" in page


def test_a_network_with_classes_kept_chooses_among_them_and_says_so(photos, tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("b\n0\n\nfish\n", "utf-8")
    names = ["x", "b", "c", "d", "e", "f", "g", "h", "i", "fish"]
    model = {"name": "m", "builder": "tests.toys:pooled", "classes": names, "classes_kept": str(tmp_path / "kept.txt")}
    datasets = [{"name": "d", "images": str(photos)}]
    path = run_of(tmp_path, photos, models=[model], datasets=datasets, **TINY)
    assert in_process.run(path).exit_code == 0
    rows = scores(tmp_path / "out")
    assert {*rows["predicted_clean"], *rows["predicted_perturbed"]} <= {0, 1, 9}
    record = open_run(str(tmp_path / "out")).run()
    assert record.classes_kept == {"m": [0, 1, 9]}
    assert record.classes["m"] == names
    own = record.preprocessing["m"]
    assert (own.resize, own.crop, own.interpolation, own.source) == (72, 64, "bilinear", "configuration")
    assert (own.mean, own.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (tmp_path / "kept.txt").write_text("0\n1\n")
    with pytest.raises(
        UserError, match="model 'm': classes_kept is not as it was when this run began; put it back, or use"
    ):
        in_process.run(path)
    model["classes_kept"] = [0, "b", 2]
    labelled = run_of(tmp_path, photos, models=[model], output=str(tmp_path / "other"), **TINY)
    code, _, said = in_process.camrobust(capsys, "run", labelled)
    assert code == 2
    assert "is not among the classes_kept of model 'm', so that it could never be right; keep the class" in said


REFUSED = {
    "no labels": (
        {"datasets": {"labels": None}, "metric": {"explained_class": "label"}},
        "metric.explained_class: label needs labels, and no image has one; give the datasets labels",
    ),
    "no labels to be right": (
        {"datasets": {"labels": None}, "summary": {"only": "correct"}},
        "summary.only: correct needs labels, and no image has one; give the datasets labels",
    ),
    "a head without classes": (
        {
            "models": [{"name": "m", "builder": "tests.toys:pooled", "head": "multilabel"}],
            "summary": {"only": "correct"},
        },
        "summary.only: correct needs models that choose one class, and model 'm' has head: multilabel; make a"
        " run of its own for it",
    ),
    "an attack on the map": (
        {"metric": {"explained_class": "label"}, "perturbations": ["cam_attack:1"]},
        "metric.explained_class: label cannot be combined with cam_attack, which attacks the map of the "
        "predicted class; explain the predicted class with summary.only: correct, where both are one class",
    ),
    "too few folders": (
        {"datasets": {"exclude": "j/*"}},
        "dataset 'd': its sub-folders in sorted order are the labels 0 to 8, but model 'tests.toys:pooled' "
        "has 10 classes, and a missing one would shift the others; give label_names, a file with the number "
        "of each",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_labels_cannot_do_is_refused_before_anything_is_written(kind, photos, tmp_path, capsys):
    changes, sentence = REFUSED[kind]
    dataset = {"name": "d", "images": str(photos), "labels": "folders"} | changes.get("datasets", {})
    path = run_of(tmp_path, photos, **changes | {"datasets": [dataset]})
    with pytest.raises(UserError) as caught:
        in_process.run(load_config(path))
    assert str(caught.value) == sentence
    assert not (tmp_path / "out" / "run.json").exists()


def test_explaining_the_label_needs_all_labels(photos, tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\na/photo-000.jpg,3\n")
    dataset = {"name": "d", "images": str(photos), "labels": str(tmp_path / "labels.csv")}
    path = run_of(tmp_path, photos, datasets=[dataset], metric={"explained_class": "label"})
    with pytest.raises(
        UserError, match=r"needs the label of every image, and 10 of 11 have none, such as 'a/photo-001\.jpg'"
    ):
        in_process.run(load_config(path))


@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not os.environ.get("CAMROBUST_ALL"), reason="2,000 passes of real networks; CAMROBUST_ALL=1 runs it"
)
def test_four_real_networks_on_the_labelled_photos_of_the_data_pack(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    loaded = load_config("jobs/configs/accuracy.yaml", output=str(tmp_path / "out"))
    assert in_process.run(loaded).exit_code == 0
    found = accuracies(tmp_path / "out")
    known = pl.read_csv(shared_data / "labels.csv").select("file", "class_index")
    photos = [(shared_data / "images" / file, label) for file, label in known.iter_rows()]
    for model in loaded.models:
        kind, _, name = model.builder.partition(":")
        network = getattr(models, name)() if kind == "torchvision" else pytest.importorskip("timm").create_model(name)
        network.load_state_dict(load_file(model.weights))
        normalise = IMAGENET if model.mean is None else transforms.Normalize(model.mean, model.std)
        wanted = plain_accuracy(network, normalise, photos, 256, 224, "contrast:3")
        assert found[model.name] == pytest.approx(wanted, abs=1e-12), model.name
