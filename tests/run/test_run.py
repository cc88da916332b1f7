"""Whole runs through Ray on this machine, with faults caused for real."""

import json
import os
import signal
import time

import polars as pl
import pytest
import torch

from camrobust.bench.chaos.processes import descendants
from camrobust.contract.config_file import load_config
from camrobust.contract.schema import SCORES
from camrobust.interface.cli import main
from camrobust.results.exact import compare_exactly
from camrobust.results.folder import open_run
from camrobust.results.status import status
from camrobust.run import pipeline
from tests import in_process
from tests.photos import write_photos
from tests.runs import SMALL, camrobust, config, done_of, end, failures, named, report, scores, start, wait_for
from tests.toys import SECRET

pytestmark = pytest.mark.cluster
GOOD = 8
PER_PAIR = 5 * 5
"""Score rows of one image under one model: CAMs × variants."""
MODELS = [
    {"name": "toy/a", "builder": "tests.toys:pooled"},
    {"name": "007", "builder": "tests.toys:dense"},
    {"name": "drawn", "builder": "tests.toys:drawn_by_torch"},
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "set" / "wnid", GOOD)
    (folder / "set" / "empty.jpg").write_bytes(b"")
    (folder / "set" / "page.png").write_text("<html>503</html>")
    whole = (folder / "set" / "wnid" / "photo-000.jpg").read_bytes()
    (folder / "set" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "set" / "notes.txt").write_text("not an image by its name")
    return folder / "set"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    """For the builder that reads it, also where this process continues the run."""
    monkeypatch.setenv("MODEL_STORE_TOKEN", SECRET)


@pytest.fixture(scope="module")
def done(tmp_path_factory, photos):
    """A run by the command line in a Ray of its own, with two Explain workers: configuration, folder, what it told."""
    folder = tmp_path_factory.mktemp("run")
    path = config(folder, photos, max_failure_share=0.5, cluster={}, models=MODELS)
    first = camrobust("run", path, "--verbose", MODEL_STORE_TOKEN=SECRET)
    assert first.returncode == 0, first.stderr
    return path, folder / "out", first.stdout + first.stderr


def test_every_row_is_there_once_and_bad_files_are_failure_rows(done, capsys):
    _, out, _ = done
    rows = scores(out)
    assert rows.height == GOOD * len(MODELS) * PER_PAIR
    assert rows.select("model", "image_id", "cam", "perturbation", "strength", "replicate").is_unique().all()
    assert set(rows.columns) == {column.name for column in SCORES}
    assert set(rows["model"]) == {"toy/a", "007", "drawn"}
    assert set(rows["dataset"]) == {"made up"}
    assert rows["image_id"].unique().sort().to_list() == sorted(f"wnid/photo-{n:03}.jpg" for n in range(GOOD))
    kinds = dict(failures(out).select("image_id", "kind").rows())
    assert kinds == {"empty.jpg": "empty", "page.png": "not_an_image", "cut.jpg": "truncated"}
    assert failures(out)["model"].null_count() == 3
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["complete"]
    planned = (GOOD + 3) * len(MODELS) * PER_PAIR
    assert printed["planned_rows"] == planned == printed["score_rows"] + printed["failed_rows"]


def test_ray_changes_no_bit(done, tmp_path):
    """Which worker measures what, and together with what, decides nothing: one process alone gives the same rows.

    That holds for a network whose weights torch draws anew in each process, too.
    """
    path, out, _ = done
    torch.manual_seed(time.time_ns())
    alone = in_process.run(load_config(str(path), output=str(tmp_path / "alone")))
    assert alone.exit_code == 0
    began, again = (open_run(str(folder)).run() for folder in (out, tmp_path / "alone"))
    assert [*began.state_sha256] == [*began.builders] == [model["name"] for model in MODELS]
    assert again.state_sha256 == began.state_sha256
    assert scores(tmp_path / "alone").equals(scores(out))
    assert failures(tmp_path / "alone").sort("image_id").equals(failures(out).sort("image_id"))


def test_what_a_builder_reads_from_the_environment_is_written_nowhere(done):
    _, out, told = done
    held = [one for one in out.rglob("*") if one.is_file()]
    assert {"run.json", "index.html"} <= {one.name for one in held}
    assert {"done", "progress", "report"} <= {part for one in held for part in one.relative_to(out).parts}
    assert not any(b"hunter2" in one.read_bytes() for one in held)
    assert "hunter2" not in told


def test_the_folder_holds_what_design_promises(done):
    _, out, _ = done
    run = json.loads((out / "run.json").read_text())
    assert run["planned"]["rows"] == (GOOD + 3) * len(MODELS) * PER_PAIR
    assert run["target_layers"] == {"toy/a": "features", "007": "relu", "drawn": "features"}
    assert run["same_as"]["toy/a"] == {}
    assert run["manifest"]["key"] == f"manifest/{run['manifest']['sha256'][:24]}.parquet"
    ended = json.loads((out / "done" / "00000002.json").read_text())
    assert ended["score_rows"] == GOOD * len(MODELS) * PER_PAIR
    assert {one["key"] for one in ended["files"]} | set(ended["commits"]) == {
        str(path.relative_to(out)) for name in ("scores", "images", "failures", "maps", "commits")
        for path in (out / name).rglob("*.parquet")
    }  # fmt: skip
    images = pl.read_parquet(f"{out}/images/*.parquet")
    assert images.height == GOOD
    assert images["n_segments"].min() > 1
    maps = pl.read_parquet(f"{out}/maps/*.parquet")
    assert maps.select("image_id").n_unique() <= 3
    for name in ("by_level", "by_perturbation", "by_cam", "by_model", "by_dataset"):
        assert (out / "summary" / "00000002" / f"{name}.parquet").is_file()
        assert (out / "summary" / "00000002" / f"{name}.csv").is_file()
    assert "<html" in report(out).read_text()


