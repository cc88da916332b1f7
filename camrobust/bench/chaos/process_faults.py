"""Faults of processes: workers and drivers that are killed, ended or paused."""

import signal
import time

from camrobust.bench.chaos.processes import kill
from camrobust.bench.chaos.trial import Injection, Missed, Trial

CATCH_S = 20.0
"""How long to wait for a worker that is committing."""
FIND_S = 5.0
STAGES = ("Load", "Perturb", "Explain", "Commit")


def workers(trial: Trial, stage: str) -> list[int]:
    """Processes that run a stage now, on any node."""
    return [pid for node in trial.cluster.workers for pid in node.workers(stage, f"MapBatches({stage})")]


def _caught(trial: Trial, stage: str, seconds: float) -> list[int]:
    """Processes that run a stage, as soon as there are some."""
    end = time.monotonic() + seconds
    while trial.runs() and time.monotonic() < end:
        pids = workers(trial, stage)
        if pids:
            return pids
    return []


def at_once(words: str, *, struck: bool) -> Injection:
    """An injection whose effect is known already; raises Missed if it had none."""
    if not struck:
        raise Missed(f"{words} (none was running)")
    return Injection(words, lambda: True)


def kill_worker(trial: Trial) -> Injection:
    """Kill -9 of a process that runs a stage."""
    stage = trial.dice.choice(STAGES)
    pids = _caught(trial, stage, FIND_S)
    reached = kill({trial.dice.choice(pids)}) if pids else 0
    return at_once(f"kill -9 {stage}", struck=bool(reached))


def kill_driver(trial: Trial) -> Injection:
    """Kill -9 of the driver."""
    return _signal_driver(trial, signal.SIGKILL, "kill -9 driver")


def end_driver(trial: Trial) -> Injection:
    """SIGTERM to the driver, as a scheduler sends it."""
    return _signal_driver(trial, signal.SIGTERM, "SIGTERM driver")


def _signal_driver(trial: Trial, number: signal.Signals, words: str) -> Injection:
    if trial.driver is None or not trial.runs():
        raise Missed(f"{words} (none was running)")
    kill({trial.driver.pid}, number)
    attempt = trial.attempt
    # One that was about to end may still end well.
    return Injection(words, lambda: trial.exits[attempt] != 0)


def pause_driver(trial: Trial) -> Injection:
    """The driver is paused, another driver takes over and completes the run, then the first wakes."""
    if trial.driver is None or not trial.runs():
        raise Missed("paused driver (none was running)")
    kill({trial.driver.pid}, signal.SIGSTOP)
    trial.take_over([trial.driver.pid])
    return at_once("paused driver", struck=True)


def pause_commit(trial: Trial) -> Injection:
    """A worker is paused while it commits, and so is its driver; another driver completes the run, then both wake."""
    pids = _caught(trial, "Commit", CATCH_S)
    if not pids or trial.driver is None:
        raise Missed("paused commit worker (none was running)")
    paused = [pids[0], trial.driver.pid]
    kill(set(paused), signal.SIGSTOP)
    trial.take_over(paused)
    return at_once("paused commit worker", struck=True)
