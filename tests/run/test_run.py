"""Whole runs through Ray on this machine, with faults caused for real."""

import json
import os
import shutil
import signal
import subprocess
import sys

import polars as pl
import pytest
from PIL import Image

from camrobust.bench.chaos.processes import descendants
from camrobust.contract.schema import SCORES
from camrobust.interface.cli import main
from camrobust.results.folder import open_run
from camrobust.results.status import status
from tests.photos import write_photos
from tests.runs import (
    ROOT,
    camrobust,
    config,
    done_of,
    end,
    environment,
    failures,
    named,
    report,
    scores,
    start,
    wait_for,
)

pytestmark = pytest.mark.cluster
GOOD = 8
PER_PAIR = 5 * 5
"""Score rows of one image under one model: CAMs × variants."""


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


@pytest.fixture(scope="module")
def done(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp("run")
    path = config(folder, photos, max_failure_share=0.5)
    first = camrobust("run", path, "--json")
    assert first.returncode == 0, first.stderr
    return path, folder / "out", json.loads(first.stdout)


def test_every_row_is_there_once_and_bad_files_are_failure_rows(done, photos):
    _, out, printed = done
    rows = scores(out)
    assert rows.height == GOOD * 2 * PER_PAIR
    assert rows.select("model", "image_id", "cam", "perturbation", "strength", "replicate").is_unique().all()
    assert set(rows.columns) == {column.name for column in SCORES}
    assert set(rows["model"]) == {"toy/a", "007"}
    assert set(rows["dataset"]) == {"made up"}
    assert rows["image_id"].unique().sort().to_list() == sorted(f"wnid/photo-{n:03}.jpg" for n in range(GOOD))
    kinds = dict(failures(out).select("image_id", "kind").rows())
    assert kinds == {"empty.jpg": "empty", "page.png": "not_an_image", "cut.jpg": "truncated"}
    assert failures(out)["model"].null_count() == 3
    assert printed["complete"]
    assert printed["planned_rows"] == (GOOD + 3) * 2 * PER_PAIR == printed["score_rows"] + printed["failed_rows"]


def test_the_folder_holds_what_design_promises(done):
    _, out, _ = done
    run = json.loads((out / "run.json").read_text())
    assert run["planned"]["rows"] == (GOOD + 3) * 2 * PER_PAIR
    assert run["target_layers"] == {"toy/a": "features", "007": "relu"}
    assert run["same_as"]["toy/a"] == {}
    assert run["manifest"]["key"] == f"manifest/{run['manifest']['sha256'][:24]}.parquet"
    ended = json.loads((out / "done" / "00000002.json").read_text())
    assert ended["score_rows"] == GOOD * 2 * PER_PAIR
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
        (model, cam) for model in ("toy/a", "007")
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


def test_deleted_score_files_are_restored_to_the_bit_in_several_rounds(done, tmp_path):
    path, out, _ = done
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    before = scores(copy)
    for file in sorted(copy.glob("scores/*/model=007/*.parquet"))[:5]:
        file.unlink()
    assert camrobust("verify", copy).returncode == 1
    code = (
        "import sys; from camrobust.run import pipeline; pipeline.IMAGES_PER_ROUND = 4\n"
        "from camrobust.interface.cli import main; sys.exit(main(['run', *sys.argv[1:]]))"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path), "--output", str(copy)], capture_output=True,
                           text=True, check=False, env=environment(), cwd=ROOT, timeout=400)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "resuming: 6 of 11 images and parts are committed" in ended.stderr
    assert scores(copy).equals(before)
    assert "deleted" in ended.stderr
    assert "files that no commit counts" in ended.stderr
    assert json.loads(sorted(copy.glob("progress/*.json"))[-1].read_text())["done"] == 5


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


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    write_photos(folder / "set", 24, seed=1)
    return folder / "set"


def test_kill_9_of_an_explain_worker_loses_nothing(tmp_path, many):
    path = config(tmp_path, many, perturbations=["gaussian_noise:1-5", "salt_pepper:1-5"])
    out = tmp_path / "out"
    process = start("run", path)
    try:
        wait_for(lambda: len(list(out.glob("commits/*.parquet"))) >= 2, process)
        (victim, *_) = wait_for(lambda: named(descendants(process.pid), "ray::MapWorker(MapBatches(Explain))"), process)
        os.kill(victim, signal.SIGKILL)
        assert len(list(out.glob("commits/*.parquet"))) < 24
        output, _ = process.communicate(timeout=300)
    finally:
        end([*descendants(process.pid), process.pid])
    assert process.returncode == 0, output
    rows = scores(out)
    assert rows.height == 24 * 2 * 5 * 10
    assert rows.select("model", "image_id", "cam", "perturbation", "strength").is_unique().all()
    assert not (out / "failures").exists()


