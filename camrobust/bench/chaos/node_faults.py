"""Faults of machines: nodes that are lost, slow, late, or short of memory and disk."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from camrobust.bench.chaos.neighbour import READY
from camrobust.bench.chaos.nodes import Node
from camrobust.bench.chaos.process_faults import STAGES, at_once
from camrobust.bench.chaos.processes import kill
from camrobust.bench.chaos.trial import Injection, Trial
from camrobust.contract.errors import RunFailed

DRAIN_S = 4
OUTAGE_S = 600.0
"""How long a node is slow, and how long a store fails or is out of reach, before the clock of the trial."""
STOPPED_S, GOING_S = 0.8, 0.2
SMALLEST_BYTES = 75 * 2**20
"""Ray takes no smaller object store."""
TAKEN_MIB = 52
"""Ray spills when four fifths are in use; other jobs take somewhat less than that."""
NEIGHBOUR = "camrobust.bench.chaos.neighbour"
SPILL_KIB = 256
SPILLS = "Triggering object spilling"
"""What a raylet writes into its log when it begins to spill."""


def _some_node(trial: Trial) -> Node:
    return trial.dice.choice(trial.cluster.workers)


def kill_node(trial: Trial) -> Injection:
    """Kill -9 of a raylet and its workers; another node joins."""
    runs = trial.runs()
    trial.cluster.lose(_some_node(trial))
    trial.cluster.add()
    return at_once("node lost", struck=runs)


def kill_all_nodes(trial: Trial) -> Injection:
    """All worker nodes are lost at once; as many others join."""
    count, runs = len(trial.cluster.workers), trial.runs()
    for node in list(trial.cluster.workers):
        trial.cluster.lose(node)
    for _ in range(count):
        trial.cluster.add()
    return at_once("all nodes lost", struck=runs)


def lose_head(trial: Trial) -> Injection:
    """The head is lost with its driver and all other nodes; a new head and new nodes start."""
    count, runs = len(trial.cluster.workers), trial.runs()
    if trial.driver is not None:
        kill({trial.driver.pid})
    trial.cluster.lose_all()
    trial.cluster.start_head()
    for _ in range(count):
        trial.cluster.add()
    attempt = trial.attempt
    return Injection("head lost and restarted", lambda: runs and trial.exits[attempt] != 0)


def drain_node(trial: Trial) -> Injection:
    """A spot notice, and then the machine is gone."""
    node, runs = _some_node(trial), trial.runs()
    heard = trial.cluster.drain(node, DRAIN_S)
    trial.cluster.add()
    time.sleep(DRAIN_S)
    trial.cluster.lose(node)
    return at_once("drain, then lost" if heard else "node lost", struck=runs)


def without_a_node(trial: Trial) -> None:
    """Begin with one node less."""
    trial.cluster.lose(_some_node(trial))


def late_node(trial: Trial) -> Injection:
    """A node joins a run that has begun."""
    trial.cluster.add()
    return at_once("node added late", struck=trial.runs() and trial.commits() < trial.job.images)


def slow_node(trial: Trial) -> Injection:
    """All processes of a node stand still four fifths of the time."""
    node, ended, slowed = _some_node(trial), threading.Event(), set[int]()
    end = time.monotonic() + OUTAGE_S / trial.clock

    def slow() -> None:
        while not ended.is_set() and time.monotonic() < end:
            pids = node.below()
            slowed.update(pid for stage in STAGES for pid in node.workers(stage, f"MapBatches({stage})"))
            kill(pids, signal.SIGSTOP)
            ended.wait(STOPPED_S)
            kill(pids, signal.SIGCONT)
            ended.wait(GOING_S)

    thread = threading.Thread(target=slow, daemon=True)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    trial.endings.append(stop)
    return Injection("slow node", lambda: bool(slowed))


def small_store(trial: Trial) -> Injection:
    """All nodes have the smallest object store that Ray takes, most of it in use, so that they spill to the disk."""
    _with_small_stores(trial, _spill_folder(trial))
    return _if_spilling(trial, "small object store")


def full_spill(trial: Trial) -> Injection:
    """The same, and the disk for spilling is full; before another attempt there are nodes with room."""
    place = _spill_folder(trial)
    mount(place, SPILL_KIB)
    _with_small_stores(trial, place)
    (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free))

    def replace() -> None:
        for node in [node for node in trial.cluster.workers if node.odd]:
            trial.cluster.lose(node)
            trial.cluster.add()

    trial.repairs.append(replace)
    return _if_spilling(trial, "spill disk full")


def _spill_folder(trial: Trial) -> Path:
    place = trial.scratch / "spill"
    place.mkdir()
    return place


def _if_spilling(trial: Trial, words: str) -> Injection:
    """It has struck if a raylet begins to spill from now on."""

    def began() -> int:
        logs = Path(trial.cluster.folder).glob("session_2*/logs/raylet*.out")
        return sum(log.read_text(errors="replace").count(SPILLS) for log in logs)

    before = began()
    return Injection(words, lambda: began() > before)


def _with_small_stores(trial: Trial, place: Path) -> None:
    """Nodes with small object stores take the place of all nodes, and another job takes most of their room."""
    for node in list(trial.cluster.workers):
        trial.cluster.lose(node)
        trial.cluster.add(f"--object-spilling-directory={place}", store_bytes=SMALLEST_BYTES)
    identities = [trial.cluster.identity(node) for node in trial.cluster.workers]
    job = subprocess.Popen(
        [sys.executable, "-m", NEIGHBOUR, trial.cluster.address, str(TAKEN_MIB), *identities],
        env=trial.cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip

    def end() -> None:
        job.kill()
        job.communicate()

    trial.endings.append(end)
    if job.stdout is None or job.stdout.readline().strip() != READY:
        raise RunFailed("chaos: the job that fills the object stores did not start")


_MOUNTED: list[Path] = []


def mount(place: Path, kib: int) -> None:
    """Put a small file system over a folder until `unmount`; this needs root."""
    # Noted first: the process may be interrupted while it mounts.
    _MOUNTED.append(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], check=True)


def unmount() -> None:
    """Take away what `mount` has put somewhere, and nothing else."""
    while _MOUNTED:
        subprocess.run(["umount", "--lazy", str(_MOUNTED[-1])], check=False, capture_output=True)
        _MOUNTED.pop()
