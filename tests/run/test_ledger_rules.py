"""What the ledger concludes from its messages, without Ray: whose death counts, who is taken apart, who is busy."""

from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from camrobust.contract.errors import RunFailed
from camrobust.run import ledger as module
from camrobust.run import waiting_ends
from camrobust.run.ledger import DEATHS, MOST, ImagePart, Ledger, Watch
from camrobust.run.messages import Batch, Begun, Ended

ALIVE, LOST = "node-a", "node-b"
NAMES = [f"image-{number:02}" for number in range(64)]


class Killed(BaseException):
    """Takes the place of a worker's death: nothing after it is executed."""


class Local:
    """The ledger without an actor: messages arrive at once."""

    def __init__(self, ledger, mute=False):
        self.begin = Method(ledger.begin)
        self.end = Method(ledger.end, mute)


class Method:
    def __init__(self, method, mute=False):
        self.method, self.mute = method, mute

    def remote(self, *message):
        return None if self.mute else self.method(*message)


class Clock:
    """Timers that ring when the test says so."""

    def __init__(self):
        self.ringing, self.waits_s = [], []

    def timer(self, seconds, function, arguments):
        self.waits_s.append(seconds)
        new = SimpleNamespace(ring=lambda: function(*arguments))
        new.start = lambda: self.ringing.append(new)
        new.cancel = lambda: self.ringing.remove(new)
        return new

    def ring(self):
        for timer in list(self.ringing):
            timer.ring()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waiting_ends, "Timer", clock.timer)
    monkeypatch.setattr(waiting_ends, "_WAITING", {})
    monkeypatch.setattr(waiting_ends, "_BEGUN", {})
    monkeypatch.setattr(waiting_ends.ray, "is_initialized", lambda: True)
    return clock


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.setattr(
        module.ray, "nodes", lambda: [{"NodeID": ALIVE, "Alive": True}, {"NodeID": LOST, "Alive": False}]
    )
    return Ledger("test")


@pytest.fixture
def worker(ledger, monkeypatch):
    """A worker that reports to the ledger and is started again when it dies, as Ray Data does."""
    tried = []

    class Context:
        def get_node_id(self):
            return ALIVE

    monkeypatch.setattr(module.ray, "get_runtime_context", Context)
    monkeypatch.setattr(module.ray, "get", lambda answer: answer)
    monkeypatch.setattr(Watch, "renew", lambda self: None)

    def work_until_done(items, deadly, model="", lives=20):
        alive = Watch("perturb", Local(ledger), 60)

        def work(places):
            tried.append(len(places))
            if any(deadly(items[place]) for place in places):
                # A process that dies sends no message that it has ended.
                alive.ledger = Local(ledger, mute=True)
                raise Killed
            return [f"made {items[place].image_id}" for place in places]

        for _ in range(lives):
            alive.ledger = Local(ledger)
            try:
                return alive.over_all(items, work, lambda why: f"refused: {why}", model=model), tried
            except Killed:
                pass
        raise AssertionError("no end")

    return work_until_done


def begin(ledger, ticket, names, node=ALIVE, model="", part=0):
    return Begun(*ledger.begin(Batch(ticket, node, "explain", model, ["set"], names, [part])))


def test_a_poison_image_among_64_is_found_and_its_63_neighbours_are_scored(ledger, worker):
    items = [ImagePart("set", name, 0) for name in NAMES]
    found, tried = worker(items, lambda item: item.image_id == "image-40")
    assert found[40].startswith(
        "refused: the worker died 3 times at this image (crash, out of memory, or more than 60 s"
    )
    assert found[:40] + found[41:] == [f"made {name}" for name in NAMES if name != "image-40"]
    # Together; alone up to the poison; the poison first; then it is condemned, and the others once more.
    assert tried == [64, *[1] * 41, 1, *[1] * 63]
    assert ledger.look()["perturb"][2] == 0
    assert ledger.condemned == {("perturb", "", "set", "image-40")}