def test_kill_9_of_everything_on_the_way_then_a_rerun_is_exact_and_does_only_the_rest(tmp_path, many):
    # So much per image that many of them are left when the processes are found and ended.
    noises = ("gaussian_noise", "salt_pepper", "speckle_noise", "uniform_noise", "shot_noise", "contrast")
    path = config(tmp_path, many, perturbations=[f"{name}:1-5" for name in noises])
    out = tmp_path / "out"
    process = start("run", path)
    try:
        wait_for(lambda: len(list(out.glob("commits/*.parquet"))) >= 5, process)
        running = status(open_run(str(out)))
        below = descendants(process.pid)
        end([process.pid, *below])
        process.communicate()
    finally:
        end([*descendants(process.pid), process.pid])
    assert running.state == "running"
    assert 0 < running.committed < running.parts == 24
    kept = {file: file.stat().st_mtime_ns for file in out.glob("commits/*.parquet")}
    assert 5 <= len(kept) < 24
    stopped = json.loads(camrobust("status", out, "--json").stdout)
    assert (stopped["state"], stopped["committed"], stopped["attempts"]) == ("stopped", len(kept), 1)
    assert {"load", "perturb", "explain"} <= stopped["stages"].keys()
    again = camrobust("run", path)
    assert again.returncode == 0, again.stderr
    assert f"resuming: {len(kept)} of 24 images and parts are committed" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    rows = scores(out)
    assert rows.height == 24 * 2 * 5 * 30
    assert rows.select("model", "image_id", "cam", "perturbation", "strength").is_unique().all()
    finished = done_of(out)
    redone = json.loads(sorted(out.glob("progress/*.json"))[-1].read_text())
    assert redone["done"] == redone["total"] == 24 - len(kept)
    assert redone["stages"]["explain"]["images"] == redone["total"]
    assert finished.attempts == 2
    assert finished.stages["commit"].images >= redone["total"]
    told = camrobust("status", out)
    assert "complete: 24 of 24 images and parts (100.0%)" in told.stderr
    assert "explain" in told.stdout


def test_what_stops_a_run_is_told_in_the_last_line_and_is_exit_code_1(tmp_path, photos):
    path = config(tmp_path, photos / "wnid", models=["tests.toys:only_on_the_driver"])
    result = camrobust("run", path)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("camrobust: ")
    assert "tests.toys:only_on_the_driver raised RuntimeError: this worker has no such file (toys.py, line " in last


def test_images_that_kill_or_hang_their_worker_are_quarantined_and_can_be_tried_again(tmp_path, photos):
    folder = tmp_path / "set"
    shutil.copytree(photos / "wnid", folder)
    Image.new("RGB", (256, 256), (0, 0, 0)).save(folder / "black.png")
    Image.new("RGB", (256, 256), (255, 255, 255)).save(folder / "white.png")
    models = ["tests.toys:pooled", {"name": "fragile", "builder": "tests.toys:fragile"}]
    path = config(tmp_path, folder, models=models, max_failure_share=1, cluster={"image_timeout_s": 5})
    result = camrobust("run", path)
    assert result.returncode == 0, result.stderr
    found = failures(tmp_path / "out").sort("image_id")
    assert found.select("image_id", "model", "stage", "kind").rows() == [
        (name, "fragile", "explain", "quarantined") for name in ("black.png", "white.png")
    ]
    sentence = "the worker died 3 times at this image (crash, out of memory, or more than 5 s in the stage explain)"
    assert set(found["message"]) == {sentence}
    rows = scores(tmp_path / "out")
    assert rows.group_by("model").len().sort("model").rows() == [
        ("fragile", GOOD * PER_PAIR), ("tests.toys:pooled", (GOOD + 2) * PER_PAIR)
    ]  # fmt: skip
    assert "2 images failed" in result.stderr
    for name in ("black.png", "white.png"):
        shutil.copy(folder / "photo-000.jpg", folder / name)
    again = camrobust("run", path, "--retry-failures")
    assert again.returncode == 0, again.stderr
    assert "measuring 2 failed images again" in again.stderr
    after = scores(tmp_path / "out")
    assert after.height == 2 * (GOOD + 2) * PER_PAIR
    assert not list((tmp_path / "out" / "failures").glob("*.parquet"))
    whole = ~pl.col("image_id").is_in(["black.png", "white.png"])
    assert after.filter(whole).equals(rows.filter(whole))


@pytest.mark.data
def test_every_bad_file_of_the_data_pack_is_scored_or_a_failure(tmp_path, shared_data):
    folder = tmp_path / "set"
    shutil.copytree(shared_data / "bad", folder)
    write_photos(folder, 3)
    # Sparse: a hundred gigabytes that take no room here, and that no worker could hold.
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(10**11)
    names = {"huge.jpg", *(file.name for file in (shared_data / "bad").iterdir())}
    path = config(tmp_path, folder, max_failure_share=1, models=["tests.toys:pooled"])
    result = camrobust("run", path)
    assert result.returncode == 0, result.stderr
    scored = set(scores(tmp_path / "out")["image_id"]) - {f"photo-{n:03}.jpg" for n in range(3)}
    failed = dict(failures(tmp_path / "out").select("image_id", "kind").rows())
    assert scored | failed.keys() == names
    assert not scored & failed.keys()
    assert len(scored) + len(failed) == 22
    bombs = ("bomb_50000x50000_1bit.png", "bomb_header_only.png", "huge.jpg")
    assert {failed[name] for name in bombs} == {"too_large"}
    assert failed["html_error_page.jpg"] == "not_an_image"
    assert failed["truncated_half.jpg"] == failed["corrupt_idat_crc.png"] == "truncated"
    assert {"alpha.png", "animated.gif", "cmyk.jpg", "gray16.png", "one_pixel.png", "palette.png"} <= scored
