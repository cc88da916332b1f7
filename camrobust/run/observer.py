"""Looks at the ledger and the commits every few seconds, and tells how far the run is."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Gauge

from camrobust.contract.errors import UserError
from camrobust.results.progress import Progress, Stage
from camrobust.run.ledger import STAGES

INTERVAL_S = 2.0
LOOK_TIMEOUT_S = 10.0

Report = Callable[[Progress], None]


class Observer:
    """Counts of the commits, seconds of the stages.

    Args:
        ledger: of the run.
        run: address of its folder, as it stands in Ray's metrics.
        images: that are pending.
        units: images and parts that are pending.
        models: that measure each of them.
        report: takes the progress, from a thread of its own.
    """

    def __init__(self, ledger: Any, run: str, images: int, units: int, models: int, report: Report) -> None:
        self.ledger, self.images, self.units, self.report = ledger, images, units, report
        self.steps = {"load": images, "perturb": units, "explain": units * models}
        self.done = self.failures = self.commits = 0
        self.commit_s = 0.0
        self.stages: dict[str, Stage] = {}
        self.started = time.monotonic()
        self.gauges = {
            name: Gauge(f"camrobust_{name}", description=text, tag_keys=("run",)).set_default_tags({"run": run})
            for name, text in (
                ("units_committed", "images and parts committed by this driver"),
                ("units_pending", "images and parts that this driver has still to commit"),
                ("failures", "failure rows committed by this driver"),
            )
        }

    def add(self, commit: Mapping[str, Any]) -> None:
        """Take in the counts of a commit."""
        self.done += int(commit["units"])
        self.failures += int(commit["failures"])
        self.commit_s += float(commit["seconds"])

    def now(self) -> Progress:
        """How far the run is; where the ledger is being restarted, as far as was seen last."""
        with suppress(RayError):
            if not ray.is_initialized():
                # A call would start another cluster.
                raise RayError
            found = ray.get(self.ledger.look.remote(), timeout=LOOK_TIMEOUT_S)
            self.stages = {
                name: Stage(round(self.images * ended / max(1, self.steps[name]), 1), round(busy_s, 1), busy)
                for name, (ended, busy_s, busy) in found.items()
            }
        commit = Stage(round(self.images * self.done / max(1, self.units), 1), round(self.commit_s, 1), 0)
        seconds = round(time.monotonic() - self.started, 1)
        stages = {name: self.stages.get(name, Stage(0, 0, 0)) for name in STAGES}
        return Progress(self.done, self.units, self.failures, seconds, {**stages, "commit": commit})

    def tell(self) -> None:
        """Report, and set Ray's metrics."""
        now = self.now()
        self.gauges["units_committed"].set(now.done)
        self.gauges["units_pending"].set(now.total - now.done)
        self.gauges["failures"].set(now.failures)
        with suppress(UserError):
            self.report(now)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Tell now, every few seconds, and at the end."""
    stop = threading.Event()

    def watch() -> None:
        observer.tell()
        while not stop.wait(INTERVAL_S):
            observer.tell()

    thread = threading.Thread(target=watch, name="observer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * LOOK_TIMEOUT_S)
    observer.tell()
