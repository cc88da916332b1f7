"""A ledger of the images that are being worked on; every stage reports to it when it begins and ends one.

The ledger finds an image that kills its worker (segfault, out of memory) or never ends. Ray Data retries the batch of a
dead worker without end, which is right when a machine vanishes and wrong when an image is the cause. So an image whose
worker died `DEATHS` times, on nodes that lived on, becomes a failure row. The ledger also counts what each stage has
done, for progress lines, `camrobust status`, done/NUMBER.json, and Ray's Prometheus endpoint.
"""

import faulthandler
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util import metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from camrobust.contract.errors import RunFailed

STAGES = ("load", "perturb", "explain")
DEATHS = 3
MOST = 32
"""More images than this in quarantine mean that the fault is a machine's or a model's, not the images'."""
STANDARD_ERROR = 2

Key = tuple[str, str, str, str, int]
"""Stage, dataset, image_id, model (in Explain only), and part; several workers may have parts of one image."""
T = TypeVar("T")


class Ledger:
    """Knows which image is being worked on where; an actor, one per run.

    Args:
        run: address of the run folder, a tag in Ray's metrics.
    """

    def __init__(self, run: str = "") -> None:
        self.open: dict[Key, str] = {}
        self.deaths: dict[Key, int] = {}
        self.suspected: set[Key] = set()
        self.condemned: set[tuple[str, str, str, str]] = set()
        self.ended: Counter[str] = Counter()
        self.busy_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.run = run
        keys = ("run", "stage")
        self.steps = metrics.Counter(
            "camrobust_steps", "images, parts or (in Explain) pairs of part and model that are done", keys
        )
        self.seconds = metrics.Counter("camrobust_busy_seconds", "seconds of work, summed over workers", keys)
        self.workers = metrics.Gauge("camrobust_workers_busy", "workers that are working on an image", keys)

    def suspects(self, keys: Sequence[Key]) -> list[int]:
        """Places of the images on which a worker died while its node lived on."""
        living = self._living(keys)
        return [
            place for place, key in enumerate(keys)
            if key in self.suspected or key[:4] in self.condemned or self.open.get(key) in living
        ]  # fmt: skip

    def begin(self, keys: Sequence[Key], node: str) -> tuple[int, int]:
        """Record that these images have been started.

        Returns:
            The most deaths of workers at one of these images, and the number of images condemned in the whole run. An
            image is condemned with all its parts, for one model.
        """
        living = self._living(keys)
        for key in keys:
            if self.open.get(key) in living:
                self.deaths[key] = self.deaths.get(key, 0) + 1
                self.suspected.add(key)
            self.open[key] = node
        self.condemned |= {key[:4] for key in keys if self.deaths.get(key, 0) >= DEATHS}
        deaths = max(DEATHS if key[:4] in self.condemned else self.deaths.get(key, 0) for key in keys)
        return deaths, len({(dataset, image_id) for _, dataset, image_id, _ in self.condemned})

    def end(self, keys: Sequence[Key], seconds: float) -> None:
        """Record that a worker has finished these images, which belong to one stage."""
        for key in keys:
            self.open.pop(key, None)
            if key[:4] not in self.condemned:
                self.deaths.pop(key, None)
        stage = keys[0][0]
        self.ended[stage] += len(keys)
        self.busy_s[stage] += seconds
        tags = {"run": self.run, "stage": stage}
        self.steps.inc(len(keys), tags)
        self.seconds.inc(max(seconds, 1e-9), tags)
        self.workers.set(self._busy(stage), tags)

    def look(self) -> dict[str, tuple[int, float, int]]:
        """Per stage: images done, seconds of work, images in work."""
        return {stage: (self.ended[stage], self.busy_s[stage], self._busy(stage)) for stage in STAGES}

    def _busy(self, stage: str) -> int:
        return sum(key[0] == stage for key in self.open)

    def _living(self, keys: Sequence[Key]) -> set[str]:
        """The nodes alive; looked up only if one of these images is already in work somewhere."""
        if self.open.keys().isdisjoint(keys):
            return set()
        return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


