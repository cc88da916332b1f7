"""A store that refuses, delays, cuts off and loses answers: a proxy in front of a real store."""

import os
import random
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import polars as pl
import pytest

from camrobust.bench.chaos.proxy import FAULTS, Faults, failing_store
from camrobust.contract.errors import RunFailed
from camrobust.io import retries, s3
from camrobust.io.s3_client import client, forget_clients
from camrobust.io.store import open_store
from tests import in_process
from tests.failing_stores import read_shards_through
from tests.photos import write_photos
from tests.runs import SMALL, config, scores

pytestmark = pytest.mark.s3
TURNS = 10 if os.environ.get("CAMROBUST_ALL") else 5
DOWN_S = 8
"""Long enough for several lines about it."""
SOME = {"refuse": 0.05, "cut": 0.05, "deaf": 0.03}


@pytest.fixture
def faults(object_store, bucket, monkeypatch):
    """The faults of a proxy between this process and the store; none at first."""
    found = Faults(dice=random.Random(1))
    with failing_store(object_store["AWS_ENDPOINT_URL"], found) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        forget_clients()
        yield found
    forget_clients()


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived(faults, bucket, fault, monkeypatch):
    monkeypatch.setattr("camrobust.bench.chaos.proxy.SLOW_S", 0.2)
    pauses = []

    def sleep(pause_s):
        pauses.append(pause_s)
        time.sleep(pause_s / 10)

    # Only the pauses between attempts are shorter: they end by a clock that runs ten times faster.
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 10 * time.monotonic()))
    store = open_store(f"s3://{bucket}/x")
    faults.shares = {fault: 0.3}
    content = bytes(range(256)) * 4096
    for number in range(TURNS):
        store.write(f"{number}", content)
        assert store.create(f"new/{number}", content)
        assert store.read(f"{number}") == content
        assert store.head(f"{number}", 9) == content[:9]
    assert len(list(store.list("new/"))) == TURNS
    assert faults.struck[fault] >= 3
    assert pauses if fault != "slow" else not pauses


def test_shards_are_listed_and_read_through_faults(faults, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    read_shards_through(faults, f"s3://{bucket}/set", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("refuse", "answered SlowDown; the store may be overloaded, run again to resume"),
        ("cut", "did not answer in full"),
        ("deaf", "did not answer in full"),
    ],
)
def test_a_lasting_fault_gives_one_sentence_and_exit_code_1(faults, bucket, fault, sentence, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    forget_clients()
    store = open_store(f"s3://{bucket}/x")
    store.write("a", b"content")
    faults.shares = {fault: 1}
    with pytest.raises(RunFailed, match=sentence) as caught:
        store.read("a")
    assert caught.value.exit_code == 1


def test_a_slow_object_is_given_up(faults, bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3, "OBJECT_TIMEOUT_S", -1)
    forget_clients()
    store = open_store(f"s3://{bucket}/x")
    store.write("a", b"content")
    with pytest.raises(RunFailed, match="did not answer in full"):
        store.read("a")


@contextmanager
def down_once_it_has_begun(faults, begun):
    """Some faults at first, nothing but refusals for a while once a run has begun, then some again."""

    def fail():
        while not begun() and not over.is_set():
            time.sleep(0.05)
        faults.shares = {"refuse": 1}
        over.wait(DOWN_S)
        faults.shares = SOME

    over, thread = threading.Event(), threading.Thread(target=fail)
    faults.shares = SOME
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_outlives_a_store_that_is_down_and_is_exact(cluster, bucket, tmp_path, capsys, monkeypatch):
    write_photos(tmp_path / "set", 6)
    source = open_store(f"s3://{bucket}/photos")
    for path in (tmp_path / "set").iterdir():
        source.write(path.name, path.read_bytes())
    path = config(tmp_path, "", datasets=[{"name": "s3", "images": f"s3://{bucket}/photos"}],
                  output=f"s3://{bucket}/runs/one", **SMALL)  # fmt: skip
    faults, direct = cluster.faults, client()
    faults.dice = random.Random(1)
    # Half a minute of patience is worth fifteen in this process; a line comes every two seconds.
    monkeypatch.setenv("CAMROBUST_STORE_PATIENCE_S", "30")
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", "6")
    monkeypatch.setenv("AWS_ENDPOINT_URL", cluster.store)

    def begun():
        return "Contents" in direct.list_objects_v2(Bucket=bucket, Prefix="runs/one/lease/")

    forget_clients()
    with down_once_it_has_begun(faults, begun):
        code, _, printed = in_process.camrobust(capsys, "run", path, by=in_process.through_open_session)
    assert code == 0, printed
    assert f"store: s3://{bucket} answered SlowDown, for " in printed
    assert faults.struck.keys() == {"refuse", "cut", "deaf"}
    faults.shares = {"refuse": 1}
    with monkeypatch.context() as fewer:
        fewer.setenv("AWS_MAX_ATTEMPTS", "2")
        forget_clients()
        code, _, told = in_process.camrobust(capsys, "verify", f"s3://{bucket}/runs/one")
    assert (code, len(told.splitlines())) == (1, 1), told
    faults.shares = {}
    forget_clients()
    last = in_process.run(path)
    assert last.exit_code == 0
    assert in_process.camrobust(capsys, "verify", f"s3://{bucket}/runs/one")[0] == 0
    local = config(tmp_path, tmp_path / "set", datasets=[{"name": "s3", "images": str(tmp_path / "set")}], **SMALL)
    assert in_process.run(local).exit_code == 0

    import camrobust as package

    keys = ["image_id", "cam", "perturbation", "strength", "replicate"]
    remote = package.load_run(f"s3://{bucket}/runs/one").scores.sort(keys)
    here = scores(tmp_path / "out").sort(keys)
    assert remote.select(sorted(here.columns)).equals(
        here.select(sorted(here.columns)).cast(dict(pl.DataFrame(remote).schema))
    )
