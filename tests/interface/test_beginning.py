"""The first minutes with the command line: init, schema, completion, --version, and arguments in any order."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from itertools import permutations

import jsonschema
import pytest
import yaml

from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.contract.spelling import nearest, suggestion
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS, variants
from camrobust.interface import cli
from camrobust.interface.beginning import shipped
from camrobust.interface.cli import main
from camrobust.interface.commands import COMMANDS
from camrobust.interface.config_schema import FILE, MODELINE, editor_schema
from tests.photos import write_photos
from tests.runs import ROOT


def test_init_writes_a_configuration_that_is_valid_and_nothing_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 2)
    assert main(["init", "photos", "--model", "torchvision:resnet18@none", "tests.toys:pooled"]) == 0
    said = capsys.readouterr().err
    assert "photos: 2 images in photos" in said
    assert "next: camrobust plan run.yaml" in said
    config = load_config("run.yaml")
    assert [one.images for one in config.datasets] == ["photos"]
    assert [one.builder for one in config.models] == ["torchvision:resnet18@none", "tests.toys:pooled"]
    assert config.output == "runs/photos"
    assert all(name in CAMS for name in config.cams)
    assert len(variants(config.perturbations)) == 4 * 5
    text = (tmp_path / "run.yaml").read_text()
    assert text.startswith(MODELINE + "\n")
    assert json.loads((tmp_path / FILE).read_text()) == editor_schema()
    # Every line that is commented out holds what its key has by default: with them, the settings are the same.
    offered = re.sub(r"(?m)^# (\w+: .*)$", r"\1", text)
    assert offered != text
    (tmp_path / "offered.yaml").write_text(offered)
    assert load_config("offered.yaml").digest() == config.digest()
    (tmp_path / FILE).write_text("mine")
    assert main(["init", "photos"]) == 2
    assert "init: 'run.yaml' exists already; choose another file with --config, or remove it" in capsys.readouterr().err
    assert main(["init", "photos", "--config", "other.yaml"]) == 0
    assert ((tmp_path / "run.yaml").read_text(), (tmp_path / FILE).read_text()) == (text, "mine")


@pytest.mark.parametrize("name", ["a b", "a: b", "#x", "- y", "{z}", "ü", "it's", 'say "x"', "*", "true", "07", "a,b]"])
def test_init_quotes_what_yaml_would_read_otherwise(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / name, 1)
    assert main(["init", f"./{name}", f"./{name}", "--model", f"mine:{name}", f"mine:{name}"]) == 0
    config = load_config("run.yaml")
    assert [one.images for one in config.datasets] == [f"./{name}"] * 2
    assert [one.builder for one in config.models] == [f"mine:{name}"] * 2
    assert len({one.name for one in config.models}) == 2


def test_init_names_what_it_writes_as_a_shell_takes_it_and_gives_every_dataset_its_own_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("a/x", "b/x", "a/x-2"):
        write_photos(tmp_path / name, 1)
    assert main(["init", "a/x", "b/x", "a/x-2", "--config", "my run.yaml"]) == 0
    assert capsys.readouterr().err.endswith("\nnext: camrobust plan 'my run.yaml'\n")
    assert [one.name for one in load_config("my run.yaml").datasets] == ["x", "x-3", "x-2"]


def test_init_takes_no_secret_and_copies_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "s3://user:SECRET@bucket/x"]) == 2
    assert "SECRET" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for name in shipped():
        assert main(["init", "--example", name, "--config", f"{name}.yaml"]) == 0
        assert (tmp_path / f"{name}.yaml").read_bytes() == (ROOT / "jobs" / "configs" / f"{name}.yaml").read_bytes()
    assert main(["init", "--example", "papr", "--config", "x.yaml"]) == 2
    err = capsys.readouterr().err
    assert "init: unknown example 'papr'; did you mean 'paper'? known: accuracy, certificates, first, " in err


def test_the_help_names_every_example():
    (example,) = (one for one in COMMANDS["init"].arguments if one.name == "--example")
    *first, last = shipped()
    assert example.settings["help"].endswith(f": {', '.join(first)} or {last}")


def test_init_says_what_it_wrote_and_follows_no_link(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--example", "first"]) == 0
    assert f"wrote run.yaml and, for editors, {FILE} beside it" in capsys.readouterr().err
    for name in ("run.yaml", FILE):
        (tmp_path / name).unlink()
    (tmp_path / FILE).write_text("mine")
    assert main(["init", "--example", "first"]) == 0
    assert capsys.readouterr().err.splitlines() == ["wrote run.yaml", "next: camrobust plan run.yaml"]
    assert (tmp_path / FILE).read_text() == "mine"
    for name in ("run.yaml", FILE):
        (tmp_path / name).unlink()
    (tmp_path / FILE).symlink_to("elsewhere.json")
    assert main(["init", "--example", "first"]) == 0
    assert capsys.readouterr().err.splitlines() == ["wrote run.yaml", "next: camrobust plan run.yaml"]
    (tmp_path / "dangling.yaml").symlink_to("elsewhere.yaml")
    assert main(["init", "--example", "first", "--config", "dangling.yaml"]) == 2
    assert "init: 'dangling.yaml' exists already; choose another file with --config" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "dangling.yaml", "run.yaml"]


def test_the_schema_takes_every_shipped_configuration_and_refuses_slips(capsys):
    assert main(["schema"]) == 0
    whole = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(whole)
    check = jsonschema.Draft202012Validator(whole)
    files = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
    assert {file.stem for file in files} == shipped().keys()
    for file in files:
        assert file.read_text().splitlines()[0] == MODELINE
        assert not list(check.iter_errors(yaml.safe_load(file.read_text())))
    good = {"output": "o", "datasets": [{"name": "d", "images": "p", "exclude": "x/*"}], "models": ["a:b"],
            "cams": ["mine"], "perturbations": ["fog:1", {"gaussian_noise": {"sigma": 0.1}}],
            "segments": {"method": "slic", "n_segments": 3}, "metric": {"similarities": ["ssim"]}}  # fmt: skip
    assert not list(check.iter_errors(good))
    for slip in ({"cam": []}, {"cams": "gradcam"}, {"metric": {"rbo_p": 2}}, {"datasets": [{"name": "d"}]},
                 {"segments": {"method": "slick"}}, {"models": [3]}):  # fmt: skip
        assert list(check.iter_errors(good | slip)), slip
    offered = whole["properties"]["perturbations"]["items"]["anyOf"][0]["enum"]
    assert {f"{name}:1-5" for name in PERTURBATIONS.names()} < {*offered}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_tab_key_completes_commands_and_names(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script == f"{script.rstrip()}\n"
    assert "gradcam++" in script
    assert "--target-layer" in script or "target-layer" in script
    if shell == "bash":
        asked = 'COMP_WORDS=(camrobust explain --cam scor); COMP_CWORD=3; _shtab_camrobust; echo "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [name for name in CAMS.names() if name.startswith("scor")]


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"camrobust {version('camrobust')}\n"
    done = subprocess.run([sys.executable, "-m", "camrobust", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"camrobust {version('camrobust')}\n"


PARTS = (["photo.jpg"], ["--model", "m"], ["--cam", "gradcam", "layercam"], ["--mean", "-0.1", ".5"], ["--verbose"])


def test_arguments_stand_in_any_order():
    parse = cli._parser().parse_args
    wanted = parse(["explain", *(token for part in PARTS for token in part)])
    assert (wanted.image, wanted.cam, wanted.mean) == ("photo.jpg", ["gradcam", "layercam"], [-0.1, 0.5])
    for order in permutations(PARTS):
        assert parse(["explain", *(token for part in order for token in part)]) == wanted
    assert parse(["--verbose", "explain", *(token for part in PARTS[:4] for token in part)]) == wanted
    assert parse(["aggregate", "a", "--output", "x", "b"]).runs == ["a", "b"]
    assert parse(["run", "--set", "a=1", "b.c=./x.yaml", "run.yaml"]).set == ["a=1", "b.c=./x.yaml"]
    assert parse(["list", "--plugins", "my.cams", "cams"]).kind == "cams"
    assert parse(["run", "--out=x", "--", "-odd.yaml"]).config == "-odd.yaml"


@pytest.mark.parametrize(
    ("given", "known", "first"),
    [
        ("gradCAM", ["gradcam++", "xgradcam", "gradcam"], "gradcam"),
        ("Grad-CAM PlusPlus", ["gradcam", "gradcam++"], "gradcam++"),
        ("jpeg", ["fog", "jpeg_compression", "spatter"], "jpeg_compression"),
        ("salt-and-pepper", ["salt_pepper", "speckle_noise"], "salt_pepper"),
        ("Quick Shift", ["slic", "quickshift"], "quickshift"),
        ("resnet19", ["resnet18", "densenet121"], "resnet18"),
    ],
)
def test_names_are_found_whatever_their_spelling(given, known, first):
    assert nearest(given, known)[0] == first


def test_what_is_not_alike_is_not_suggested():
    assert nearest("zebra", CAMS.names()) == []
    assert nearest("", CAMS.names()) == nearest("-_.", CAMS.names()) == []
    assert suggestion("gaussian", PERTURBATIONS.names()) == "did you mean 'gaussian_blur' or 'gaussian_noise'? "
    with pytest.raises(UserError, match="unknown CAM 'GradCAM'; did you mean 'gradcam'"):
        CAMS["GradCAM"]
