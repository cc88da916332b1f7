"""Mistakes of a new user, and the sentence that each gets: read this table as they would. `…` stands for more words.

Each is typed in a folder that holds two photos in photos/, photo.jpg, a configuration run.yaml, and the files below.
`{long}` stands for a name that is too long for a file.
"""

import re
import shlex

import pytest
import yaml

from camrobust.interface.cli import main
from tests.photos import write_photos

FILES = {
    "tabs.yaml": "output: out\ncams:\n\t- gradcam\n",
    "short.yaml": "output: out\ndatasets: [{name: d, images: photos}]\nmodels: ['a:b']\ncams: [gradcam]\n",
    "twice.yaml": "output: a\ncams: [gradcam]\noutput: b\n",
    "list.yaml": "- gradcam\n",
    "old.yaml": "max_failures: 0.1\n",
    "no-uri.csv": "file,label\nphoto-000.jpg,1\n",
    "again.csv": "uri\nphotos/photo-000.jpg\nphotos/photo-000.jpg\n",
    "high.csv": "uri,label\nphotos/photo-000.jpg,10\n",
    "broken.pth": "not weights",
    "not-a-photo.jpg": "not a photo",
}

MISTAKES = r"""
# Commands and options
$ camrobust
give one of the commands init, run, demo, plan, …; see camrobust --help
$ camrobust runn run.yaml
unknown command 'runn'; did you mean 'run'? known: aggregate, bench, …
$ camrobust evaluate run.yaml
unknown command 'evaluate'; did you mean 'run'? see camrobust --help
$ camrobust help
unknown command 'help'; did you mean '--help'? see camrobust --help
$ camrobust explain
missing: image (image file) and --model (torchvision:NAME[@WEIGHTS], …) and --cam (…
$ camrobust explain photo.jpg --modle m --cam gradcam
unknown option '--modle'; did you mean '--model'? see camrobust …
$ camrobust plan run.yaml --workers two
--workers: must be a whole number, got 'two'; see camrobust plan --help
$ camrobust plan run.yaml --workers
--workers needs a value; see camrobust plan --help
$ camrobust plan run.yaml --workers=--
--workers needs a value; see camrobust plan --help
$ camrobust plan run.yaml --images 99999999999999999999
--images: must be a number above 0 and at most 100,000,000, got 99999999999999999999; see camrobust plan --help
$ camrobust plan run.yaml other.yaml
there is no place for 'other.yaml'; see camrobust plan --help
$ camrobust list cam
unknown value of kind 'cam'; did you mean 'cams'? known: cams, models, …
$ camrobust bench passes --device cuda
bench: this machine has no CUDA device; use --device cpu

# The configuration
$ camrobust run nowhere.yaml
config: there is no file 'nowhere.yaml'; give the path of a YAML file, …
$ camrobust run photos
config: 'photos' is …
$ camrobust run photo.jpg
config: 'photo.jpg' is not …
$ camrobust run tabs.yaml
config: 'tabs.yaml' is not valid YAML (line 3: found character '\t' that cannot start any …
$ camrobust run twice.yaml
config: 'twice.yaml' …the key 'output' …
$ camrobust run list.yaml
config: 'list.yaml' must hold keys and values, got a list; …
$ camrobust run short.yaml
config: the key 'perturbations' is missing; write for example perturbations: ["gaussian_noise:…
$ camrobust run old.yaml
config: the key 'max_failures' is now called 'max_failure_share'
$ camrobust plan run.yaml --set seed
--set must be key=value, got 'seed'; for example --set metric.rbo_p=0.95
$ camrobust plan run.yaml --set seed=abc
config: seed: must be a whole number of at least 0, got 'abc'
$ camrobust plan run.yaml --set cams=gradcam
config: cams: must be a list of names, got 'gradcam'
$ camrobust plan run.yaml --set cluster.explainers=4
config: cluster.explainers: must be a list of two whole numbers, …
$ camrobust plan run.yaml --set metric.rbo_p=1
config: metric.rbo_p: must be a number above 0 and below 1, got 1
$ camrobust plan run.yaml --set image.crop=300
config: image: crop must be at most resize (256 px), got 300
$ camrobust plan run.yaml --set device=cuda
config: unknown key 'device'; did you mean 'cluster.gpus_per_explainer'? known: …
$ camrobust plan run.yaml --set batch_size=8
config: unknown key 'batch_size'; did you mean 'cluster.batch'? known: cams, …
$ camrobust plan run.yaml --set metric.rbop=.8
config: metric: unknown key 'rbop'; did you mean 'rbo_p'? known: …

# Names
$ camrobust plan run.yaml --set cams=[gradCAM]
unknown CAM 'gradCAM'; did you mean 'gradcam'? known: ablationcam, …
$ camrobust plan run.yaml --set perturbations=[jpeg:3]
unknown perturbation 'jpeg'; did you mean 'jpeg_compression'? …
$ camrobust plan run.yaml --set perturbations=[gaussian_noise:7]
perturbations: severity must be 1 to 5, got 7 in …
$ camrobust sheet photo.jpg --perturb snow pgd
sheet: 'pgd' needs a model; leave it out here and use `camrobust explain`

# Images and labels
$ camrobust plan run.yaml --set datasets.0.images=foto
dataset 'd': there is no file or folder foto; give a folder, a …
$ camrobust plan run.yaml --set datasets.0.images={long}
dataset 'd': … cannot be looked at (File name too long); correct the path or its permissions
$ camrobust plan run.yaml --set datasets.0.images=empty
dataset 'd': there are no images in empty; they must be photos …
$ camrobust plan run.yaml --set datasets.0.images=no-uri.csv
…no-uri.csv has no column 'uri', only file, label; rename …
$ camrobust plan run.yaml --set datasets.0.images=again.csv
dataset 'd': image_id … occurs twice (rows 2, 3); give …
$ camrobust plan run.yaml --set datasets.0.images=high.csv
labels: label must be 0 to 9 for model 'pooled', got 10 for …
$ camrobust sheet not-a-photo.jpg --perturb fog
sheet: 'not-a-photo.jpg' cannot be used: not an image that Pillow can read, …

# Models
$ camrobust plan run.yaml --set models=[resnet50]
model 'resnet50': builder must be torchvision:NAME, timm:NAME, …; did you mean 'torchvision:resnet50'?
$ camrobust plan run.yaml --set models=[torchvison:resnet18]
model 'torchvison:resnet18': cannot import 'torchvison' (…); did you mean 'torchvision'? is it installed, or in …
$ camrobust plan run.yaml --set models=[torchvision:ResNet18@none]
unknown torchvision model 'ResNet18'; did you mean 'res…
$ camrobust plan run.yaml --set models=[tests.toyz:pooled]
model 'tests.toyz:pooled': cannot import 'tests.toyz' (…
$ camrobust plan run.yaml --set models.0.weights=nowhere.pth
…nowhere.pth; correct weights
$ camrobust plan run.yaml --set models.0.weights=broken.pth
…broken.pth' cannot be read (…
$ camrobust plan run.yaml --set models.0.target_layer=featres
target_layer: the model has no layer 'featres'; near names: …

# Outputs: each is told before anything is computed
$ camrobust run run.yaml --output photo.jpg/out
output: …photo.jpg' is a file, not a folder; choose another --output
$ camrobust run run.yaml --output photos/out
…lie inside one another; choose an output beside them
$ camrobust run run.yaml --output ftp://host/x
store: 'ftp://host/x' must be a path, file://, s3://, gs:// or az://, …
$ camrobust explain photo.jpg --model m --cam gradcam --output grid
explain: output must end in .png, .jpg or .webp, got …
$ camrobust explain photo.jpg --model m --cam gradcam --output no/x.png
explain: there is no folder 'no'; make it, or …
$ camrobust report photos --output {long}
report: '…' cannot be a folder; choose another --output
$ camrobust init photos --config {long}.yaml
init: '…' cannot be a file; choose another --config
$ camrobust sheet photo.jpg --output folder.png
sheet: 'folder.png' is a folder; name a file with --output
$ camrobust init photos
init: 'run.yaml' exists already; choose another file with --config, or remove it

# Results
$ camrobust status {long}
…holds no run.json; give the output folder of a run
$ camrobust status photos
…photos holds no run.json; give the output folder of a run
$ camrobust report nowhere
…nowhere holds no run.json; give the output folder of a run
$ camrobust compare photos
missing: second (output folder of another run); see camrobust compare --help
$ camrobust aggregate a b
aggregate: several runs need --output, a folder for their tables; one run keeps its own
"""
TYPED = re.findall(r"\$ camrobust ?(.*)\n(.*)", MISTAKES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a new user."""
    here = tmp_path_factory.mktemp("new user")
    write_photos(here / "photos", 2)
    (here / "photo.jpg").write_bytes((here / "photos" / "photo-000.jpg").read_bytes())
    (here / "empty").mkdir()
    (here / "folder.png").mkdir()
    for name, text in FILES.items():
        (here / name).write_text(text)
    config = {"output": "out", "datasets": [{"name": "d", "images": "photos"}],
              "models": [{"name": "pooled", "builder": "tests.toys:pooled"}], "cams": ["gradcam"],
              "perturbations": ["gaussian_noise:1"]}  # fmt: skip
    (here / "run.yaml").write_text(yaml.safe_dump(config))
    return here


@pytest.mark.parametrize(("typed", "sentence"), TYPED, ids=[typed for typed, _ in TYPED])
def test_a_mistake_gets_its_sentence(typed, sentence, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(shlex.split(typed.replace("{long}", "é" * 300))) == 2
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("camrobust: ")]
    pattern = ".*".join(map(re.escape, f"camrobust: {sentence}".split("…")))
    assert re.fullmatch(pattern, told[-1] if told else err), err
    assert (len(told), out) == (1, "")
    assert "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_there_are_forty():
    assert len({*TYPED}) == MISTAKES.count("$") >= 40


def test_a_gpu_that_this_machine_lacks_is_named_by_plan(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = ["plan", "run.yaml", "--images", "8", "--forwards-per-s", "10", "--json"]
    sentence = (
        "cluster.gpus_per_explainer asks for 0.5 of a GPU, and this machine has none; run it on a cluster with GPUs "
        "(--address), or here with --set cluster.gpus_per_explainer=0"
    )
    assert main([*asked, "--set", "cluster.gpus_per_explainer=0.5"]) == 0
    assert f'"gpu": "{sentence}"' in capsys.readouterr().out
    assert main([*asked, "--set", "cluster.gpus_per_explainer=0"]) == 0
    assert '"gpu"' not in capsys.readouterr().out
