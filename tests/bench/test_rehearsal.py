"""The rehearsal: what is counted on the way to the store, the driver seen from outside, and what is lost."""

import json
import random
import runpy
import signal
import subprocess
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml

from camrobust.bench.chaos import buckets
from camrobust.bench.scale import losses, pictures, rehearsal, watched
from camrobust.bench.scale.relay import Requests, counting
from camrobust.bench.scale.stubs import REHEARSED
from camrobust.contract.config_file import load_config
from camrobust.contract.errors import RunFailed, UserError
from camrobust.interface.cli import main
from camrobust.io.manifest import list_images
from camrobust.io.s3_client import forget_clients
from camrobust.io.store import open_store
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.run.pipeline import KINDS
from camrobust.run.plan import make_plan
from camrobust.run.stages.batches import pending_batch
from tests.in_process import through_open_session
from tests.runs import environment, scores

IMAGES = 6


@pytest.mark.s3
def test_every_request_is_counted_and_every_byte_passes(object_store, bucket, monkeypatch):
    requests, content = Requests(), random.Random(0).randbytes(2**20 + 1)
    with counting(object_store["AWS_ENDPOINT_URL"], requests) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        forget_clients()
        store = open_store(f"s3://{bucket}/x y")
        for number in range(3):
            assert store.create(f"scores/{number}", content)
        assert [store.read(f"scores/{number}") for number in range(3)] == [content] * 3
        assert len(list(store.list("scores/"))) == 3
        store.delete("scores/0")
    forget_clients()
    counts = Counter()
    for (verb, path), times in requests.take().items():
        assert path.startswith(f"/{bucket}/x y/scores/")
        counts[verb] += times
    assert counts == {"PUT": 3, "GET": 3, "LIST": 1, "DELETE": 1}
    assert not requests.counts


def test_requests_are_told_apart_by_what_they_are_for():
    counts = Counter({
        ("GET", "/b/pictures/0000/a.jpg"): 9, ("GET", "/b/pictures/0000/b.jpg"): 10, ("LIST", "/b/pictures/"): 1,
        ("PUT", "/b/out/scores/dataset=d/model=m/x.parquet"): 2, ("GET", "/b/out/run.json"): 3, ("HEAD", "/b"): 1,
    })  # fmt: skip
    rows = rehearsal.request_rows(counts, "b", 20)
    assert [(row["request"], row["for"], row["times"]) for row in rows] == [
        ("GET", "pictures", 19), ("GET", "run.json", 3), ("PUT", "scores", 2), ("LIST", "pictures", 1),
        ("HEAD", "bucket", 1), ("all", "", 26),
    ]  # fmt: skip
    assert rows[0]["per_image"] == 0.95


@pytest.mark.s3
def test_pictures_differ_and_a_manifest_repeats_them(bucket):
    pictures.upload(bucket, 3)
    store = open_store(f"s3://{bucket}/{pictures.ROOT}")
    assert {entry.key: store.read(entry.key) for entry in store.list()} == {
        pictures.name_of(number): pictures.jpeg(number) for number in range(3)
    }
    assert len({pictures.jpeg(number) for number in range(3)}) == 3
    found = list_images("d", pictures.write_manifest(bucket, 3, 7))
    assert (found.height, found["uri"].n_unique()) == (7, 3)


@pytest.mark.s3
@pytest.mark.usefixtures("bucket")
def test_a_bucket_of_ones_own_is_deleted_with_all_that_is_in_it(monkeypatch):
    monkeypatch.setattr(buckets, "AT_ONCE", 2)
    with buckets.own_bucket("test") as name:
        store = open_store(f"s3://{name}/a")
        for number in range(5):
            store.write(f"{number} &+", b"x")
    with pytest.raises(UserError, match="there is no bucket"):
        list(store.list())


def test_the_rehearsal_wants_a_store(monkeypatch, capsys):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert main(["bench", "rehearsal", "10"]) == 2
    assert "the rehearsal needs an S3 store on this machine; set AWS_ENDPOINT_URL" in capsys.readouterr().err


class Nodes:
    """Two nodes; the second has a worker of Load."""

    def __init__(self, pid):
        quiet = SimpleNamespace(workers=lambda *_: [])
        loads = SimpleNamespace(workers=lambda stage, *_: [pid] if stage == "Load" else [])
        self.workers = [quiet, loads]

    def lose(self, node):
        self.workers.remove(node)

    def add(self):
        self.workers.append(SimpleNamespace(workers=lambda *_: []))


def test_only_what_was_running_counts_as_lost():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        found = losses.Losses(Nodes(process.pid), random.Random(0), 1, 1)
        found.kill_worker()
        assert process.wait(60) == -9
    assert found.counts == {"worker of Load": 1}
    found.cluster = Nodes(0)
    found.cluster.workers.pop()
    found.kill_worker()
    assert found.counts == {"worker of Load": 1}
    found.lose_node()
    assert found.counts == {"worker of Load": 1, "node": 1}
    assert len(found.cluster.workers) == 2


