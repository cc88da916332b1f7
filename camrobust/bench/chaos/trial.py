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
from typing import Any

import yaml

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
LOST_RESULT = "score file deleted"

NARROW = {
    "cams": ["gradcam", "random"],
    "perturbations": ["gaussian_noise:1-5"],
    "models": [{"name": "a", "builder": "camrobust.bench.chaos.model:build"}],
}
WIDE = {
    "cams": ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "eigencam", "ablationcam", "random"],
    "perturbations": [{"gaussian_noise": [1, 2, 3, 4, 5], "replicates": 6}, {"salt_pepper": [1, 2, 3, 4, 5],
                      "replicates": 6}],
    "models": [
        {"name": f"m/{seed}", "builder": "camrobust.bench.chaos.model:build", "arguments": {"seed": seed}}
        for seed in range(3)
    ],
}  # fmt: skip


@dataclass
class Trial:
    """The inputs of one trial and its outcome.

    Attributes:
        number: number of the trial.
        dice: source of every random draw.
        cluster: the Ray nodes.
        config: path of the configuration.
        output: address of the results.
        photos: store of the images.
        total: number of commits of a complete run.
        environment: environment variables of the driver.
        faults: faults of the store, None for a folder.
        driver: the running driver, None if there is none.
        injected: the faults that struck, in words.
        exits: exit code of every attempt.
        woken: exit codes of drivers that were paused while others took over.
        foreign: contents of foreign files in the output, by path or address.
        repairs: undo the damage before the last attempt.
        last: output of the last attempt.
    """

    number: int
    dice: random.Random
    cluster: Nodes
    config: Path
    output: str
    photos: Store
    total: int
    environment: Mapping[str, str]
    faults: Faults | None
    driver: subprocess.Popen[str] | None = None
    injected: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    foreign: dict[str, bytes] = field(default_factory=dict)
    repairs: list[Callable[[], None]] = field(default_factory=list)
    last: str = ""

    def start(self, *more: str) -> None:
        """Start the driver."""
        command = [sys.executable, "-m", "camrobust", "run", str(self.config), "--quiet", "--address",
                   self.cluster.address, *more]  # fmt: skip
        self.driver = subprocess.Popen(
            command, env={**self.cluster.environment, **self.environment}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def commits(self) -> int:
        """Number of commits so far; 0 while the store refuses."""
        try:
            return sum(1 for _ in open_store(self.output).list("commits/"))
        except RunFailed:
            return 0

    def wait(self, share: float) -> bool:
        """Wait until that share of the commits exists; False if the driver ends first."""
        if self.driver is None:
            return False
        end = time.monotonic() + LIMIT_S
        while self.driver.poll() is None and time.monotonic() < end:
            if self.commits() >= share * self.total:
                return True
            time.sleep(0.1)
        return False

    def finish(self) -> None:
        """Wait until the driver ends; kill it if it hangs."""
        if self.driver is not None:
            self.last, code = _ended(self.driver)
            self.exits.append(code)
            self.driver = None

    def take_over(self, paused: Sequence[int]) -> None:
        """Let another driver take over and finish the run, then wake the paused processes.

        Args:
            paused: process ids, the first driver among them.
        """
        first = self.driver
        self.start()
        self.finish()
        kill(set(paused), signal.SIGCONT)
        if first is not None:
            _, code = _ended(first)
            self.woken.append(code)


Moment = tuple[float, Callable[[Trial], str]]
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
    trial.injected += [fault(trial) for share, fault in moments if share == BEFORE]
    trial.start()
    for share, fault in moments:
        if share == BEFORE:
            continue
        if not trial.wait(share):
            break
        trial.injected.append(fault(trial))
    trial.finish()
    while trial.exits[-1] != 0 or trial.repairs or _lost_afterwards(trial):
        if len(trial.exits) == ATTEMPTS:
            return
        if trial.faults is not None:
            trial.faults.shares = {}
        for repair in trial.repairs:
            repair()
        trial.repairs.clear()
        trial.start("--retry-failures")
        trial.finish()


def _lost_afterwards(trial: Trial) -> bool:
    """Whether a file was deleted after the run was verified: `verify` must notice, and another attempt repair it."""
    return LOST_RESULT in trial.injected and not verify(open_run(trial.output)).complete


def write_config(path: Path, output: str, photos: str, *, wide: bool) -> None:
    """Write the configuration of a trial."""
    data: dict[str, Any] = {
        "output": output,
        "datasets": [{"name": "chaos", "images": photos}],
        "image": {"resize": 72, "crop": 64},
        "gallery_images": 2,
        "max_failure_share": 1,
        "cluster": {"explainers": [1, 2], "perturbers": [1, 1], "no_progress_timeout_s": 120, "image_timeout_s": 30},
        **(WIDE if wide else NARROW),
    }
    path.write_text(yaml.safe_dump(data))
