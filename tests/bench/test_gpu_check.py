"""The table of jobs/gpu_check.sh, made of figures as the benchmarks print them; the script itself needs minutes."""

import json
import subprocess

import pytest

from camrobust.bench import gpu_table
from tests.runs import ROOT

MAPS = {
    "model": "resnet50, random weights, 224 px", "batch": 128, "precision": "bf16", "plain_forward_ms_per_image": 0.085,
    "ratios": {"plain forward": 1.0, "ten CAMs": 1.234},
    "segments": [{
        "kernel_size": 4.0, "max_dist": 200.0, "ratio": 0.2, "batch": 64, "ms_per_image": 3.5, "times_faster": 110.0,
        "equal_labels": 8, "compared": 8,
    }],
}  # fmt: skip
JOB = [
    {"variants": 15, "segments": "grid", "precision": "bf16", "compile": True, "images": 900, "images_per_s": 500.0,
     "plain_images_per_s": 735.3, "share": 0.68, "workers_busy": "load 3.0, perturb 0.2, explain 0.9"},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_table, "machine", lambda: "a machine")
    (tmp_path / "tests.json").write_text("....\n9 passed in 3 s\n")
    (tmp_path / "passes-bf16.json").write_text(json.dumps(MAPS))
    (tmp_path / "job-grid.json").write_text(json.dumps(JOB))
    return tmp_path


def test_every_figure_has_a_line(folder, capsys):
    (folder / "steps.tsv").write_text("tests\t0\t4\npasses-bf16\t0\t9\njob-grid\t0\t60\n")
    assert gpu_table.main(folder) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a machine",
        "",
        "| check | setting | figure |",
        "|---|---|---|",
        "| gpu tests | exit code 0 | 9 passed in 3 s |",
        "| plain forward | resnet50, random weights, 224 px, batch 128, bf16 | 0.085 ms per image |",
        "| ten CAMs | resnet50, random weights, 224 px, batch 128, bf16 | 1.23 × plain forward |",
        "| Quickshift | 4, 200, 0.2; batch 64 | 110.0 × scikit-image (3.5 ms, 8 of 8 equal) |",
        "| Ray job, one worker of each kind | 15 variants, grid, bf16, compiled | 0.68 of plain forward (500.0 of "
        "735.3 images/s; busy workers: load 3.0, perturb 0.2, explain 0.9) |",
    ]


def test_a_step_that_failed_is_named_and_is_the_exit_code(folder, capsys):
    (folder / "steps.tsv").write_text("tests\t0\t4\npasses-bf16\t1\t9\njob-grid\t124\t60\n")
    assert gpu_table.main(folder) == 1
    printed = capsys.readouterr().out
    assert "| passes-bf16 | after 9 s | FAILED (exit code 1) |" in printed
    assert "| job-grid | after 60 s | FAILED (out of time) |" in printed


def test_the_script_refuses_what_it_does_not_know():
    ended = subprocess.run(["jobs/gpu_check.sh", "--fast"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr.startswith("gpu_check: unknown argument --fast; it takes --site DIR")
