"""The protocol of docs/protocol.md under every order of its steps: no unit lost, none twice, no live file changed."""

import os
from dataclasses import dataclass
from functools import partial

import polars as pl
import pytest

from camrobust.contract.errors import UserError
from camrobust.contract.run_documents import FinishedRecord
from camrobust.contract.run_files import number_of
from camrobust.contract.schema import FAILURES, IMAGES, MAPS, SCORES
from camrobust.results import commits, lease
from camrobust.results import counted as reading
from camrobust.results.arrow import make_table
from camrobust.results.commits import keep_rest
from camrobust.results.counted import read_committed
from camrobust.results.folder import RunFolder
from camrobust.results.lease import acquire
from camrobust.results.tables import read_frame
from camrobust.run import workflow
from tests.commits import PartResult, write_commit
from tests.documents import run_record
from tests.protocol.model import SteppedStore, ViolationError, World, counted, explore, newest
from tests.synthetic import score_rows

DEPTH = int(os.environ.get("CAMROBUST_MODEL_DEPTH", "1"))
"""Most preemptions in a schedule; `make test-model` takes 2, which needs some minutes."""
SLOW = pytest.mark.skipif(DEPTH < 2, reason="takes a minute: make test-model")
IMAGES_ = ("a", "b")
MANIFEST = pl.DataFrame(
    {"dataset": "d", "image_id": IMAGES_, "uri": IMAGES_, "label": [None, None]},
    schema={"dataset": pl.String, "image_id": pl.String, "uri": pl.String, "label": pl.Int32},
)
SCORE_ROWS = {image: make_table(SCORES, score_rows(images=1, models=("m",), datasets=("d",), ids=[image])[:1])
              for image in IMAGES_}  # fmt: skip
NOTHING = {name: make_table(columns, []) for name, columns in (("f", FAILURES), ("m", MAPS), ("i", IMAGES))}


def unit(image):
    return PartResult("d", image, 0, SCORE_ROWS[image], NOTHING["i"], NOTHING["f"], NOTHING["m"])


class Serial:
    """In the place of a pool of threads, of which the schedule knows nothing."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


@dataclass(frozen=True)
class Alone:
    """A store of one object."""

    content: bytes
    uri = "memory"

    def read(self, key, most=None):
        return self.content

    def locate(self, key):
        return f"memory/{key}"


KNOWN = {}


def read_once(store, key, columns, budget=None):
    """`read_frame`, which gives the same for the same bytes in every one of thousands of schedules."""
    asked = store.read(key), tuple(columns)
    if asked not in KNOWN:
        KNOWN[asked] = read_frame(Alone(asked[0]), key, columns, budget)
    return KNOWN[asked]


@pytest.fixture(autouse=True)
def adversary(monkeypatch):
    """Nobody's beats are believed: every driver may take over from every other at any moment."""
    KNOWN.clear()
    monkeypatch.setattr(lease, "_is_free", lambda *_: True)
    monkeypatch.setattr(reading, "ThreadPoolExecutor", Serial)
    monkeypatch.setattr(reading, "read_frame", read_once)
    monkeypatch.setattr(commits, "read_frame", read_once)


def accepted(folder, number):
    del number
    return folder.committed().commits


def without_b(folder, number):
    failed = pl.DataFrame({"dataset": ["d"], "image_id": ["b"]})
    return keep_rest(folder.store, folder.committed(), failed, number)


def drive(world, name, accept, split, executions):
    """A driver as `workflow.run` is one; its commits are written by tasks of their own, each executed several times."""
    folder = RunFolder(world.store)
    held = acquire(world.store, partial(accept, folder))

    def measure(pending):
        images = pending["image_id"].to_list()
        groups = [[image] for image in images] if split else [images]
        for place, group in enumerate(groups):
            units = [unit(image) for image in group]
            work = partial(write_commit, world.store, units, held.number)
            tasks = [world.add(f"{name}/{held.number}/{place}/{run}", work) for run in range(executions)]
            # Ray goes on as soon as one execution has ended; the others are forgotten, not stopped.
            world.wait(lambda tasks=tasks: any(task.ended for task in tasks))

    workflow.measure_until_done(folder, held, measure)
    if folder.committed().parts.height == len(IMAGES_):
        folder.finish(held.number, FinishedRecord())
        return "complete"
    return "incomplete"


