"""A driver, or a worker in mid-commit, that sleeps while another driver completes the run, and wakes afterwards."""

import os
import signal
import time

import pytest

from camrobust.bench.chaos.processes import descendants, is_stopped
from camrobust.results.folder import open_run
from camrobust.results.verify import verify
from tests.in_process import camrobust
from tests.photos import write_photos
from tests.runs import SMALL, config, done_of, end, named, scores, start, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TERM_S = "4"
IMAGES = 24
FEW = SMALL | {"gallery_images": 0, "perturbations": ["gaussian_noise:1-5"], "cams": ["gradcam", "random"]}
NOT_OF_THE_RESULT = ("beats/", "progress/")


@pytest.fixture(autouse=True)
def term(monkeypatch):
    """Also for the later drivers, which are at work in this process."""
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", TERM_S)


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "set", IMAGES, size=(80, 72))
    return tmp_path / "set"


def results(output):
    """Every file of a run that never changes."""
    store = open_run(output).store
    found = (entry.key for entry in store.list())
    return {key: store.read(key) for key in found if not key.startswith(NOT_OF_THE_RESULT)}


def wake(sleepers, process):
    for pid in sleepers:
        os.kill(pid, signal.SIGCONT)
    printed, _ = process.communicate(timeout=200)
    return printed


def judge(output, before, rows):
    """What counted when the second driver was done counts, unchanged, whatever came after."""
    after = results(output)
    assert before.items() <= after.items()
    verdict = verify(open_run(output))
    assert verdict.complete
    assert verdict.score_rows == IMAGES * 5 * 2
    assert scores(output).equals(rows)
    late = [key for key in after.keys() - before.keys() if key.startswith("commits/")]
    assert all(key.startswith("commits/00000001-") for key in late)
    return late


def test_a_driver_and_a_worker_stopped_in_mid_commit_change_nothing_when_they_wake(cluster, tmp_path, photos, capsys):
    output = str(tmp_path / "out")
    path = config(tmp_path, photos, **FEW)
    process = start("run", path, "--address", cluster.address)
    asleep = set()
    try:
        wait_for(lambda: (tmp_path / "out" / "commits").is_dir(), process)
        asleep = {stop_in_mid_commit(tmp_path / "out", process), process.pid}
        os.kill(process.pid, signal.SIGSTOP)
        code, _, told = camrobust(capsys, "run", path)
        assert code == 0, told
        assert "another driver may be at work" in told
        before, rows = results(output), scores(output)
        assert rows.height == IMAGES * 5 * 2
        printed = wake(asleep, process)
    finally:
        end([process.pid, *asleep])
    assert process.returncode == 1, printed
    assert "another driver has taken it over; run again to resume what is left" in printed.splitlines()[-1]
    judge(output, before, rows)


def stop_in_mid_commit(out, process):
    """Stop a worker that has written data files and not yet the commit that names them."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, process.stdout.read()
        for pid in named(descendants(os.getpid()), "ray::MapBatches(Commit)"):
            os.kill(pid, signal.SIGSTOP)
            while not is_stopped(pid):
                time.sleep(0.001)
            data = {path.name[:33] for path in out.glob("scores/*/*/*.parquet")}
            commits = {path.name[:33] for path in out.glob("commits/*.parquet")}
            if data - commits:
                return pid
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("no worker was ever caught in mid-commit")


@pytest.mark.s3
def test_commits_that_reach_the_store_after_another_driver_is_done_do_not_count(
    cluster, tmp_path, photos, bucket, capsys
):
    """Every commit of the first driver is held back on its way; the driver sleeps; both arrive late."""
    output = f"s3://{bucket}/out"
    path = config(tmp_path, photos, output=output, **FEW)
    faults = cluster.faults
    faults.hold, faults.holding = r"^PUT .*/commits/00000001-", 0
    faults.let_go.clear()
    process = start("run", path, "--address", cluster.address, AWS_ENDPOINT_URL=cluster.store)
    try:
        wait_for(lambda: faults.holding, process)
        os.kill(process.pid, signal.SIGSTOP)
        code, _, told = camrobust(capsys, "run", path)
        assert code == 0, told
        before, rows = results(output), scores(output)
        assert not [key for key in before if key.startswith("commits/00000001-")]
        faults.let_go.set()
        store = open_run(output).store
        limit = time.monotonic() + 60
        while not (late := [entry.key for entry in store.list("commits/00000001-")]):
            assert time.monotonic() < limit
            time.sleep(0.1)
        printed = wake([process.pid], process)
    finally:
        faults.let_go.set()
        end([process.pid])
    assert process.returncode == 1, printed
    assert "another driver has taken it over" in printed.splitlines()[-1], printed
    assert set(late) <= set(judge(output, before, rows))
    # The next driver clears them away, and only them.
    code, _, told = camrobust(capsys, "run", path, "--retry-failures")
    assert code == 0, told
    assert "files that no commit counts" in told
    cleared = results(output)
    assert not [key for key in cleared if "/00000001-" in key]
    assert scores(output).equals(rows)
    assert done_of(output).lease > 2