def test_verify_aggregate_and_report_agree_from_the_command_line(done, capsys):
    _, out, _ = done
    assert main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert main(["aggregate", str(out), "--json"]) == 0
    by_cam = json.loads(capsys.readouterr().out)["by_cam"]
    assert {(row["model"], row["cam"]) for row in by_cam} == {
        (model, cam) for model in ("toy/a", "007", "drawn")
        for cam in ("gradcam", "gradcam++", "eigencam", "ablationcam", "random")
    }  # fmt: skip
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report" / "00000002" / "index.html")


def test_a_second_run_does_nothing_and_says_so(done, capsys):
    path, out, _ = done
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert main(["run", str(path)]) == 0
    assert f"nothing to do: {out} is complete" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()} == before


def test_too_many_failures_is_exit_code_1(done, capsys):
    path, _, _ = done
    assert main(["run", str(path), "--set", "max_failure_share=0.1"]) == 1
    assert "27.3% of the images failed, more than max_failure_share (10.0%)" in capsys.readouterr().err


def test_another_configuration_is_refused(done, capsys):
    path, out, _ = done
    assert main(["run", str(path), "--set", "metric.rbo_p=0.8", "--set", "seed=3"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"camrobust: output: {out} holds a run of another configuration (different: metric.rbo_p, seed); choose another "  # noqa: E501
        "output, or --fresh to start in a new folder beside it"
    )


MANY = 18
FEW = SMALL | {
    "gallery_images": 0,
    "perturbations": ["gaussian_noise:1-5", "salt_pepper:1-5"],
    "certify": {"sigma": [0.1], "samples": 6, "pilot": 2, "radii": [0.0, 0.1]},
    "models": [
        {"name": "toy/a", "builder": "tests.toys:pooled"},
        {"name": "007", "builder": "tests.toys:patient"},
    ],
    "cluster": {},
}


def commits_of(out):
    return {file: file.stat().st_mtime_ns for file in out.glob("commits/*.parquet")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_9_of_a_worker_and_then_of_everything_a_deleted_file_and_a_rerun_end_exact(
    cluster, tmp_path, capsys, monkeypatch
):
    """One run suffers all of it, one after the other; the rerun works in two rounds and does only the rest."""
    write_photos(tmp_path / "set", MANY, seed=1, size=(80, 72))
    path = config(tmp_path, tmp_path / "set", **FEW)
    out = tmp_path / "out"
    # So long per image that many of them are left when the processes are found and ended.
    process = start("run", path, PATIENCE_S="0.5")
    try:
        wait_for(lambda: len(commits_of(out)) >= 1, process)
        (victim, *_) = wait_for(lambda: named(descendants(process.pid), "ray::MapWorker(MapBatches(Explain))"), process)
        os.kill(victim, signal.SIGKILL)
        survived = len(commits_of(out))
        # What the worker held is done by another: four commits more than could have been on their way.
        wait_for(lambda: len(commits_of(out)) >= survived + 4, process)
        running = status(open_run(str(out)))
        end([process.pid, *descendants(process.pid)])
        process.communicate()
    finally:
        end([*descendants(process.pid), process.pid])
    assert running.state == "running"
    assert 0 < running.committed < running.parts == MANY
    kept = commits_of(out)
    assert 5 <= len(kept) < MANY
    code, printed, _ = in_process.camrobust(capsys, "status", out, "--json")
    stopped = json.loads(printed)
    assert (code, stopped["state"], stopped["committed"], stopped["attempts"]) == (0, "stopped", len(kept), 1)
    assert {"load", "perturb", "explain"} <= stopped["stages"].keys()
    assert not (out / "failures").exists()

    counted = open_run(str(out)).committed().tables("scores")
    (out / sorted(key for key in counted if "model=007" in key)[0]).unlink()
    assert main(["verify", str(out)]) == 1
    left = MANY + 1 - len(kept)
    monkeypatch.setattr(pipeline, "IMAGES_PER_ROUND", -(-left // 2))
    rerun = ["run", path, "--set", "cluster.explainers=[1, 1]", "--set", "cluster.perturb=with_explain"]
    code, _, told = in_process.camrobust(capsys, *rerun, by=in_process.through_open_session)
    assert code == 0, told
    assert f"resuming: {len(kept) - 1} of {MANY} images and parts are committed" in told
    assert "deleted" in told
    assert "files that no commit counts" in told
    assert sum(kept.get(file) == since for file, since in commits_of(out).items()) == len(kept) - 1
    redone = json.loads(sorted(out.glob("progress/*.json"))[-1].read_text())
    assert redone["done"] == redone["total"] == left
    assert redone["stages"]["explain"]["images"] == redone["total"]
    finished = done_of(out)
    assert finished.attempts == 2
    assert finished.stages["commit"].images >= redone["total"]
    _, printed, told = in_process.camrobust(capsys, "status", out)
    assert f"complete: {MANY} of {MANY} images (100.0%)" in told
    assert "explain" in printed

    rows = scores(out)
    assert rows.height == MANY * 2 * 5 * 10
    whole = load_config(str(path), output=str(tmp_path / "whole"))
    assert in_process.run(whole).exit_code == 0
    assert rows.equals(scores(tmp_path / "whole"))
    assert not (out / "failures").exists()
    exact = compare_exactly(open_run(str(out)), open_run(str(tmp_path / "whole")))
    assert exact.is_equal
    assert exact.tables["certificates"].equal == finished.certificate_rows == MANY * 2 * 5 * 2
