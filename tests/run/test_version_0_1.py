"""Run folders that version 0.1 wrote, before leases fenced commits: made by its own code, one killed on the way."""

import json
import shutil
import tarfile
from pathlib import Path

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from camrobust.contract.defaults import METRIC
from camrobust.contract.former_names import renamed_settings
from camrobust.interface.evaluation import load_run
from camrobust.results.folder import open_run
from tests.in_process import camrobust
from tests.runs import failures, scores

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "version_0_1.tar.gz"
IMAGES = 9
ROWS = 8 * 3 * 2


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The old runs, with their configurations under today's names; the module of their network has moved since."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for name in ("complete", "half"):
        manifest = tmp_path / name / "manifest.parquet"
        moved = pl.col("uri").str.replace(r"^.*/photos/", f"{tmp_path}/photos/")
        pl.read_parquet(manifest).with_columns(moved).write_parquet(manifest)
        run = tmp_path / name / "run.json"
        run.write_text(run.read_text().replace("camrobust.chaos.model", "camrobust.bench.chaos.model"))
        config = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        config["models"][0]["builder"] = "camrobust.bench.chaos.model:build"
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(renamed_settings(config)))
    return tmp_path


@pytest.fixture
def of_todays_metric(old):
    """The same with today's metric, so that the formats of version 0.1 can be continued; the wild ones are refused."""
    for name in ("complete", "half"):
        run = old / name / "run.json"
        run.write_text(json.dumps(json.loads(run.read_text()) | {"metric": METRIC}))
    return old


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_complete_run_is_read_and_left_as_it_is(old, capsys):
    before = files(old / "complete")
    for arguments in (("verify", "complete"), ("status", "complete"), ("run", "complete.yaml")):
        code, _, told = camrobust(capsys, *arguments)
        assert code == 0, told
    assert "nothing to do" in told
    assert files(old / "complete") == before
    assert load_run(old / "complete").scores.height == ROWS
    for arguments in (("aggregate", "complete"), ("report", "complete")):
        code, _, told = camrobust(capsys, *arguments)
        assert code == 0, told
    assert (old / "complete" / "report" / "index.html").is_file()
    left = {path: content for path, content in before.items() if "summary" not in path.parts}
    assert left.items() <= files(old / "complete").items()


def test_a_run_that_was_killed_is_resumed_and_completed(of_todays_metric, capsys):
    old = of_todays_metric
    before = files(old / "half")
    committed = open_run(str(old / "half")).committed().parts.height
    assert 0 < committed < IMAGES
    code, _, told = camrobust(capsys, "run", "half.yaml")
    assert code == 0, told
    assert f"resuming: {committed} of {IMAGES} images and parts are committed" in told
    after = files(old / "half")
    assert before.items() <= after.items()
    # The archive was written on another machine, whose processor may round the last bit otherwise.
    assert_frame_equal(scores(old / "half"), scores(old / "complete"), rel_tol=1e-4, abs_tol=1e-6)
    assert failures(old / "half").equals(failures(old / "complete"))
    lease = json.loads((old / "half" / "lease" / "00000002.json").read_text())
    assert lease["accepts"] == sorted(str(path.relative_to(old / "half")) for path in before if "commits" in path.parts)
    assert (old / "half" / "done" / "00000003.json").is_file()


def test_failed_images_of_an_old_run_are_measured_again(of_todays_metric, capsys):
    """The image that was cut off is whole now; the commits of version 0.1 give way to what is kept of them."""
    old = of_todays_metric
    (old / "photos" / "cut.jpg").write_bytes((old / "photos" / "photo-000.jpg").read_bytes())
    before = scores(old / "complete")
    code, _, told = camrobust(capsys, "run", "complete.yaml", "--retry-failures")
    assert code == 0, told
    assert "measuring 1 failed images again" in told
    after = scores(old / "complete")
    assert after.filter(pl.col("image_id") != "cut.jpg").equals(before)
    assert after.height == ROWS // 8 * 9
    assert failures(old / "complete").is_empty()


@pytest.mark.parametrize("arguments", [("half.yaml",), ("complete.yaml", "--retry-failures")])
def test_images_are_not_measured_with_two_versions_of_the_metric(old, capsys, arguments):
    folder = old / arguments[0].removesuffix(".yaml")
    before = files(folder)
    code, _, told = camrobust(capsys, "run", *arguments)
    assert code == 2
    assert (
        f"was begun with version 1 of the metric, and this camrobust measures with version {METRIC}; finish it with "
        "the camrobust that began it, or --fresh to start in a new folder beside it" in told
    )
    assert files(folder) == before


def test_runs_of_two_versions_of_the_metric_are_not_compared(old, capsys):
    first, second = old / "complete", old / "other"
    shutil.copytree(first, second)
    run = second / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"metric": METRIC}))
    code, _, told = camrobust(capsys, "compare", "complete", "other")
    assert code == 2
    assert "metric version" in told
    assert camrobust(capsys, "compare", "complete", "complete")[0] == 0