def open_ledger(run: str) -> Any:
    """A new ledger for a run, on the driver's node where possible."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Ledger)
    return actor.options(scheduling_strategy=here).remote(run)


class Watch:
    """Reports the work of one stage to the ledger, and refuses images at which workers died.

    Args:
        stage: load, perturb or explain.
        ledger: of the run; None outside Ray, where nothing is reported.
        timeout_s: an image that takes longer ends its worker process, which counts as a death.
    """

    def __init__(self, stage: str, ledger: Any = None, timeout_s: float | None = None) -> None:
        self.stage, self.ledger, self.timeout_s = stage, ledger, timeout_s

    def over(
        self,
        dataset: str,
        image_id: str,
        work: Callable[[], T],
        refuse: Callable[[str], T],
        *,
        part: int = 0,
        model: str = "",
    ) -> T:
        """Do the work on one image, or refuse it.

        Args:
            dataset: of the image.
            image_id: the image.
            work: what is to be done; returns the result.
            refuse: makes the result of a refused image, from a sentence that says why.
            part: number of the part in work.
            model: name of the model in work.

        Raises:
            RunFailed: too many images are in quarantine.
        """
        return self._over([(self.stage, str(dataset), str(image_id), model, part)], work, refuse)

    def over_all(
        self,
        dataset: str,
        image_ids: Sequence[str],
        work: Callable[[Sequence[int]], Sequence[T]],
        refuse: Callable[[str], T],
        *,
        part: int = 0,
    ) -> list[T]:
        """Do the work on several images at once, but one by one on images at which a worker has died.

        This finds the image that is the cause and does not blame the others of its batch. It also helps where the
        images are too much for a worker only when they are together.

        Args:
            dataset: of the images.
            image_ids: the B images.
            work: what is to be done; takes the places of some of the images, returns their results.
            refuse: makes the result of a refused image, from a sentence that says why.
            part: number of the part in work.

        Returns:
            B results.

        Raises:
            RunFailed: too many images are in quarantine.
        """
        keys: list[Key] = [(self.stage, str(dataset), str(image_id), "", part) for image_id in image_ids]
        suspects = self._suspects(keys)
        innocent = [place for place in range(len(keys)) if place not in suspects]
        results: dict[int, T] = {}
        for places in filter(None, (innocent, *([place] for place in suspects))):
            some = [keys[place] for place in places]
            done = self._over(some, partial(work, places), lambda why: [refuse(why)] * len(some))  # noqa: B023
            results |= zip(places, done, strict=True)
        return [results[place] for place in range(len(keys))]

    def renew(self) -> None:
        """Start the timeout anew for the next image of a batch."""
        if self.ledger is not None and self.timeout_s:
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=STANDARD_ERROR)

    def _over(self, keys: Sequence[Key], work: Callable[[], T], refuse: Callable[[str], T]) -> T:
        if self.ledger is None:
            return work()
        deaths, condemned = self._begin(keys)
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
            self.ledger.end.remote(keys, time.monotonic() - start)

    def _suspects(self, keys: Sequence[Key]) -> list[int]:
        """Places of the images at which a worker died; none for a single image, which needs no separating."""
        if self.ledger is None or len(keys) == 1:
            return []
        try:
            places: list[int] = ray.get(self.ledger.suspects.remote(keys))
        except RayError:
            return []
        return places

    def _begin(self, keys: Sequence[Key]) -> tuple[int, int]:
        """Tell the ledger. While it restarts it knows nothing, and the work goes on."""
        try:
            deaths, condemned = ray.get(self.ledger.begin.remote(keys, ray.get_runtime_context().get_node_id()))
        except RayError:
            return 0, 0
        return deaths, condemned

    def _timed(self, work: Callable[[], T]) -> T:
        """Work under the timeout; its timer is in C, so it ends the process even if a library hangs."""
        if self.timeout_s:
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=STANDARD_ERROR)
        try:
            return work()
        finally:
            if self.timeout_s:
                faulthandler.cancel_dump_traceback_later()