def test_images_that_were_pardoned_stay_alone_but_their_deaths_are_forgotten(ledger, worker):
    items = [ImagePart("set", name, 0) for name in NAMES[:4]]
    worker(items, lambda item: item.image_id == "image-01")
    assert set(ledger.deaths) == {("perturb", "", "set", "image-01", 0)}
    found, tried = worker(items, lambda item: False)
    assert tried[-3:] == [1, 1, 1]
    assert found[1].startswith("refused")


def test_two_poison_images_in_one_batch_are_both_named(ledger, worker):
    items = [ImagePart("set", name, 0) for name in NAMES[:8]]
    found, _ = worker(items, lambda item: item.image_id in ("image-02", "image-05"))
    assert [one.split(":")[0] for one in found] == [
        "refused" if place in (2, 5) else f"made image-{place:02}" for place in range(8)
    ]
    assert begin(ledger, "t", ["other"]).condemned == 2


def test_a_batch_mixes_datasets_and_parts_and_only_the_part_that_kills_condemns(ledger, worker):
    items = [ImagePart("one", "a", 0), ImagePart("one", "a", 1), ImagePart("two", "a", 0), ImagePart("two", "b", 7)]
    found, _ = worker(items, lambda item: item == ImagePart("one", "a", 1))
    assert [one.split(":")[0] for one in found] == ["made a", "refused", "made a", "made b"]
    # The image is condemned with all its parts from now on, in this stage; its namesake in another dataset is not.
    found, _ = worker(items, lambda item: False)
    assert [one.split(":")[0] for one in found] == ["refused", "refused", "made a", "made b"]


def test_too_many_condemned_images_end_the_run(ledger, worker):
    items = [ImagePart("set", name, 0) for name in NAMES]
    with pytest.raises(RunFailed, match=f"workers died at more than {MOST} different images in the stage perturb"):
        worker(items, lambda item: True, lives=10 * len(NAMES))


def test_a_lost_node_is_no_death(ledger):
    for ticket in range(10):
        assert begin(ledger, f"t{ticket}", NAMES, LOST) == Begun([])
    assert begin(ledger, "last", NAMES) == Begun([])
    assert ledger.look()["explain"][2] == 1


def test_a_worker_that_died_on_a_living_node_leaves_suspects_that_are_not_begun(ledger):
    begin(ledger, "first", NAMES[:3])
    assert begin(ledger, "second", NAMES[1:5]) == Begun([0, 1], 0, 0)
    assert ledger.look()["explain"][2] == 1
    assert set(ledger.batches) == {"second"}
    assert [key[3] for key in ledger.batches["second"]] == ["image-03", "image-04"]
    assert [begin(ledger, f"alone-{number}", [NAMES[1]]).deaths for number in range(3)] == [1, 2, 3]


def test_parts_of_an_image_at_several_workers_are_no_deaths(ledger):
    assert [begin(ledger, f"t{part}", ["image"], part=part) for part in range(6)] == [Begun([])] * 6
    assert ledger.look()["explain"][2] == 6


def test_an_image_is_condemned_with_all_its_parts_for_one_model(ledger):
    tickets = iter(range(100))

    def alone(image, model, part):
        return begin(ledger, str(next(tickets)), [image], model=model, part=part)[1:]

    assert [alone("a", "one", 3) for _ in range(4)] == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert [alone("a", "one", part) for part in (0, 1)] == [(DEATHS, 1)] * 2
    assert alone("a", "other", 0) == (0, 1)
    assert [alone("a", "other", 1) for _ in range(4)][-1] == (3, 1)
    assert [alone("b", "one", 0) for _ in range(4)][-1] == (3, 2)
    # Among others it is a suspect at once.
    assert begin(ledger, "several", ["x", "a", "y"], model="one", part=5).suspects == [1]


