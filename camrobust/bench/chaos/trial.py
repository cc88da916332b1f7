"""One trial: the real job under injected faults, resumed until it is complete.

The seed decides which faults strike, when (as a share of the commits) and whom. It does not decide what the processes
are doing at that moment. So two trials of one seed inject the same faults, and may still need different attempts.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from camrobust.bench.chaos.jobs import Job
from camrobust.bench.chaos.nodes import Nodes
from camrobust.bench.chaos.processes import kill
from camrobust.bench.chaos.proxy import Faults
from camrobust.contract.errors import RunFailed
from camrobust.io.objects import Store
from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from camrobust.results.verify import verify

LIMIT_S = 240.0
HANGS = 124
"""Exit code of a driver that had to be killed."""
ATTEMPTS = 5
BEFORE = -1.0
"""Moment of a fault that strikes before the driver starts."""


class Missed(Exception):  # noqa: N818 - an outcome, not an error
    """A fault found nothing to strike; the message says what it was looking for."""


@dataclass(frozen=True)
class Injection:
    """What a fault did.

    Attributes:
        words: what it was.
        struck: whether it has had an effect; asked when the trial is over.
    """

    words: str
    struck: Callable[[], bool]


@dataclass
class Trial:
    """The inputs of one trial and its outcome.

    Attributes:
        number: number of the trial.
        dice: source of every random draw.
        cluster: the Ray nodes.
        job: what is measured.
        config: path of the configuration.
        output: address of the results.
        photos: store of the images.
        environment: environment variables of the driver.
        faults: faults of the store, None for a folder.
        clock: how many seconds of an outage pass in one second of the trial.
        scratch: an empty folder of the trial's own.
        driver: the running driver, None if there is none.
        injections: what the faults did that found something to strike.
        missed: the faults that did not, in words.
        exits: exit code of every attempt.
        told: what every attempt printed.
        woken: exit codes of drivers that were paused while others took over.
        foreign: contents of foreign files in the output, by path or address.
        repairs: undo the damage before another attempt, which is then made.
        endings: end what a fault goes on doing; called before another attempt and when the trial is over.
        lost_result: whether a committed file was deleted.
    """

    number: int
    dice: random.Random
    cluster: Nodes
    job: Job
    config: Path
    output: str
    photos: Store
    environment: Mapping[str, str]
    faults: Faults | None
    clock: float
    scratch: Path
    driver: subprocess.Popen[str] | None = None
    injections: list[Injection] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    foreign: dict[str, bytes] = field(default_factory=dict)
    repairs: list[Callable[[], None]] = field(default_factory=list)
    endings: list[Callable[[], None]] = field(default_factory=list)
    lost_result: bool = False
    sleepers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def injected(self) -> list[str]:
        """The faults that struck, in words."""
        return [injection.words for injection in self.injections if injection.struck()]

    @property
    def attempt(self) -> int:
        """Number of the attempt that runs now, or is next."""
        return len(self.exits)

    def runs(self) -> bool:
        """Whether the driver is running."""
        return self.driver is not None and self.driver.poll() is None

    def start(self, *more: str) -> None:
        """Start the driver."""
        command = [sys.executable, "-m", "camrobust", "run", str(self.config), "--quiet", "--address",
                   self.cluster.address, *more]  # fmt: skip
        self.driver = subprocess.Popen(
            command, env={**self.cluster.environment, **self.environment}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def commits(self) -> int:
        """Number of commits so far; -1 before the run has begun, or while the store refuses."""
        try:
            store = open_store(self.output)
            if not any(store.list("run.json")):
                return -1
            return sum(1 for _ in store.list("commits/"))
        except RunFailed:
            return -1

    def wait(self, share: float) -> bool:
        """Wait until the run has begun and that share of the commits exists; False if the driver ends first."""
        end = time.monotonic() + LIMIT_S
        while self.runs() and time.monotonic() < end:
            if self.commits() >= share * self.job.images:
                return True
            time.sleep(0.1)
        return False

    def finish(self) -> None:
        """Wait until the driver ends; kill it if it hangs."""
        if self.driver is not None:
            printed, code = _ended(self.driver)
            self.told.append(printed)
            self.exits.append(code)
            self.driver = None

    def take_over(self, paused: Sequence[int]) -> None:
        """Let another driver take over and finish the run, then wake the paused processes.

        Args:
            paused: process ids, the first driver among them.
        """
        first = self.driver
        if first is not None:
            self.sleepers.append(first)
        self.start()
        self.finish()
        kill(set(paused), signal.SIGCONT)
        if first is not None:
            _, code = _ended(first)
            self.woken.append(code)

    def calm(self) -> None:
        """End what the faults go on doing."""
        while self.endings:
            self.endings.pop()()

    def abandon(self) -> None:
        """Leave no driver behind, however the trial ended."""
        for driver in (self.driver, *self.sleepers):
            if driver is not None:
                driver.kill()
                driver.communicate()
        self.calm()


Moment = tuple[float, Callable[[Trial], Injection]]
"""A share of the commits, or `BEFORE`, and the fault that strikes then."""


def _ended(driver: subprocess.Popen[str]) -> tuple[str, int]:
    """A driver's output and exit code."""
    try:
        printed, _ = driver.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        driver.kill()
        printed, _ = driver.communicate()
        return printed, HANGS
    return printed, driver.returncode


def carry_out(trial: Trial, moments: Sequence[Moment]) -> None:
    """Start the run, inject the faults, and start it again until it is complete."""
    for share, fault in moments:
        if share == BEFORE:
            _inject(trial, fault)
    trial.start()
    for share, fault in moments:
        if share == BEFORE:
            continue
        if trial.wait(share):
            _inject(trial, fault)
        else:
            trial.missed.append(f"{fault.__name__} (the run had ended)")
    trial.finish()
    _start_again(trial)


def _start_again(trial: Trial) -> None:
    while trial.exits[-1] != 0 or trial.repairs or _lost_afterwards(trial):
        if len(trial.exits) == ATTEMPTS:
            return
        trial.calm()
        while trial.repairs:
            trial.repairs.pop()()
        trial.start("--retry-failures")
        trial.finish()


def _inject(trial: Trial, fault: Callable[[Trial], Injection]) -> None:
    try:
        trial.injections.append(fault(trial))
    except Missed as miss:
        trial.missed.append(str(miss))


def _lost_afterwards(trial: Trial) -> bool:
    """Whether a file was deleted after the run was verified: `verify` must notice, and another attempt repair it."""
    return trial.lost_result and not verify(open_run(trial.output)).complete
