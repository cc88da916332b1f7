"""The faults that a trial injects: one function each, and the table from which they are drawn.

A fault acts on a trial and returns what it did, in words.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from camrobust.bench.chaos.nodes import Node
from camrobust.bench.chaos.processes import kill
from camrobust.bench.chaos.trial import BEFORE, LOST_RESULT, Moment, Trial
from camrobust.contract.errors import RunFailed
from camrobust.io.store import open_object
from camrobust.results.folder import open_run

CATCH_S = 20.0
"""How long to wait for a worker that is committing."""
DRAIN_S = 4
DISK_BYTES = 192 * 1024
STAGES = ("Load", "Perturb", "Explain", "Commit")
INJURED = 6
"""Number of photos that may be damaged, the first ones."""


def _some_node(trial: Trial) -> Node:
    return trial.dice.choice(trial.cluster.workers)


def _workers(trial: Trial, stage: str) -> list[int]:
    """Processes that run a stage now, on any node."""
    return [pid for node in trial.cluster.workers for pid in node.workers(stage, f"MapBatches({stage})")]


def kill_worker(trial: Trial) -> str:
    """Kill -9 of a process that runs a stage."""
    stage = trial.dice.choice(STAGES)
    pids = _workers(trial, stage)
    kill({trial.dice.choice(pids)} if pids else set())
    return f"kill -9 {stage if pids else f'{stage} (none was running)'}"


def kill_node(trial: Trial) -> str:
    """Kill -9 of a raylet and its workers; another node joins."""
    trial.cluster.lose(_some_node(trial))
    trial.cluster.add()
    return "node lost"


def kill_all_nodes(trial: Trial) -> str:
    """All worker nodes are lost at once; as many others join."""
    count = len(trial.cluster.workers)
    for node in list(trial.cluster.workers):
        trial.cluster.lose(node)
    for _ in range(count):
        trial.cluster.add()
    return "all nodes lost"


def drain_node(trial: Trial) -> str:
    """A spot notice, and then the machine is gone."""
    node = _some_node(trial)
    trial.cluster.drain(node, DRAIN_S)
    trial.cluster.add()
    time.sleep(DRAIN_S)
    trial.cluster.lose(node)
    return "drain, then lost"


def kill_driver(trial: Trial) -> str:
    """Kill -9 of the driver."""
    if trial.driver is not None:
        kill({trial.driver.pid})
    return "kill -9 driver"


def end_driver(trial: Trial) -> str:
    """SIGTERM to the driver, as a scheduler sends it."""
    if trial.driver is not None:
        kill({trial.driver.pid}, signal.SIGTERM)
    return "SIGTERM driver"


def pause_driver(trial: Trial) -> str:
    """The driver is paused, another driver takes over and completes the run, then the first wakes."""
    if trial.driver is None:
        return "driver paused (none was running)"
    kill({trial.driver.pid}, signal.SIGSTOP)
    trial.take_over([trial.driver.pid])
    return "paused driver"


def pause_commit(trial: Trial) -> str:
    """A worker is paused while it commits, and so is its driver; another driver completes the run, then both wake."""
    end = time.monotonic() + CATCH_S
    while trial.driver is not None and trial.driver.poll() is None and time.monotonic() < end:
        pids = _workers(trial, "Commit")
        if pids:
            paused = [pids[0], trial.driver.pid]
            kill(set(paused), signal.SIGSTOP)
            trial.take_over(paused)
            return "paused commit worker"
    return "paused commit worker (none was running)"


def plant(trial: Trial) -> str:
    """Foreign files are put among the results of the run; they must stay as they are."""
    names = ("images/holiday.jpg", "maps/thesis.txt", "scores/taxes.csv", "commits/notes.parquet",
             "scores/dataset=chaos/model=a/mine.parquet", "failures/" + "a" * 23 + ".parquet")  # fmt: skip
    trial.foreign = {f"{trial.output}/{name}": name.encode() for name in names}
    if "://" not in trial.output:
        elsewhere = Path(f"{trial.output}-elsewhere")
        elsewhere.mkdir(exist_ok=True)
        trial.foreign[str(elsewhere / f"{'a' * 24}.parquet")] = b"behind a link"
    for place, content in trial.foreign.items():
        store, key = open_object(place)
        store.write(key, content)
    if "://" not in trial.output:
        Path(trial.output, "scores", "dataset=chaos", "old").symlink_to(elsewhere)
    return "foreign files in the output"


def lose_result(trial: Trial) -> str:
    """A committed file is deleted."""
    folder = open_run(trial.output)
    keys = folder.committed().tables("scores")
    if keys:
        folder.store.delete(trial.dice.choice(keys))
    return LOST_RESULT


def vanish(trial: Trial) -> str:
    """An image is deleted; it is restored before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.delete(key)
    trial.repairs.append(lambda: trial.photos.write(key, content))
    return "image deleted"


