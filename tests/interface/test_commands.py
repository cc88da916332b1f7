"""What the commands print and draw; none of these needs a cluster."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from PIL import Image

from camrobust.contract.config_file import load_config
from camrobust.contract.errors import UserError
from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.core.similarity import SIMILARITIES
from camrobust.interface import cli
from camrobust.interface.cli import main
from camrobust.interface.commands import BENCHMARKS, COMMANDS
from camrobust.run.interruptions import Fleet, expected
from tests.photos import write_photos
from tests.runs import ROOT


def test_plan_counts_and_spends_nothing(base, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base))
    assert main(["plan", str(path), "--json", "--forwards-per-s", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["rows"], found["forwards"]) == (2, 2, 4)
    assert found["explain_worker_hours"] == round(4 / 10 / 3600, 6)
    assert "explain_dollars" not in found
    price = ["--images", "50000", "--workers", "4", "--dollars-per-hour", "0.5"]
    assert main(["plan", str(path), "--json", "--forwards-per-s", "10", *price]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["rows"], found["forwards"]) == (50000, 50000, 100000)
    assert found["explain_hours_on_these_workers"] == round(100000 / 10 / 3600 / 4, 6)
    assert found["explain_dollars"] == round(100000 / 10 / 3600 * 0.5, 2)
    assert main(["plan", str(path)]) == 0
    assert not (tmp_path / "out").exists()


def test_plan_prices_machines_that_are_taken_away(base, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base | {"cluster": {"gpus_per_explainer": 1}}))
    asked = ["plan", str(path), "--json", "--images", "1000000", "--forwards-per-s", "10", "--workers", "10",
             "--dollars-per-hour", "0.5"]  # fmt: skip
    assert main(asked) == 0
    stays = json.loads(capsys.readouterr().out)
    assert not any("interruptions" in name for name in stays)
    assert main([*asked, "--interruptions", "0.1", "--replacement-s", "360"]) == 0
    found = json.loads(capsys.readouterr().out)
    work_h, block_h, commit = 2_000_000 / 10 / 3600, 64 * 2 / 10 / 3600, 157
    assert found["explain_worker_hours"] == stays["explain_worker_hours"] == round(work_h, 6)
    exact = expected(work_h, block_h, commit, Fleet(10, 0.1, 0.1))
    assert found["interruptions"] == round(exact.interruptions, 2) > 5
    assert found["hours_with_interruptions"] == round(exact.run_h, 3)
    assert found["interruptions_add_hours"] == round(exact.run_h - work_h / 10, 3)
    assert found["dollars_with_interruptions"] == round(exact.machine_h * 0.5, 2)
    assert found["interruptions_add_dollars"] == round((exact.machine_h - work_h) * 0.5, 2)
    added = found["repeated_worker_hours"] + found["replacement_worker_hours"]
    assert found["interruptions_add_hours"] * 10 == pytest.approx(added, abs=0.02)
    assert main([*asked, "--interruptions", "-1"]) == 2
    assert "--interruptions" in capsys.readouterr().err


def test_plan_of_a_number_of_images_needs_no_bucket(monkeypatch, capsys):
    """As docs/running.md says, with the numbers that it says."""

    def refuse(*_):
        raise AssertionError("a store was asked")

    monkeypatch.setattr("camrobust.io.s3.client", refuse)
    text = (ROOT / "docs" / "running.md").read_text("utf-8")
    (typed,) = re.findall(r"^camrobust (plan jobs/configs/imagenet-val\.yaml .*)$", text, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    assert main([*typed.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = (found["hours_with_interruptions"], found["dollars_with_interruptions"], found["interruptions"])
    assert told == (0.841, 6.72, 0.67)
    assert f"This says {told[0]} hours and {told[1]} dollars" in text


@pytest.mark.parametrize(
    ("kind", "key", "names", "column"),
    [
        ("cams", "name", CAMS.names(), "cost"),
        ("perturbations", "name", PERTURBATIONS.names(), "family"),
        ("similarities", "name", ["rbo, rbo_adjusted", *SIMILARITIES.names()], "direction"),
        ("segments", "name", SEGMENTERS.names(), "deterministic"),
        ("models", "builder", ["torchvision:resnet18"], "weights"),
    ],
)
def test_list_shows_the_registries(kind, key, names, column, capsys):
    assert main(["list", kind, "--json"]) == 0
    listed = [row[key] for row in json.loads(capsys.readouterr().out)]
    assert [name for name in listed if name in names] == names
    assert kind == "models" or listed == names
    assert main(["list", kind]) == 0
    assert column in capsys.readouterr().out


def test_explain_draws_a_picture(tmp_path, capsys):
    write_photos(tmp_path, 1)
    output = tmp_path / "grid.png"
    arguments = ["explain", str(tmp_path / "photo-000.jpg"), "--model", "tests.toys:pooled", "--cam", "gradcam"]
    assert main([*arguments, "--perturb", "gaussian_noise:3", "contrast:5", "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    with Image.open(output) as picture:
        assert picture.width > 3 * 224
    attacked = [*arguments, "--perturb", "pgd:5", "--output", str(output)]
    assert main(attacked) == 0
    with Image.open(output) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert (0xB0, 0x00, 0x20) in colours  # the class flipped under a strong attack, and the text says so in red
    assert main([*arguments, "--output", str(tmp_path / "grid.xyz")]) == 2


def test_explain_takes_the_models_own_size_and_normalisation_and_wraps(tmp_path, capsys):
    write_photos(tmp_path, 1)
    photo, output = str(tmp_path / "photo-000.jpg"), tmp_path / "grid.png"
    arguments = ["explain", photo, "--model", "tests.toys:pooled", "--cam", "gradcam", "--output", str(output)]

    def drawn(*more):
        assert main([*arguments, *more]) == 0
        with Image.open(output) as picture:
            return picture.size, picture.tobytes()

    _, plain = drawn()
    normalised = ["--mean", ".2", ".2", ".2", "--std", ".1", ".1", ".1"]
    sized = ["--resize", "64", "--crop", "64"]
    assert len({plain, drawn(*normalised)[1], drawn(*sized)[1]}) == 3
    (width, height), _ = drawn("--perturb", "gaussian_noise:1-5", "contrast:1-5")  # 11 variants: two bands of six
    assert (width, height) == (150 + 6 * 232, 8 + 2 * 2 * 266)
    capsys.readouterr()
    for wrong, sentence in (
        (["--crop", "300"], "crop must be from 8 px to resize"),
        (["--mean", "114", "114", "114"], "mean and std must be those of pixels in [0, 1], got 114, 114, 114"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_a_builder_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("from tests.toys import pooled\n\n\ndef build():\n    return pooled()\n")
    write_photos(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    assert main(["explain", "photo-000.jpg", "--model", "beside:build", "--cam", "gradcam"]) == 0
    assert Path("explain.png").is_file()


def test_the_console_command_is_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("camrobust", scripts["camrobust"], "console_scripts").load() is main


def test_the_command_line_starts_without_the_heavy_libraries():
    code = (
        "import sys\n"
        "from camrobust.interface.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'polars', 'pyarrow', 'pydantic', 'ray', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("\n[]\n")


def parsers(parser):
    """Every command and benchmark by its name, to its parser."""
    below = next((action.choices for action in parser._actions if isinstance(action.choices, dict)), {})
    for name, command in below.items():
        yield from parsers(command) if command._subparsers else ((name, command),)


def test_every_command_has_help_and_options_take_several_values_in_one_way(capsys):
    found = dict(parsers(cli._parser()))
    assert found.keys() == (COMMANDS | BENCHMARKS).keys()
    for name, command in found.items():
        arguments = ["bench"] * (name in BENCHMARKS) + [name, "--help"]
        with pytest.raises(SystemExit, match=r"^0$"):
            main(arguments)
        assert command.description.replace("'", "") in " ".join(capsys.readouterr().out.split()).replace("'", "")
        assert all(action.help for action in command._actions)
    options = {
        (name, option): (action.nargs, type(action).__name__)
        for name, command in found.items()
        for option, action in command._option_string_actions.items()
    }
    repeated = {key for key, (_, kind) in options.items() if kind in ("_AppendAction", "_ExtendAction")}
    assert repeated == {
        ("run", "--set"), ("plan", "--set"), ("explain", "--cam"), ("explain", "--perturb"), ("sheet", "--perturb"),
        ("list", "--plugins"), ("job", "--variants"), ("init", "--model"), ("explain", "--plugins"),
        ("sheet", "--plugins"), ("compare", "--map"),
    }  # fmt: skip
    assert {options[key] for key in repeated} == {("+", "_ExtendAction")}


def test_several_values_follow_one_flag_or_repeat_it():
    parse = cli._parser().parse_args
    once = parse(["explain", "x.jpg", "--model", "m", "--cam", "a", "b", "c", "--perturb", "d:1", "e:2"])
    again = parse(["explain", "x.jpg", "--model", "m", "--cam", "a", "--cam", "b", "c", "--perturb", "d:1",
                   "--perturb", "e:2"])  # fmt: skip
    assert once == again
    assert (once.cam, once.perturb) == (["a", "b", "c"], ["d:1", "e:2"])
    assert parse(["run", "c.yaml", "--set", "a=1", "b=2"]).set == ["a=1", "b=2"]
    assert parse(["run", "c.yaml"]).set == []
    assert parse(["sheet", "x.jpg"]).perturb is None


def test_explain_takes_names_of_classes(tmp_path, capsys):
    write_photos(tmp_path, 1)
    arguments = ["explain", str(tmp_path / "photo-000.jpg"), "--model", "tests.toys:pooled", "--cam", "gradcam"]
    arguments += ["--output", str(tmp_path / "grid.png")]
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    assert main([*arguments, "--classes", str(tmp_path / "names.txt")]) == 0
    assert main([*arguments, "--classes", "imagenet"]) == 2
    assert "classes must hold 10 names, one per class, got 1000 from 'imagenet'" in capsys.readouterr().err


def test_plan_and_run_json_say_that_another_size_is_not_imagenet_c(base, tmp_path, capsys):
    from camrobust.results.folder import open_run
    from camrobust.run.workflow import _begin

    sentence = (
        "image.crop is 64 px, but severities 1 to 5 of gaussian_noise were chosen for 224 px (ImageNet-C: Hendrycks & "
        "Dietterich, arXiv 1903.12261); results at 64 px are not comparable with published ones"
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base | {"image": {"resize": 64, "crop": 64}}))
    assert main(["plan", str(path), "--json", "--forwards-per-s", "10"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == sentence
    said = []
    folder = open_run(str(tmp_path / "out"))
    _begin(load_config(path), folder, said.append)()
    assert f"warning: {sentence}" in said
    assert folder.run().warnings == [sentence]


def test_sheet_leaves_out_what_is_not_installed(tmp_path, capsys, monkeypatch):
    from camrobust.core.perturb import frost
    from camrobust.interface.contact_sheet import installed

    monkeypatch.setattr(frost, "_folder", lambda: None)
    names, missing = installed()
    assert "frost_procedural" in names
    assert "frost" not in names
    assert missing[0].startswith("frost needs the photographs")
    write_photos(tmp_path, 1)
    arguments = ["sheet", str(tmp_path / "photo-000.jpg"), "--cell", "16", "--output", str(tmp_path / "all.png")]
    assert main(arguments) == 0
    assert "left out: frost needs the photographs" in capsys.readouterr().err
    assert main([*arguments, "--perturb", "frost"]) == 2


def test_sheet_draws_a_row_for_each_perturbation(tmp_path, capsys):
    write_photos(tmp_path, 1)
    output = tmp_path / "sheet.png"
    arguments = ["sheet", str(tmp_path / "photo-000.jpg"), "--output", str(output), "--cell", "64"]
    assert (
        main(
            [*arguments, "--perturb", "fog", "gaussian_blur:sigma=3", "fog:1+contrast:1", "--resave-jpeg-quality", "85"]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(output)
    with Image.open(output) as picture:
        assert picture.size == (170 + 68 * 6, 86 * 3)
        row = picture.crop((170 + 68, 0, 170 + 68 * 6, 64)).convert("L")
        assert sum(count > 0 for count in row.histogram()) > 50
    for wrong, sentence in (
        (["--cell", "5"], "sheet: cell must be 16 to 1024 (px), got 5; choose another size"),
        (
            ["--resave-jpeg-quality", "0"],
            "sheet: resave-jpeg-quality must be 1 to 100 (JPEG quality), got 0; choose another quality",
        ),
        (["--perturb", "fgo"], "unknown perturbation 'fgo'; did you mean 'fog'?"),
        (["--output", "sheet.xyz"], "sheet: output must end in .png, .jpg or .webp, got 'sheet.xyz'"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["sheet", str(tmp_path / "none.jpg"), "--output", str(output)]) == 2


def test_what_is_written_past_python_stays_off_the_terminal():
    program = """
