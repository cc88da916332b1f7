"""Looks at the ledger and the commits every few seconds, and reports how far the run is."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.metrics import Gauge

from camrobust.contract.errors import UserError
from camrobust.io.retries import tell
from camrobust.results.progress import Progress, Stage
from camrobust.run.ledger import STAGES
from camrobust.run.waiting_ends import WAIT_S

INTERVAL_S = 2.0
LOOK_TIMEOUT_S = 10.0
SETTLE_S, SETTLE_LOOK_S = 2 * WAIT_S, 0.1
"""At the end, the longest wait for workers to tell the ledger that they are done, and the time between two looks."""

Report = Callable[[Progress], None]


class Observer:
    """Adds up what the commits hold and how long the stages worked.

    Args:
        ledger: of the run.
        run: address of the run folder, a tag in Ray's metrics.
        images: how many are pending.
        parts: parts of images that are pending.
        models: how many measure each part.
        report: takes the progress, from a thread of its own.
    """

    def __init__(self, ledger: Any, run: str, images: int, parts: int, models: int, report: Report) -> None:
        self.ledger, self.images, self.parts, self.report = ledger, images, parts, report
        self.steps = {"load": images, "perturb": parts, "explain": parts * models}
        self.done = self.failures = 0
        self.commit_s = 0.0
        self.stages: dict[str, Stage] = {}
        self.started = time.monotonic()
        self.gauges = {
            name: Gauge(f"camrobust_{name}", description=text, tag_keys=("run",)).set_default_tags({"run": run})
            for name, text in (
                ("parts_committed", "parts of images committed by this driver"),
                ("parts_pending", "parts of images that this driver has still to commit"),
                ("failures", "failure rows committed by this driver"),
            )
        }

    def add(self, commit: Mapping[str, Any]) -> None:
        """Count a commit, a row of `stages.batches.COMMITTED`."""
        self.done += int(commit["parts"])
        self.failures += int(commit["failures"])
        self.commit_s += float(commit["seconds"])

    def now(self) -> Progress:
        """How far the run is. While the ledger restarts, its last answer stands."""
        with suppress(RayError):
            if not ray.is_initialized():
                # A call would start another cluster.
                raise RayError
            stages, waiting = ray.get([self.ledger.look.remote(), self.ledger.waiting.remote()], timeout=LOOK_TIMEOUT_S)
            for store, line in waiting:
                tell(store, line)
            self.stages = {
                name: Stage(round(self.images * ended / max(1, self.steps[name]), 1), round(busy_s, 1), busy)
                for name, (ended, busy_s, busy) in stages.items()
            }
        commit = Stage(round(self.images * self.done / max(1, self.parts), 1), round(self.commit_s, 1), 0)
        seconds = round(time.monotonic() - self.started, 1)
        stages = {name: self.stages.get(name, Stage(0, 0, 0)) for name in STAGES}
        return Progress(self.done, self.parts, self.failures, seconds, {**stages, "commit": commit})

    def settle(self) -> None:
        """Wait for the last ends; a worker that Ray stopped before it told one has nevertheless done its batch."""
        end = time.monotonic() + SETTLE_S
        while any(stage.busy for stage in self.now().stages.values()) and time.monotonic() < end:
            time.sleep(SETTLE_LOOK_S)
        if ray.is_initialized():
            with suppress(RayError):
                ray.get(self.ledger.settle.remote(), timeout=LOOK_TIMEOUT_S)

    def tell(self) -> None:
        """Report, and set Ray's metrics."""
        now = self.now()
        self.gauges["parts_committed"].set(now.done)
        self.gauges["parts_pending"].set(now.total - now.done)
        self.gauges["failures"].set(now.failures)
        with suppress(UserError):
            self.report(now)


@contextmanager
def repeating(call: Callable[[], None], every_s: float, join_s: float | None = None) -> Iterator[None]:
    """Call a function now and every few seconds, in a thread, while the block runs.

    Args:
        call: what to call; it must not raise.
        every_s: pause between two calls, s.
        join_s: wait at most so long for the last call; None for as long as it takes.
    """
    ended = threading.Event()

    def repeat() -> None:
        call()
        while not ended.wait(every_s):
            call()

    thread = threading.Thread(target=repeat, name=call.__qualname__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(join_s)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Report now, every few seconds, and at the end."""
    with repeating(observer.tell, INTERVAL_S, 2 * LOOK_TIMEOUT_S):
        yield
    observer.settle()
    observer.tell()
