"""The chaos bench counts honestly, compares every table, and leaves nothing behind."""

import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from camrobust.bench.chaos import faults, harness, jobs, node_faults, process_faults, store_faults, trial
from camrobust.bench.chaos.judge import KEYS, Results, wrong
from camrobust.bench.chaos.processes import descendants, is_stopped, title
from camrobust.bench.chaos.proxy import Faults, Link
from camrobust.interface.cli import main
from camrobust.io.store import open_store
from tests.runs import ROOT, environment

IMAGES = pl.DataFrame({"dataset": "d", "image_id": ["a", "b"], "brightness": [0.1, None]})
MAPS = pl.DataFrame({"dataset": "d", "image_id": ["a", "a"], "model": "m", "perturbation": ["clean", "blur"],
                     "strength": "", "replicate": 0, "maps": [b"\0\1", b"\2\3"]})  # fmt: skip
SUMMARIES = {
    "by_cam": pl.DataFrame({"cam": ["x", "y"], "n_images": [2, 2], "robustness": [0.5, 0.25]}),
    "tests": pl.DataFrame({"test": ["friedman"], "p": [0.01]}),
}
NEXT = math.nextafter(0.01, 1)
SCORES = pl.DataFrame({**{key: ["a", "b"] for key in KEYS[:-1]}, "replicate": [0, 0], "rbo": [0.1, 0.2]})
EXPECTED = Results(SCORES, IMAGES, MAPS, SUMMARIES)


def test_equal_results_are_exact_in_any_order():
    turned = {name: table.reverse() for name, table in SUMMARIES.items()}
    found = Results(SCORES.reverse(), IMAGES.reverse(), MAPS.reverse(), turned)
    assert not any(wrong(found, EXPECTED).values())


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("different", {"scores": SCORES.with_columns(rbo=pl.Series([0.1, 0.2 + 1e-9]))}),
        ("lost", {"scores": SCORES[:1]}),
        ("doubled", {"scores": pl.concat([SCORES, SCORES[:1]])}),
        ("images", {"images": IMAGES.with_columns(brightness=pl.Series([0.1, 0.2]))}),
        ("images", {"images": pl.concat([IMAGES, IMAGES[1:]])}),
        ("maps", {"maps": MAPS.with_columns(maps=pl.Series([b"\0\1", b"\2\4"]))}),
        ("maps", {"maps": MAPS[:1]}),
        ("summaries", {"summaries": {**SUMMARIES, "tests": pl.DataFrame({"test": ["friedman"], "p": [0.011]})}}),
        ("summaries", {"summaries": {**SUMMARIES, "by_cam": SUMMARIES["by_cam"][:1]}}),
        ("summaries", {"summaries": {**SUMMARIES, "by_cam": SUMMARIES["by_cam"].with_columns(n_images=3)}}),
        ("summaries", {"summaries": {**SUMMARIES, "tests": pl.DataFrame({"test": ["friedman"], "p": [NEXT]})}}),
        ("summaries", {"summaries": {**SUMMARIES, "tests": SUMMARIES["tests"].with_columns(p=pl.lit(None, float))}}),
    ],
)
def test_one_wrong_cell_of_any_table_is_found(kind, changed):
    counts = wrong(replace(EXPECTED, **changed), EXPECTED)
    assert [name for name, count in counts.items() if count] == [kind]


class Ended:
    """A driver that has ended."""

    pid, returncode = 0, 0

    def poll(self):
        return 0

    def communicate(self, timeout=None):
        del timeout
        return "", 0

    def kill(self):
        pass


@pytest.fixture
def one(tmp_path, monkeypatch):
    """A trial whose driver ends at once with success, on no cluster."""
    found = trial.Trial(0, random.Random(0), None, jobs.NARROW, tmp_path / "run.yaml", str(tmp_path / "out"),
                        open_store(str(tmp_path)), {}, Faults(), 40, tmp_path)  # fmt: skip
    monkeypatch.setattr(found, "start", lambda *_: setattr(found, "driver", Ended()))
    return found


def test_a_fault_that_finds_nothing_to_strike_is_not_an_injection(one):
    def nothing(_trial):
        raise trial.Missed("kill -9 Load (none was running)")

    trial.carry_out(one, [(trial.BEFORE, nothing), (0.5, process_faults.kill_driver)])
    assert one.injected == []
    assert one.missed == ["kill -9 Load (none was running)", "kill_driver (the run had ended)"]
    assert one.exits == [0]