import os, sys
from camrobust.run.stderr import only_python_speaks

with only_python_speaks():
    os.write(2, b"from C++\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"from C++\\n")
os.write(2, b"afterwards\\n")
print("at last", file=sys.stderr)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stderr.splitlines() == ["from Python", "afterwards", "at last"]
    held = """
import os, sys
from camrobust.run.stderr import only_python_speaks

with only_python_speaks():
    bar = sys.stderr
print("the cursor", file=bar)
"""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", held], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stderr == "the cursor\n"
    closed = "import os, sys; os.close(2); from camrobust.run.stderr import only_python_speaks as quiet\n"
    none = "import sys; sys.stderr = None; from camrobust.run.stderr import only_python_speaks as quiet\n"
    for before in (closed, none):
        program = before + "try:\n  with quiet(): raise KeyError('x')\nexcept KeyError: print('passed on')\n"
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert told.stdout == "passed on\n"


def test_resave_jpeg_quality_changes_the_digest(base, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(base))
    plain = load_config(path)
    assert load_config(path, ["resave_jpeg_quality=null"]).digest() == plain.digest()
    assert load_config(path, ["resave_jpeg_quality=85"]).digest() != plain.digest()
    with pytest.raises(UserError, match="config: resave_jpeg_quality: must be a whole number from 1 to 100, got 101"):
        load_config(path, ["resave_jpeg_quality=101"])


def test_explain_and_sheet_know_the_methods_of_plugins(tmp_path, monkeypatch, capsys):
    from tests.plugin_files import DIMMED, METHODS, registries, write_module

    write_photos(tmp_path, 1)
    photo = str(tmp_path / "photo-000.jpg")
    monkeypatch.syspath_prepend(tmp_path)
    write_module(tmp_path, "of_mine", METHODS + DIMMED)
    sheet = ["sheet", photo, "--cell", "16", "--perturb", "dimmed:1-5", "--output", str(tmp_path / "sheet.png")]
    grid = ["explain", "--model", "tests.toys:pooled", "--cam", "negated", "--resize", "64", "--crop", "64",
            "--output", str(tmp_path / "grid.png")]  # fmt: skip
    with registries():
        assert main(sheet) == 2
        assert "unknown perturbation 'dimmed'" in capsys.readouterr().err
        assert main([*sheet, "--plugins", "of_mine"]) == 0
        assert main([*grid, "--plugins", "of_mine", photo]) == 0
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "grid.png").is_file()