def corrupt(trial: Trial) -> str:
    """An image is cut in half; it is restored before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.write(key, content[: len(content) // 2])
    trial.repairs.append(lambda: trial.photos.write(key, content))
    return "image corrupted"


def _an_image(trial: Trial) -> tuple[str, bytes]:
    keys = [entry.key for entry in trial.photos.list()]
    key = keys[trial.dice.randrange(INJURED)]
    return key, trial.photos.read(key)


def bad_store(trial: Trial) -> str:
    """From now on the store refuses some requests, answers some late, breaks off some answers and loses others."""
    return _fail_store(trial, {"refuse": 0.1, "slow": 0.05, "cut": 0.05, "deaf": 0.05},
                       "store: 503, slow, cut, lost answers")  # fmt: skip


def dead_store(trial: Trial) -> str:
    """The store refuses every request, for longer than any client retries."""
    return _fail_store(trial, {"refuse": 1.0}, "store: refuses everything")


def _fail_store(trial: Trial, shares: dict[str, float], words: str) -> str:
    if trial.faults is None:
        raise RunFailed("chaos: this trial has no store that can fail; set AWS_ENDPOINT_URL")
    trial.faults.shares = shares
    return words


def full_disk(trial: Trial) -> str:
    """The output is on a file system of a few hundred KiB, which is enlarged before the last attempt."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", trial.output], check=True)

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", trial.output], check=True)

    trial.repairs.append(grow)
    return "disk full"


@dataclass(frozen=True)
class Fault:
    """One row of the table of faults.

    Attributes:
        inject: acts on a trial.
        weight: how often it is drawn, relative to the others.
        needs: "store" for a store that can fail, "disk" for the right to mount, empty for neither.
    """

    inject: Callable[[Trial], str]
    weight: int = 1
    needs: str = ""


FAULTS = (
    Fault(kill_worker, weight=2),
    Fault(kill_node),
    Fault(kill_all_nodes),
    Fault(drain_node),
    Fault(kill_driver),
    Fault(end_driver),
    Fault(lose_result),
    Fault(vanish),
    Fault(corrupt),
    Fault(pause_driver),
    Fault(pause_commit),
    Fault(plant),
    Fault(bad_store, weight=2, needs="store"),
    Fault(dead_store, needs="store"),
    Fault(full_disk, needs="disk"),
)


def choose(dice: random.Random, *, store: bool, disk: bool) -> list[Moment]:
    """One to three faults and the share of the commits at which each strikes, in that order.

    Args:
        dice: decides.
        store: whether the trial has a store that can fail.
        disk: whether a small file system can be mounted.
    """
    able = {"": True, "store": store, "disk": disk}
    known = [fault for fault in FAULTS if able[fault.needs]]
    count = dice.choice((1, 2, 2, 3))
    drawn = dict.fromkeys(dice.choices(known, [fault.weight for fault in known], k=count))
    moments = [(BEFORE if fault.inject is full_disk else dice.uniform(0, 0.9), fault.inject) for fault in drawn]
    return sorted(moments, key=lambda moment: moment[0])