def test_a_node_that_does_not_start_in_time_is_tried_again(monkeypatch):
    found = losses.Losses(Nodes(0), random.Random(0), 1, 1)

    def too_busy():
        raise RunFailed("a Ray node did not start")

    with monkeypatch.context() as patch:
        patch.setattr(found.cluster, "add", too_busy)
        for _ in range(3):
            found.lose_node()
    assert (found.counts["node"], found.cluster.workers) == (2, [])
    found.complete()
    assert len(found.cluster.workers) == 2


def test_a_mistake_in_the_losses_is_not_silent(monkeypatch):
    run = SimpleNamespace(measuring=threading.Event())
    run.measuring.set()
    found = losses.Losses(Nodes(0), random.Random(0), 1e-9, 1e9)
    struck = threading.Event()

    def mistaken():
        struck.set()
        raise LookupError

    monkeypatch.setattr(found, "kill_worker", mistaken)
    with pytest.raises(LookupError), found.while_measuring(run):
        assert struck.wait(60)


def test_nothing_is_lost_before_and_after_measuring(monkeypatch):
    run, lost = SimpleNamespace(measuring=threading.Event()), threading.Event()
    found = losses.Losses(Nodes(0), random.Random(0), 1e-9, 1e9)
    monkeypatch.setattr(found, "kill_worker", lost.set)
    with found.while_measuring(run):
        pass
    assert not lost.is_set()
    with found.while_measuring(run):
        run.measuring.set()
        assert lost.wait(60)


FAKE = """
import json, sys, time
print("Ray says this")
for line in sys.argv[1].split("|"):
    print(line, flush=True)
sys.exit(int(sys.argv[2]))
"""


def test_the_driver_is_seen_from_outside(tmp_path, monkeypatch):
    (tmp_path / "fake_driver.py").write_text(FAKE)
    monkeypatch.setattr(watched, "MODULE", "fake_driver")
    events = [{"event": "list"}, {"event": "planned"}, {"event": "round", "images": 5}, {"event": "round", "images": 5},
              {"event": "measured"}, {"event": "said", "line": "a line"}]  # fmt: skip
    told = []
    seen = watched.Watched(["|".join(map(json.dumps, events)), "1"], environment(PYTHONPATH=str(tmp_path)), told.append)
    assert seen.run() == 1
    seen.arguments[1] = "0"
    assert seen.run() == 0
    assert (seen.exits, seen.last, told.count("a line")) == ([1, 0], "a line", 2)
    assert [(row["round"], row["attempt"], row["images"]) for row in seen.rows()] == [
        (1, 1, 5), (2, 1, 5), (3, 2, 5), (4, 2, 5),
    ]  # fmt: skip
    assert all(row["seconds"] >= 0 for row in seen.rows())
    assert not seen.measuring.is_set()
    for one, end in zip(seen.rounds[2:], (100.0, 101.0), strict=True):
        one.mib = [100.0, end]
    assert seen.slope_kib() == pytest.approx(1024 / 5)


@pytest.fixture
def path(tmp_path):
    """The configuration of a rehearsal, from and to folders."""
    store = open_store(str(tmp_path / "set"))
    for number in range(IMAGES):
        store.write(f"{number}.jpg", pictures.jpeg(number))
    wanted = rehearsal.Rehearsal(IMAGES, IMAGES, 3, 1, 1, 0)
    found = rehearsal._config(tmp_path, "bucket", wanted)
    data = yaml.safe_load(found.read_text())
    data["cluster"] = {"explainers": [1, 1]}
    data |= {"output": str(tmp_path / "out"), "datasets": [{"name": "rehearsal", "images": str(tmp_path / "set")}]}
    found.write_text(yaml.safe_dump(data))
    return found


def test_only_the_network_is_left_out(path):
    assert [mine is its_own for mine, its_own in zip(REHEARSED, KINDS, strict=True)] == [True, True, False, True]
    config = load_config(path)
    plan, folder = make_plan(config), open_run(config.output)
    batch = pending_batch(pending_parts(plan.manifest, 1, folder.committed()))
    for stage in (
        REHEARSED.load(config),
        REHEARSED.perturb(config, plan.parts, "cpu"),
        REHEARSED.explain(config, plan.parts, frozenset(), {}, "cpu", plan.pass_sizes["cpu"]),
        REHEARSED.commit(folder.uri, 0),
    ):
        batch = stage(batch)
    assert batch["rows"].to_pylist() == [IMAGES * 6]
    assert folder.table("images", folder.committed())["brightness"].n_unique() == IMAGES


@pytest.mark.cluster
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_driver_streams_in_rounds_and_completes_the_run(cluster, path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["", str(path), "local", "3"])
    monkeypatch.delitem(sys.modules, watched.MODULE, raising=False)
    with through_open_session(), pytest.raises(SystemExit) as ended:
        runpy.run_module(watched.MODULE, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    events = [json.loads(line) for line in lines if line.startswith(watched.TOLD)]
    assert ended.value.code == 0, lines
    assert [event["event"] for event in events] == ["list", "said", "planned", "round", "round", "measured"]
    assert events[1]["line"].startswith("images: resize 32 px, crop 32 px")
    assert [event["images"] for event in events[3:5]] == [3, 3]
    assert scores(tmp_path / "out").height == IMAGES * 6
