"""Every stage tells a ledger which image it begins and which it has ended, and how long that took.

So an image that kills its worker (segfault, out of memory) or never ends is found and named. Ray Data retries a batch
whose worker died without end, which is right for machines that vanish and wrong for an image that is the cause: an
image whose worker died `DEATHS` times, on nodes that lived on, becomes a failure row. And so it is known what each
stage has done, for progress lines, `camrobust status`, done.json, and Ray's Prometheus endpoint.
"""

import faulthandler
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util import metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from camrobust.errors import RunFailed

STAGES = ("load", "perturb", "explain")
DEATHS = 3
MOST = 32
"""More images than this in quarantine mean that the machine or a model is broken, not the images."""
STANDARD_ERROR = 2

Key = tuple[str, str, str]
"""Stage, dataset, image_id."""
T = TypeVar("T")


class Ledger:
    """Which image is being worked on where; an actor, one per run.

    Args:
        run: address of the run folder, as it stands in Ray's metrics.
    """

    def __init__(self, run: str = "") -> None:
        self.open: dict[Key, str] = {}
        self.deaths: dict[Key, int] = {}
        self.condemned: set[Key] = set()
        self.ended: Counter[str] = Counter()
        self.busy_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.run = run
        keys = ("run", "stage")
        self.steps = metrics.Counter("camrobust_steps", "images (in Explain: and models) that are through", keys)
        self.seconds = metrics.Counter("camrobust_busy_seconds", "seconds of work, summed over workers", keys)
        self.workers = metrics.Gauge("camrobust_workers_busy", "workers that are at an image", keys)

    def begin(self, key: Key, node: str) -> tuple[int, int]:
        """Take down that an image is begun; returns how often its worker died, and how many images are condemned."""
        before = self.open.get(key)
        if before is not None and before in _living_nodes():
            self.deaths[key] = self.deaths.get(key, 0) + 1
        self.open[key] = node
        deaths = self.deaths.get(key, 0)
        if deaths >= DEATHS:
            self.condemned.add(key)
        return deaths, len(self.condemned)

    def end(self, key: Key, seconds: float) -> None:
        """Take down that an image's worker lived to its end."""
        self.open.pop(key, None)
        if key not in self.condemned:
            self.deaths.pop(key, None)
        stage = key[0]
        self.ended[stage] += 1
        self.busy_s[stage] += seconds
        tags = {"run": self.run, "stage": stage}
        self.steps.inc(1, tags)
        self.seconds.inc(max(seconds, 1e-9), tags)
        self.workers.set(self._busy(stage), tags)

    def look(self) -> dict[str, tuple[int, float, int]]:
        """Per stage: images that are through, seconds of work, images in work."""
        return {stage: (self.ended[stage], self.busy_s[stage], self._busy(stage)) for stage in STAGES}

    def _busy(self, stage: str) -> int:
        return sum(key[0] == stage for key in self.open)


def _living_nodes() -> set[str]:
    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


def open_ledger(run: str) -> Any:
    """The ledger of this run, beside its driver where that is possible."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Ledger)
    return actor.options(scheduling_strategy=here).remote(run)


class Watch:
    """One stage's eye on the image it works on.

    Args:
        stage: load, perturb or explain.
        ledger: of the run, None to keep none (outside Ray).
        timeout_s: an image that takes longer ends its worker process, which counts as a death.
    """

    def __init__(self, stage: str, ledger: Any = None, timeout_s: float | None = None) -> None:
        self.stage, self.ledger, self.timeout_s = stage, ledger, timeout_s

    def over(self, dataset: str, image_id: str, work: Callable[[], T], refuse: Callable[[str], T]) -> T:
        """Do the work on an image, or refuse it with a sentence that says why.

        Raises:
            RunFailed: too many images are in quarantine.
        """
        if self.ledger is None:
            return work()
        key = (self.stage, str(dataset), str(image_id))
        deaths, condemned = self._begin(key)
        start = time.monotonic()
        try:
            if condemned > MOST:
                raise RunFailed(
                    f"run: workers died at more than {MOST} different images in the stage {self.stage}, so it is not "
                    "the images; look for crashes or too little memory in Ray's worker logs, then run again to resume"
                )
            if deaths >= DEATHS:
                return refuse(
                    f"the worker died {deaths} times at this image (crash, out of memory, or more than "
                    f"{self.timeout_s:g} s in the stage {self.stage})"
                )
            return self._timed(work)
        finally:
            self.ledger.end.remote(key, time.monotonic() - start)

    def _begin(self, key: Key) -> tuple[int, int]:
        """A ledger that is being restarted knows nothing, and stops nobody."""
        try:
            deaths, condemned = ray.get(self.ledger.begin.remote(key, ray.get_runtime_context().get_node_id()))
        except RayError:
            return 0, 0
        return deaths, condemned

    def _timed(self, work: Callable[[], T]) -> T:
        """A timer in C ends the process even where Python code hangs inside a library."""
        if self.timeout_s:
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=STANDARD_ERROR)
        try:
            return work()
        finally:
            if self.timeout_s:
                faulthandler.cancel_dump_traceback_later()