class Watch:
    """Looks at every object as it is created."""

    def __init__(self):
        self.store = None

    def __call__(self, key):
        objects = self.store.objects
        if key.startswith("done/") and key == f"done/{newest(objects)[0]:08}.json":
            self.expect_all(objects, key)
        if key.startswith("lease/") and f"done/{int(key[6:14]) - 1:08}.json" in objects and not self.retried(objects):
            self.expect_all(objects, key)
        twice = [one for one, times in counted(objects).items() if times > 1]
        if twice:
            raise ViolationError(f"{twice} count twice after {key}")

    @staticmethod
    def retried(objects):
        return any("-kept-" in key for key in newest(objects)[1]["accepts"])

    @staticmethod
    def expect_all(objects, key):
        if counted(objects) != {(image, 0): 1 for image in IMAGES_}:
            raise ViolationError(f"{counted(objects)} counts after {key}")


def begun(store):
    RunFolder(store).begin(run_record(MANIFEST.height), MANIFEST)


def make_world(drivers, monkeypatch):
    def build():
        watch = Watch()
        world = World(watch)
        watch.store = world.store
        begun(world.store)
        monkeypatch.setattr(commits, "nonce", world.random)
        monkeypatch.setattr(lease.secrets, "token_hex", world.random)
        for place, (accept, split, executions) in enumerate(drivers):
            name = f"driver {place}"
            world.add(name, partial(drive, world, name, accept, split, executions))
        return world

    return build


def check_end(world):
    """Whoever said that the run is complete was right, and nobody ended in any other way than the protocol's."""
    drivers = [one for one in world.actors if one.name.startswith("driver ") and "/" not in one.name]
    for one in drivers:
        if isinstance(one.outcome, Exception) and not isinstance(one.outcome, UserError):
            raise one.outcome
    if drivers[-1].outcome == "complete" and f"done/{newest(world.store.objects)[0]:08}.json" in world.store.objects:
        assert counted(world.store.objects) == {(image, 0): 1 for image in IMAGES_}


def recover(objects):
    """Everyone has crashed here: one driver that comes later completes the run, and counts every row once."""
    store = SteppedStore()
    store.objects = dict(objects)
    world = World(lambda _: None)
    world.store = store
    folder = RunFolder(store)
    held = acquire(store, partial(accepted, folder))
    workflow.measure_until_done(
        folder, held, lambda pending: write_commit(store, [unit(image) for image in pending["image_id"]], held.number)
    )
    folder.finish(held.number, FinishedRecord())
    assert counted(store.objects) == {(image, 0): 1 for image in IMAGES_}
    # What was made ready for this very lease, by one who did not get it, goes under the next.
    assert all(number_of(key) >= held.number for key in read_committed(store).uncounted)


SCENES = {
    "two drivers, one image per commit": [(accepted, True, 1), (accepted, True, 1)],
    "two drivers, every commit executed twice": [(accepted, False, 2), (accepted, False, 1)],
    "one measures, one retries": [(accepted, False, 1), (without_b, False, 2)],
    "three drivers": [(accepted, False, 1), (without_b, True, 1), (accepted, False, 1)],
}


@pytest.mark.parametrize("scene", SCENES)
def test_no_order_of_steps_loses_a_unit_counts_one_twice_or_changes_what_counts(scene, monkeypatch):
    runs, _, states = explore(make_world(SCENES[scene], monkeypatch), check_end, DEPTH, recover)
    assert runs > 40 * DEPTH
    assert states > 50


def break_numbers(monkeypatch):
    """Every commit counts, whoever wrote it."""
    monkeypatch.setattr(reading, "counts_by_number", lambda *_: True)


def break_deleting(monkeypatch):
    """A holder deletes whatever it does not count, also what others write now."""
    real = commits.delete_uncounted
    monkeypatch.setattr(workflow, "delete_uncounted", lambda store, committed, _: real(store, committed, 10**6))


def break_lists(monkeypatch):
    """A lease lists nothing of what counted before."""
    monkeypatch.setattr(workflow, "_accepted", lambda *_: [])


def break_retries(monkeypatch):
    """What a retry keeps counts before its lease is there."""
    monkeypatch.setattr(commits, "kept_key", lambda number, name: commits.commit_key(number, f"{name}{'0' * 8}"))


def break_commits(monkeypatch):
    """A commit is written, not created."""
    monkeypatch.setattr(SteppedStore, "create", SteppedStore.write)


@pytest.mark.parametrize(
    ("fault", "scene", "depth"),
    [
        (break_numbers, "two drivers, every commit executed twice", 1),
        (break_lists, "two drivers, one image per commit", 1),
        (break_commits, "two drivers, one image per commit", 1),
        (break_retries, "one measures, one retries", 1),
        pytest.param(break_deleting, "two drivers, every commit executed twice", 2, marks=SLOW),
    ],
)
def test_a_protocol_with_a_fault_is_found_out(fault, scene, depth, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        explore(make_world(SCENES[scene], monkeypatch), check_end, depth, recover)
