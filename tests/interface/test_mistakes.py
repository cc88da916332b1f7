"""A user's mistakes are one line and exit code 2; none of these needs a cluster."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from camrobust.contract.config_file import load_config
from camrobust.interface.cli import main
from camrobust.measure.networks import filled
from camrobust.measure.same_network import builder_record
from camrobust.run.plan import spec_of
from tests.documents import run_document
from tests.toys import pooled


def run(tmp_path, capsys, data, *arguments):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    code = main(["run", str(path), *arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("camrobust: ")]
    return code, lines


def with_model(data, **model):
    return data | {"models": [{"name": "m", "builder": "tests.toys:pooled"} | model]}


def table(folder, text):
    path = folder / "given.csv"
    path.write_text(text)
    return str(path)


MISTAKES = {
    "unknown similarity": (
        lambda d, p: d | {"metric": {"similarities": ["kendal"]}},
        "unknown similarity 'kendal'; did you mean 'kendall'? known: ",
    ),
    "unknown CAM": (lambda d, p: d | {"cams": ["gradcm"]}, "unknown CAM 'gradcm'; did you mean 'gradcam'? known: "),
    "unknown perturbation": (
        lambda d, p: d | {"perturbations": ["gausian_noise:1"]},
        "unknown perturbation 'gausian_noise'; did you mean 'gaussian_noise'? known: ",
    ),
    "severity 7": (
        lambda d, p: d | {"perturbations": ["gaussian_noise:7"]},
        "perturbations: severity must be 1 to 5, got 7 in 'gaussian_noise:7'; give a physical value as "
        "gaussian_noise:sigma=…",
    ),
    "unknown key": (lambda d, p: d | {"cam": 1}, "config: unknown key 'cam'; did you mean 'cams'? known: "),
    "unknown nested key": (
        lambda d, p: d | {"metric": {"rbop": 1}},
        "config: metric: unknown key 'rbop'; did you mean 'rbo_p'? known: average, explained_class, rbo_p, "
        "similarities, ties",
    ),
    "missing key": (
        lambda d, p: {k: v for k, v in d.items() if k != "cams"},
        "config: the key 'cams' is missing; write for example cams: [",
    ),
    "value out of range": (
        lambda d, p: d | {"metric": {"rbo_p": 2}},
        "config: metric.rbo_p: must be a number above 0 and below 1, got 2",
    ),
    "unknown torchvision model": (
        lambda d, p: d | {"models": ["torchvision:resnet19@none"]},
        "unknown torchvision model 'resnet19'; did you mean 'resnet",
    ),
    "unknown timm model": (
        lambda d, p: d | {"models": ["timm:tf_eficientnet_lite0@none"]},
        "unknown timm model 'tf_eficientnet_lite0'; did you mean 'tf_efficientnet_lite0'? known: ",
    ),
    "unknown weights": (
        lambda d, p: d | {"models": ["torchvision:resnet18@V9"]},
        "unknown weights of torchvision model 'resnet18' 'V9'; known: DEFAULT, IMAGENET1K_V1, none",
    ),
    "unknown function": (
        lambda d, p: d | {"models": ["tests.toys:poled"]},
        "unknown function in tests.toys 'poled'; did you mean 'pooled'? known: ",
    ),
    "unknown module": (
        lambda d, p: d | {"models": ["tests.toyz:pooled"]},
        "model 'tests.toyz:pooled': cannot import 'tests.toyz' (No module named 'tests.toyz'); is it installed, or in "
        "the working directory that the job was submitted with?",
    ),
    "a builder that returns something else": (
        lambda d, p: d | {"models": ["tests.toys:not_a_model"]},
        "model 'tests.toys:not_a_model': tests.toys:not_a_model must return a torch.nn.Module, got int",
    ),
    "a builder that raises": (
        lambda d, p: d | {"models": ["tests.toys:failing"]},
        "model 'tests.toys:failing': tests.toys:failing raised RuntimeError: no such depth (toys.py, line ",
    ),
    "arguments that the builder does not take": (
        lambda d, p: with_model(d, arguments={"width": 3}),
        "tests.toys:pooled raised TypeError: pooled() got an unexpected keyword argument 'width'",
    ),
    "arguments that torchvision does not take": (
        lambda d, p: with_model(d, builder="torchvision:resnet18@none", arguments={"wdth": 3}),
        "torchvision:resnet18@none raised TypeError: ",
    ),
    "no such builder": (
        lambda d, p: d | {"models": ["resnet18"]},
        "model 'resnet18': builder must be torchvision:NAME, timm:NAME, hf:NAME or package.module:function, got "
        "'resnet18'",
    ),
    "no such layer": (
        lambda d, p: with_model(d, target_layer="featres"),
        "target_layer: the model has no layer 'featres'; near names: features",
    ),
    "several layers": (
        lambda d, p: with_model(d, target_layer=["features", "fc"]),
        "config: models.0.target_layer: must be one layer, got a list; list the model once for each, under different "
        "names",
    ),
    "a secret in an address": (
        lambda d, p: with_model(d, weights="az://box/dir/w.pth?sv=1&sig=SECRET"),
        "store: the az:// address must not hold a secret, as addresses are written to results and logs; remove it",
    ),
    "a layer without a spatial output": (
        lambda d, p: with_model(d, target_layer="fc"),
        "target_layer: 'fc' must put out a feature map (B, C, h, w) or a grid of tokens (B, N, C), got (2, 10); choose "
        "another layer",
    ),
    "weights that do not fit": (
        lambda d, p: with_model(d, weights=str(p / "other.safetensors")),
        "(missing: fc.weight; not in the model: fc.wait; other shape: fc.bias is (3,), not (10,)); name the architecture",  # noqa: E501
    ),
    "weights that are no weights": (
        lambda d, p: with_model(d, weights=str(p / "broken.pth")),
        "broken.pth' cannot be read (",
    ),
    "weights that would run code": (
        lambda d, p: with_model(d, weights=str(p / "code.pth")),
        "code.pth' cannot be read (",
    ),
    "weights that are not there": (
        lambda d, p: with_model(d, weights=str(p / "nowhere.pth")),
        "nowhere.pth; correct weights",
    ),
    "a folder that is not there": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "nowhere")}]},
        "dataset 'x': there is no file or folder ",
    ),
    "a name that is no text": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "latin")}]},
        r"dataset 'x': the file name 'caf\udce9.jpg' is not valid UTF-8; rename it",
    ),
    "an output among the photos": (
        lambda d, p: d | {"output": str(p / "photos" / "runs" / "a")},
        "lie inside one another; choose an output beside them",
    ),
    "an address that no store has": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri\nhttps://example.org/y.jpg\n")}]},
        "manifest: a uri must be a path, file://, s3://bucket/…, gs://… or az://…, got https://example.org/…; copy it",
    ),
    "an address without a bucket": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri\ns3:///y.jpg\n")}]},
        "manifest: a uri must be a path, file://, s3://bucket/…, gs://… or az://…, got s3:///…; copy it",
    ),
    "a secret in a manifest": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri\ns3://user:SECRET@b/y.jpg\n")}]},
        "store: the s3:// address must not hold a secret, as addresses are written to results and logs; remove it",
    ),
    "a row without an image_id": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri,image_id\na.jpg,\nb.jpg,b\n")}]},
        "given.csv has no image_id in row 2; fill it, or leave the column out",
    ),
    "a label that is no whole number": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri,label\na.jpg,1.7\n")}]},
        "manifest: labels must be class indices (integers), got '1.7' in row 2 of ",
    ),
    "a label that is true": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": table(p, "uri,label\na.jpg,true\n")}]},
        "manifest: labels must be class indices (integers), got 'true' in row 2 of ",
    ),
    "two labels for an image": (
        lambda d, p: (
            d
            | {
                "datasets": [
                    {
                        "name": "x",
                        "images": str(p / "photos"),
                        "labels": table(p, "image_id,label\nphoto-000.jpg,1\nphoto-000.jpg,2\n"),
                    }
                ]
            }
        ),
        "given.csv gives 'photo-000.jpg' more than one label (rows 2, 3); keep one",
    ),
    "a folder without images": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "empty")}]},
        "they must be photos such as .jpg, .png, .tif or .webp",
    ),
    "a manifest without the column": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "bad.csv")}]},
        "bad.csv has no column 'uri', only url, label; rename or add it",
    ),
    "a manifest that is none": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "broken.parquet")}]},
        "broken.parquet is not a readable table (",
    ),
    "an image twice": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "twice.csv")}]},
        "dataset 'x': image_id 'photos/photo-000.jpg' occurs twice (rows 2, 3); give each image its own",
    ),
    "labels out of range": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "high.csv")}]},
        "labels: label must be 0 to 9 for model 'tests.toys:pooled', got 10 for 'photos/photo-000.jpg'; correct the labels",  # noqa: E501
    ),
    "too few names of classes": (
        lambda d, p: with_model(d, classes=["ant", "bee"]),
        "model 'm': classes must hold 10 names, one per class, got 2 from the list; give the names in the order of the "
        "logits, or leave classes out",
    ),
    "names of other classes": (
        lambda d, p: with_model(d, classes="imagenet"),
        "model 'm': classes must hold 10 names, one per class, got 1000 from 'imagenet'; give the names",
    ),
    "no file of names": (lambda d, p: with_model(d, classes=str(p / "no.txt")), "no.txt; correct classes"),
    "names that are no text": (
        lambda d, p: with_model(d, classes=str(p / "latin.txt")),
        "latin.txt' is not UTF-8 text; save one name per line",
    ),
    "names that are numbers": (
        lambda d, p: with_model(d, classes=["ant", 7]),
        "config: models.0.classes: must be a list of names, the path of a text file or imagenet, got 7; quote it",
    ),
    "labels that are names": (
        lambda d, p: d | {"datasets": [{"name": "x", "images": str(p / "named.csv")}]},
        "manifest: labels must be class indices (integers), got 'cat' in row 2 of ",
    ),
    "labels of other images": (
        lambda d, p: d | {"datasets": [d["datasets"][0] | {"labels": str(p / "others.csv")}]},
        "names an image; use their image_id",
    ),
    "another scheme": (
        lambda d, p: d | {"output": "ftp://host/x"},
        "store: 'ftp://host/x' must be a path, file://, s3://, gs:// or az://, got ftp://; copy it to one of these",
    ),
    "a crop that does not fit": (
        lambda d, p: d | {"image": {"resize": 64, "crop": 224}},
        "config: image: crop must be at most resize (64 px), got 224",
    ),
}


class Runs:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "latin") + b"/caf\xe9.jpg")).write_bytes(b"")
    (tmp_path / "bad.csv").write_text("url,label\na.jpg,1\n")
    (tmp_path / "latin.txt").write_bytes("Bär".encode("latin-1"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1nonsense")
    (tmp_path / "twice.csv").write_text("uri\nphotos/photo-000.jpg\nphotos/photo-000.jpg\n")
    (tmp_path / "high.csv").write_text("uri,label\nphotos/photo-000.jpg,10\n")
    (tmp_path / "named.csv").write_text("uri,label\nphotos/photo-000.jpg,cat\n")
    (tmp_path / "others.csv").write_text("image_id,label\nelsewhere.jpg,1\n")
    weights = dict(pooled().state_dict())
    weights["fc.wait"] = weights.pop("fc.weight")
    weights["fc.bias"] = torch.zeros(3)
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "other.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    torch.save({"a": Runs()}, tmp_path / "code.pth")
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, base, files, capsys):
    change, sentence = MISTAKES[mistake]
    code, lines = run(files, capsys, change(base, files))
    assert code == 2
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not Path(base["output"], "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nowhere.yaml"], "config: there is no file 'nowhere.yaml'; give the path of a YAML file"),
        (["verify", "nowhere"], "holds no run.json; give the output folder of a run"),
        (["report", "nowhere"], "holds no run.json; give the output folder of a run"),
        (["list", "cam"], "unknown value of kind 'cam'; did you mean 'cams'? known: cams, "),
        (["runn"], "unknown command 'runn'; did you mean 'run'? known: "),
        ([], "give one of the commands init, run, demo, plan, "),
        (["run", "--set", "seed=1", "a.yaml"], "config: there is no file 'a.yaml'; give the path of a YAML file"),
        (["bench", "passes", "--device", "cuda"], "bench: this machine has no CUDA device; use --device cpu"),
        (
            ["explain", "nowhere.jpg", "--model", "tests.toys:pooled", "--cam", "gradcam"],
            "nowhere.jpg; correct the path",
        ),
        (
            ["explain", "nowhere.jpg", "--model", "tests.toys:pooled", "--cam", "gradcm"],
            "unknown CAM 'gradcm'; did you mean 'gradcam'?",
        ),
    ],
)
def test_mistakes_in_arguments(arguments, sentence, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert sentence in captured.err
    assert captured.out == ""


def test_set_overrides_and_its_mistakes(base, tmp_path, capsys):
    code, lines = run(tmp_path, capsys, base, "--set", "metric.rbo_p=7")
    assert (code, lines) == (2, ["camrobust: config: metric.rbo_p: must be a number above 0 and below 1, got 7"])
    code, lines = run(tmp_path, capsys, base, "--set", "seed")
    assert (code, lines) == (
        2, ["camrobust: --set must be key=value, got 'seed'; for example --set metric.rbo_p=0.95"]
    )  # fmt: skip
    code, lines = run(tmp_path, capsys, base, "--set", "cams.4=gradcam")
    assert (code, lines) == (2, ["camrobust: --set cams.4: '4' must be a position from 0 to 0"])
    code, lines = run(tmp_path, capsys, base, "--set", "models.0=tests.toys:poled")
    assert lines[0].startswith("camrobust: unknown function in tests.toys 'poled'")


def test_a_run_does_not_take_other_weights_for_its_own(base, tmp_path, capsys):
    from camrobust.run.plan import fetch_weights, fingerprint

    def save(seed):
        torch.manual_seed(seed)
        save_file(torch.nn.Linear(1, 1).state_dict(), tmp_path / "w.safetensors")

    save(0)
    base["models"] = [{"name": "mine", "builder": "tests.toys:pooled", "weights": str(tmp_path / "w.safetensors")}]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base))
    config = load_config(str(path))
    recorded = {"mine": fingerprint(fetch_weights(config.models[0]))}
    document = run_document(1, ["mine"], digest=config.digest(), weights_sha256=recorded)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps(document))
    save(1)
    assert main(["run", str(path)]) == 2
    assert "w.safetensors has changed since this run began; put it back, or use --fresh" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_another_network_or_another_version_of_its_builder(base, tmp_path, capsys):
    base["models"] = [{"name": "mine", "builder": "tests.toys:pooled"}]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base))
    config = load_config(str(path))
    spec = spec_of(config.models[0])
    _, state = filled(spec)
    builder = builder_record(spec)
    (tmp_path / "out").mkdir()

    def resumed(**recorded):
        document = run_document(1, ["mine"], digest=config.digest(), **recorded)
        (tmp_path / "out" / "run.json").write_text(json.dumps(document))
        code = main(["run", str(path)])
        return code, capsys.readouterr().err.splitlines()[-1]

    other = {"mine": builder.model_copy(update={"version": "0.1"}).model_dump()}
    for recorded, sentence in (
        ({"state_sha256": {"mine": "0" * 64}}, "does not build the network with which this run began"),
        ({"state_sha256": {"mine": state}, "builders": other}, "but the run began with unknown 0.1; install the same"),
        ({}, "holds no manifest"),
        ({"state_sha256": {"mine": state}, "builders": {"mine": builder.model_dump()}}, "holds no manifest"),
    ):
        code, last = resumed(**recorded)
        assert (code, sentence in last) == (2, True), last