def test_a_fault_without_effect_is_not_an_injection(one):
    """A store that refuses, but is not asked; a driver that ends well although it was sent a signal."""
    injection = store_faults.outage(one)
    assert injection.words == "store: 10 minutes of 503"
    assert not injection.struck()
    one.faults.draw()
    assert injection.struck()
    one.calm()
    assert one.faults.shares == {}
    with pytest.raises(trial.Missed, match="SIGTERM driver"):
        process_faults.end_driver(one)


def eventually(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_an_outage_and_a_cut_link_end_by_the_clock_of_the_trial(one):
    link = Link()
    one.cluster = SimpleNamespace(workers=[SimpleNamespace(link=link)])
    one.clock = 1e5
    store_faults.outage(one)
    injection = store_faults.cut_off(one)
    assert not injection.struck()
    eventually(lambda: not link.cut and one.faults.shares == {})
    one.clock = 1e-5
    injection = store_faults.cut_off(one)
    assert link.drops()
    assert injection.struck()
    one.calm()
    assert not link.cut


def test_a_slow_node_stands_still_and_goes_on(one):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        node = SimpleNamespace(below=lambda: {process.pid}, workers=lambda *_: [process.pid])
        one.cluster = SimpleNamespace(workers=[node])
        injection = node_faults.slow_node(one)
        try:
            eventually(lambda: is_stopped(process.pid))
            one.calm()
            assert not is_stopped(process.pid)
            assert injection.struck()
        finally:
            process.kill()


def test_a_small_store_has_struck_if_a_raylet_began_to_spill_since(one, tmp_path):
    log = tmp_path / "session_2026" / "logs" / "raylet.1.out"
    log.parent.mkdir(parents=True)
    log.write_text(f"before: {node_faults.SPILLS} because\n")
    one.cluster = SimpleNamespace(folder=str(tmp_path))
    injection = node_faults._if_spilling(one, "small object store")
    assert not injection.struck()
    log.write_text(log.read_text() * 2)
    assert injection.struck()


def test_what_was_mounted_is_taken_away_also_in_a_folder_with_a_space_behind_a_link(tmp_path):
    (tmp_path / "a b").mkdir()
    link = tmp_path / "link"
    link.symlink_to("a b")
    try:
        able = harness._can_mount(link)
        assert not (link / "mount").is_mount()
    finally:
        subprocess.run(["umount", "--lazy", link / "mount"], check=False, capture_output=True)
    if not able:
        pytest.skip("this user may not mount")


def test_nodes_that_are_lost_or_come_after_the_run_do_not_count(one):
    node = SimpleNamespace()
    one.cluster = SimpleNamespace(workers=[node], lose=lambda _: None, add=lambda: node)
    for fault in (node_faults.kill_node, node_faults.late_node):
        with pytest.raises(trial.Missed):
            fault(one)


def bench_of(lines, monkeypatch):
    """`chaos` with a bench that hands out these lines."""

    class Bench:
        def __init__(self, *_):
            self.left = iter(lines)

        def trial(self, number, _dice):
            return {"trial": number, **next(self.left)}

    monkeypatch.setattr(harness, "_Bench", Bench)


def test_a_trial_in_which_nothing_struck_is_made_again_and_never_counted(monkeypatch):
    nothing, good = {"counts": False, "exact": True}, {"counts": True, "exact": True}
    bench_of([good, nothing, good], monkeypatch)
    lines = harness.chaos(2, 0)
    assert [line["trial"] for line in lines] == [0, 1, 1]
    assert harness.passed(lines, 2)
    bench_of([nothing] * harness.DRAWS, monkeypatch)
    lines = harness.chaos(1, 0)
    assert len(lines) == harness.DRAWS
    assert not harness.passed(lines, 1)
    # Wrong rows without a fault are the worst outcome, and no reason to try again.
    bench_of([{"counts": False, "exact": False}], monkeypatch)
    assert not harness.passed(harness.chaos(1, 0), 1)


def test_the_command_fails_and_says_so_when_nothing_struck(monkeypatch, capsys):
    line = dict.fromkeys(("lost", "doubled", "different", "images", "maps", "summaries", "touched"), 0)
    line |= {"config": "narrow", "store": "folder", "injected": [], "missed": ["kill -9 Load (none was running)"],
             "exits": [0], "seconds": 1.0, "counts": False, "exact": True, "last": ""}  # fmt: skip
    bench_of([line] * harness.DRAWS, monkeypatch)
    assert main(["bench", "chaos", "1"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing (missed: kill -9 Load (none was running)); exits [0], 1.0 s, exact, but nothing struck" in told
    assert "0 of 0 trials exact in the end, 3 s; 3 more do not count, because nothing struck" in told


def test_what_is_injected_depends_on_the_seed_alone():
    able = ["store", "disk", "memory", "disk and memory", "keys"]

    def draw(seed):
        dice = random.Random(seed)
        return faults.moments(dice, faults.choose(dice, able))

    assert draw("0/7/0") == draw("0/7/0")
    kinds = {fault for number in range(300) for _, fault in draw(number)}
    assert kinds == {fault.inject for fault in faults.FAULTS}
    first = {fault.inject for fault in faults.FAULTS if fault.when == "before"}
    assert all((share == trial.BEFORE) == (fault in first) for number in range(50) for share, fault in draw(number))


STARTS_TWO = """
import subprocess, sys, time
from camrobust.bench.chaos.ending import ending_cleanly
with ending_cleanly():
    inner = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    subprocess.Popen([sys.executable, "-c", inner + "print('up', flush=True); time.sleep(600)"], start_new_session=True)
    time.sleep(600)
"""


def test_sigterm_ends_what_was_started_also_in_sessions_of_their_own():
    process = subprocess.Popen([sys.executable, "-c", STARTS_TWO], env=environment(), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "up\n"
    below = descendants(process.pid)
    assert len(below) == 2
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert [title(pid) for pid in below if title(pid)] == []


STRIKES = """
import os, signal
from pathlib import Path
def strike():
    os.kill(os.getpid(), signal.SIGTERM)
"""
WHILE_THE_BENCH_CLOSES = """
from camrobust.bench.chaos import harness
class Bench:
    def __init__(self, folder, stack, clock):
        stack.callback(print, "the rest is closed", flush=True)
        stack.callback(strike)
harness._Bench = Bench
print(harness.chaos(0, 0))
"""
WHILE_NODES_CLOSE = """
from camrobust.bench.chaos import nodes
from camrobust.bench.chaos.ending import ending_cleanly
class Nodes:
    def __init__(self, folder, *_, **__):
        self.folder = folder
    def start_head(self):
        raise ValueError("no head")
    def lose_all(self):
        strike()
        print("all are lost", flush=True)
nodes.Nodes = Nodes
with ending_cleanly(), nodes.nodes(1, {}):
    pass
"""
IN_A_NODES_FIRST_STEPS = """
from camrobust.bench.chaos import nodes
def failing(*_):
    raise ValueError("no port")
nodes.free_port = failing
with nodes.nodes(1, {}):
    pass
"""


@pytest.mark.parametrize(
    ("script", "printed", "error"),
    [
        (WHILE_THE_BENCH_CLOSES, "the rest is closed\n[]\n", ""),
        (WHILE_NODES_CLOSE, "all are lost\n", "ValueError: no head"),
        (IN_A_NODES_FIRST_STEPS, "", "ValueError: no port"),
    ],
)
def test_cleaning_up_is_not_broken_off_and_leaves_no_folder(tmp_path, script, printed, error):
    done = subprocess.run([sys.executable, "-c", STRIKES + script], env=environment(TMPDIR=str(tmp_path)), cwd=ROOT,
                          text=True, capture_output=True, check=False, timeout=120)  # fmt: skip
    assert done.stdout == printed, done.stderr
    assert done.stderr.rstrip().endswith(error)
    assert "KeyboardInterrupt" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_sigterm_to_the_bench_leaves_nothing_behind():
    """Neither processes of Ray nor folders nor servers, also when a node is just starting."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        command = [sys.executable, "-m", "camrobust", "bench", "chaos", "1"]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE,
                                   env=environment(TMPDIR=folder, AWS_ENDPOINT_URL=""))  # fmt: skip
        below = set()
        while not any("raylet" in title(pid).partition(" ")[0] for pid in below):
            assert process.poll() is None, process.stderr.read()
            below |= descendants(process.pid)
        assert any(Path(folder).iterdir())
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 1
        assert told.endswith("camrobust: interrupted; run the same command again to resume\n")
        assert "Traceback" not in told
        assert [title(pid) for pid in below if title(pid)] == []
        assert list(Path(folder).iterdir()) == []