def test_a_message_that_comes_twice_counts_once(ledger):
    begin(ledger, "first", ["a"])
    assert [begin(ledger, "second", ["a"]) for _ in range(3)] == [Begun([], 1, 0)] * 3
    begin(ledger, "batch", ["b", "c"])
    assert begin(ledger, "batch", ["b", "c"]) == Begun([], 0, 0)


def test_workers_are_counted_and_not_images_and_steps_are_images(ledger):
    begin(ledger, "one", NAMES)
    begin(ledger, "two", ["x"], model="other")
    assert ledger.look()["explain"] == (0, 0.0, 2)
    ledger.end(Ended("one", "explain", 64, 2.5))
    assert ledger.look()["explain"] == (64, 2.5, 1)
    # An end that a restarted ledger has not seen begin is counted all the same.
    ledger.end(Ended("unknown", "explain", 3, 1.0))
    assert ledger.look()["explain"] == (67, 3.5, 1)
    assert not any(key[3] in NAMES for key in ledger.open)


def test_ends_count_once_also_with_a_begin_of_nothing_but_suspects_that_comes_twice(ledger):
    begin(ledger, "dead", ["a", "b"])
    ledger.begin(list(Batch("killed", ALIVE, "explain", "", ["set"], ["a", "b"], [0])))
    begin(ledger, "done", ["x", "y"])
    message = Batch("next", ALIVE, "explain", "", ["set"], ["a", "b"], [0], [list(Ended("done", "explain", 2, 1.0))])
    assert [Begun(*ledger.begin(list(message))).suspects for _ in range(2)] == [[0, 1]] * 2
    assert ledger.look()["explain"][:2] == (2, 1.0)


def test_batches_whose_end_is_not_told_when_all_is_committed_count_once(ledger):
    begin(ledger, "told", ["a", "b"])
    begin(ledger, "stopped", ["c", "d", "e"])
    ledger.end(Ended("told", "explain", 2, 1.0))
    ledger.settle()
    assert ledger.look()["explain"] == (5, 1.0, 0)
    ledger.end(Ended("stopped", "explain", 3, 2.0))
    assert ledger.look()["explain"] == (5, 1.0, 0)
    assert begin(ledger, "next", ["c", "x"]) == Begun([])


def test_what_workers_say_of_a_failing_store_is_read_once(ledger):
    ledger.wait(["s3://a", "store: s3://a answered SlowDown, for 60 s now; it is tried again"])
    ledger.wait(["s3://a", "store: s3://a answered SlowDown, for 120 s now; it is tried again"])
    ledger.wait(["gs://b", "store: gs://b cannot be reached, for 60 s now; it is tried again"])
    assert [store for store, _ in ledger.waiting()] == ["s3://a", "gs://b"]
    assert ledger.waiting() == []


class Process:
    """A worker process that does batches, one after the other, until it is killed; counts its messages."""

    def __init__(self, ledger, monkeypatch):
        self.sent = []
        monkeypatch.setattr(module.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: ALIVE))
        monkeypatch.setattr(module.ray, "get", lambda answer: answer)
        monkeypatch.setattr(Watch, "renew", lambda self: None)
        told = Local(ledger)
        told.begin = Method(lambda message: self.sent.append("begin") or ledger.begin(message))
        told.end = Method(lambda message: self.sent.append("end") or ledger.end(message))
        self.watch = Watch("explain", told, 60)

    def do(self, names):
        tried = []

        def work(places):
            tried.append(len(places))
            return [f"made {names[place]}" for place in places]

        items = [ImagePart("set", name, 0) for name in names]
        assert self.watch.over_all(items, work, lambda why: f"refused: {why}") == [f"made {name}" for name in names]
        return tried

    def die(self, clock):
        """What it has not sent is lost."""
        waiting_ends._WAITING.clear()
        clock.ringing.clear()


@pytest.fixture
def process(ledger, monkeypatch):
    return lambda: Process(ledger, monkeypatch)


def test_a_fast_batch_costs_one_message_and_the_last_end_is_sent_by_a_timer(ledger, process, clock):
    one = process()
    for first in range(0, 64, 16):
        one.do(NAMES[first : first + 16])
    assert one.sent == ["begin"] * 4
    assert ledger.look()["explain"][::2] == (48, 1)
    clock.ring()
    assert one.sent == ["begin"] * 4 + ["end"]
    assert ledger.look()["explain"][::2] == (64, 0)
    assert (ledger.open, ledger.batches, clock.ringing) == ({}, {}, [])


def test_an_end_waits_for_two_pauses_between_begins_within_limits(process, clock, monkeypatch):
    one, now = process(), [0.0]
    monkeypatch.setattr(waiting_ends.time, "monotonic", lambda: now[0])
    for pause_s in (0.0, 0.01, 0.3, 30.0, 0.4):
        now[0] += pause_s
        one.do(NAMES[:2])
    assert clock.waits_s == pytest.approx([0.25, 0.25, 0.6, 1.0, 0.8])
    assert one.sent == ["begin"] * 5


def test_an_image_alone_and_a_slow_batch_end_at_once(ledger, process, clock, monkeypatch):
    one = process()
    one.do(NAMES[:1])
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    one.do(NAMES[1:4])
    assert one.sent == ["begin", "end", "begin", "end"]
    assert (ledger.look()["explain"][::2], clock.ringing) == ((4, 0), [])


@pytest.mark.parametrize("rounds", [1, 10])
def test_images_whose_end_is_lost_with_their_worker_are_never_refused(ledger, process, clock, rounds):
    """Killed after the batch and before the next begin, time after time: done again, one by one, and pardoned."""
    for number in range(rounds):
        one = process()
        assert one.do(NAMES[:8]) == ([8] if number == 0 else [1] * 8)
        one.die(clock)
    assert process().do(NAMES[:8]) == [1] * 8
    assert (ledger.deaths, ledger.condemned) == ({}, set())
    assert ledger.look()["explain"][2] == 0


def test_an_end_whose_begin_fails_goes_with_the_next_message(ledger, process, clock, monkeypatch):
    one = process()
    one.do(NAMES[:4])
    with monkeypatch.context() as patch:

        def fails(_message):
            raise RayError

        patch.setattr(one.watch.ledger, "begin", Method(fails))
        one.do(NAMES[4:8])
    one.do(NAMES[8:12])
    clock.ring()
    assert ledger.look()["explain"][::2] == (12, 0)
    assert ledger.batches == {}


def test_a_batch_that_was_done_is_not_blamed_for_a_death_in_the_next(ledger, process, clock):
    one = process()
    one.do(NAMES[:8])
    # The next begin arrives, and then the worker dies at its work.
    one.watch._begin("deadly", "", [ImagePart("set", name, 0) for name in NAMES[8:16]])
    one.die(clock)
    assert process().do(NAMES[:8]) == [8]
    assert process().do(NAMES[8:16]) == [1] * 8


def test_the_same_begin_twice_counts_the_ends_that_it_carries_once(ledger):
    begin(ledger, "first", NAMES[:4])
    second = Batch("second", ALIVE, "explain", "", ["set"], NAMES[4:8], [0], [Ended("first", "explain", 4, 0.5)])
    assert [Begun(*ledger.begin(second)) for _ in range(2)] == [Begun([])] * 2
    assert ledger.look()["explain"] == (4, 0.5, 1)


def test_a_process_that_belongs_to_no_cluster_any_more_starts_none(ledger, process, clock, monkeypatch):
    one = process()
    one.do(NAMES[:2])
    monkeypatch.setattr(waiting_ends.ray, "is_initialized", lambda: False)
    clock.ring()
    assert (one.sent, waiting_ends._WAITING) == (["begin"], {})
