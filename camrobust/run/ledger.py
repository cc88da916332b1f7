"""A ledger of the images that are being worked on; every stage tells it when it begins and ends a batch of them.

The ledger finds an image that kills its worker (segfault, out of memory) or never ends. Ray Data retries the batch of a
dead worker without end, which is right when a machine vanishes and wrong when an image is the cause. So a batch whose
worker died on a node that lived on is taken apart: its images are worked on one by one, and one whose worker died
`DEATHS` times becomes a failure row. The ledger also counts what each stage has done, for progress lines, `camrobust
status`, done/NUMBER.json, and Ray's Prometheus endpoint.

A batch costs one message where work is fast, however many images it has: its begin takes along the end of the batch
before it (`waiting_ends`). The worker waits for the answer to a begin, because a worker that crashes at once could lose
a message that it has not sent yet. An end that is lost with its worker looks like a death at the last moment of the
batch: if Ray Data works on it again, it is taken apart. An image alone would be blamed, so its end is sent at once.
"""

import faulthandler
import time
from collections import Counter
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar

import ray
from ray.exceptions import RayError
from ray.util import metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from camrobust.contract.errors import RunFailed
from camrobust.io.retries import patient
from camrobust.run.messages import Batch, Begun, Ended, Key
from camrobust.run.waiting_ends import SLOW_S, end_later, take_ends

STAGES = ("load", "perturb", "explain")
DEATHS = 3
MOST = 32
"""More images than this in quarantine mean that the fault is a machine's or a model's, not the images'."""
REMEMBERED = 4096
"""Tickets of ended batches that the ledger knows."""
STANDARD_ERROR = 2

T = TypeVar("T")


class ImagePart(NamedTuple):
    """One part of an image; in Load, which knows no parts, part 0 stands for the image."""

    dataset: str
    image_id: str
    part: int


class Ledger:
    """Knows which image is being worked on where; an actor, one per run.

    Args:
        run: address of the run folder, a tag in Ray's metrics.
    """

    def __init__(self, run: str = "") -> None:
        self.open: dict[Key, tuple[str, str]] = {}
        """The ticket of the batch in which an image was begun last, and its node."""
        self.batches: dict[str, list[Key]] = {}
        """By ticket, the batches in work, as far as we know."""
        self.over: dict[str, None] = {}
        """Tickets of the batches that ended last, so that an end that comes twice counts once."""
        self.deaths: dict[Key, int] = {}
        self.suspected: set[Key] = set()
        self.condemned: set[tuple[str, ...]] = set()
        self.ended: Counter[str] = Counter()
        self.busy_s: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.run = run
        self.waits: dict[str, str] = {}
        """By store, the last line about it that nobody has read."""
        self.told: dict[str, tuple[int, float]] = dict.fromkeys(STAGES, (0, 0.0))
        keys = ("run", "stage")
        self.steps = metrics.Counter(
            "camrobust_steps", "images, parts or (in Explain) pairs of part and model that are done", keys
        )
        self.seconds = metrics.Counter("camrobust_busy_seconds", "seconds of work, summed over workers", keys)
        self.workers = metrics.Gauge("camrobust_workers_busy", "workers that are working on images", keys)

    def begin(self, message: Sequence[Any]) -> list[Any]:
        """Record that a worker begins these images, except the suspects among several.

        If an image is begun alone and an earlier batch on a live node never ended it, that worker died; this counts as
        one death. An image is condemned with all its parts, for one model. The same message may come twice.

        Args:
            message: the fields of a `Batch`.

        Returns:
            The fields of a `Begun`.
        """
        batch = Batch(*message)
        for ended in batch.ended:
            self.end(ended)
        keys = batch.keys()
        died, B = self._died(keys, batch.ticket), len(keys)
        suspects: list[int] = []
        if B > 1:
            suspects = [
                place for place, key in enumerate(keys)
                if place in died or key in self.suspected or key[:4] in self.condemned
            ]  # fmt: skip
            # The likely cause first, before work is done that is lost with it; what will be refused last, so that
            # the other parts of its image are scored.
            deaths_of = {place: self.deaths.get(keys[place], 0) for place in suspects}
            suspects.sort(key=lambda place: (deaths_of[place] >= DEATHS - 1, -deaths_of[place]))
            out = set(suspects)
            keys = [key for place, key in enumerate(keys) if place not in out]
        deaths = self._deaths(keys[0], new=bool(died)) if B == 1 else 0
        self.open |= dict.fromkeys(keys, (batch.ticket, batch.node))
        if keys:
            self.batches[batch.ticket] = keys
        return [suspects, deaths, len({key[2:4] for key in self.condemned})]

    def end(self, message: Sequence[Any]) -> None:
        """Record that a worker has finished a batch; `message` holds the fields of an `Ended`."""
        ended = Ended(*message)
        if ended.ticket in self.over:
            return
        self._remember(ended.ticket)
        for key in self.batches.pop(ended.ticket, ()):
            self.open.pop(key, None)
            if key[:4] not in self.condemned:
                self.deaths.pop(key, None)
        self.ended[ended.stage] += ended.images
        self.busy_s[ended.stage] += ended.seconds

    def settle(self) -> None:
        """Count what is still open as done: every image is committed, and workers were stopped before they told it."""
        for ticket, keys in self.batches.items():
            self.ended[keys[0][0]] += len(keys)
            self._remember(ticket)
        self.batches.clear()
        self.open.clear()

    def wait(self, message: Sequence[str]) -> None:
        """Record that a worker waits for a store: its address, and a line for the user."""
        store, line = message
        self.waits[store] = line

    def waiting(self) -> list[tuple[str, str]]:
        """The stores that workers have waited for since the last call, each with a line."""
        waits, self.waits = self.waits, {}
        return list(waits.items())

    def look(self) -> dict[str, tuple[int, float, int]]:
        """Per stage: images done, seconds of work, workers at work. Ray's metrics are brought to the same state."""
        busy = Counter(keys[0][0] for keys in self.batches.values())
        for stage in STAGES:
            tags = {"run": self.run, "stage": stage}
            ended, busy_s = self.told[stage]
            if self.ended[stage] > ended:
                self.steps.inc(self.ended[stage] - ended, tags)
                self.seconds.inc(max(self.busy_s[stage] - busy_s, 1e-9), tags)
            self.workers.set(busy[stage], tags)
            self.told[stage] = self.ended[stage], self.busy_s[stage]
        return {stage: (self.ended[stage], self.busy_s[stage], busy[stage]) for stage in STAGES}

    def _remember(self, ticket: str) -> None:
        self.over[ticket] = None
        if len(self.over) > REMEMBERED:
            del self.over[next(iter(self.over))]

    def _died(self, keys: Sequence[Key], ticket: str) -> set[int]:
        """Places of the images that another batch has left open on a node that lives. Its worker is gone."""
        if self.open.keys().isdisjoint(keys):
            return set()
        before = {place: self.open[key] for place, key in enumerate(keys) if key in self.open}
        others = {place: node for place, (earlier, node) in before.items() if earlier != ticket}
        for earlier, _ in before.values():
            if earlier != ticket:
                self.batches.pop(earlier, None)
        living = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
        return {place for place, node in others.items() if node in living}

    def _deaths(self, key: Key, *, new: bool) -> int:
        """Deaths at an image that is begun alone, a new one included."""
        if new:
            self.deaths[key] = self.deaths.get(key, 0) + 1
            self.suspected.add(key)
        if self.deaths.get(key, 0) >= DEATHS:
            self.condemned.add(key[:4])
        return DEATHS if key[:4] in self.condemned else self.deaths.get(key, 0)


def open_ledger(run: str) -> Any:
    """A new ledger for a run, on the driver's node where possible."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Ledger)
    # Ray would keep a record of every message, for a list of tasks that nobody reads.
    return actor.options(scheduling_strategy=here, enable_task_events=False).remote(run)


class Watch:
    """Reports the work of one stage to the ledger, and refuses images at which workers died.

    Args:
        stage: load, perturb or explain.
        ledger: of the run; None outside Ray, where nothing is reported.
        timeout_s: an image that takes longer ends its worker process, which counts as a death.
    """

    def __init__(self, stage: str, ledger: Any = None, timeout_s: float | None = None) -> None:
        self.stage, self.ledger, self.timeout_s = stage, ledger, timeout_s

    def over_all(
        self,
        items: Sequence[ImagePart],
        work: Callable[[Sequence[int]], Sequence[T]],
        refuse: Callable[[str], T],
        *,
        model: str = "",
    ) -> list[T]:
        """Do the work on several images at once, but one by one on images at which a worker has died.

        This finds the image that is the cause and does not blame the others of its batch.

        Args:
            items: the B images or parts of images; of any datasets, none twice.
            work: what is to be done; takes the places of some of the items, returns their results in that order. It
                calls `renew` before each step that may take the timeout.
            refuse: makes the result of a refused item, from a sentence that says why.
            model: name of the model in work.

        Returns:
            B results.

        Raises:
            RunFailed: too many images are in quarantine.
        """
        if self.ledger is None:
            return list(work(range(len(items))))
        results: dict[int, T] = {}

        def attempt(places: Sequence[int]) -> list[int]:
            """Do what is no suspect; returns the places of the suspects."""
            ticket = token_hex(8)
            begun = self._begin(ticket, model, [items[place] for place in places])
            self._check(begun)
            suspects = [places[place] for place in begun.suspects]
            left = [place for place in places if place not in set(suspects)]
            if left:
                start = time.monotonic()
                try:
                    done = [refuse(self._why(begun))] if begun.deaths >= DEATHS else self._timed(work, left)
                finally:
                    self._end(Ended(ticket, self.stage, len(left), time.monotonic() - start))
                results.update(zip(left, done, strict=True))
            return suspects

        if items:
            for place in attempt(range(len(items))):
                attempt([place])
        return [results[place] for place in range(len(items))]

    def renew(self) -> None:
        """Start the timeout anew, for the next image or pass of a batch."""
        if self.ledger is not None and self.timeout_s:
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=STANDARD_ERROR)

    def tell(self, store: str, line: str) -> None:
        """Pass a line about a failing store on to the user, by way of the ledger and the driver."""
        if self.ledger is not None:
            self.ledger.wait.remote([store, line])

    def _begin(self, ticket: str, model: str, items: Sequence[ImagePart]) -> Begun:
        """Tell the ledger. While it restarts it knows nothing, and the work goes on."""
        datasets, image_ids, parts = (list(column) for column in zip(*items, strict=True))
        if len(set(datasets)) == 1:
            datasets = datasets[:1]
        if len(set(parts)) == 1:
            parts = parts[:1]
        node = ray.get_runtime_context().get_node_id()
        ends = take_ends(self.ledger)
        batch = Batch(ticket, node, self.stage, model, datasets, image_ids, parts, ends)
        try:
            return Begun(*ray.get(self.ledger.begin.remote(list(batch))))
        except RayError:
            for ended in ends:
                end_later(self.ledger, ended)
            return Begun()

    def _end(self, ended: Ended) -> None:
        """Tell the ledger, now or with the next begin."""
        if ended.images > 1 and ended.seconds < SLOW_S:
            end_later(self.ledger, ended)
        else:
            self.ledger.end.remote(list(ended))

    def _check(self, begun: Begun) -> None:
        if begun.condemned > MOST:
            raise RunFailed(
                f"run: workers died at more than {MOST} different images in the stage {self.stage}, so it is not "
                "the images; look for crashes or too little memory in Ray's worker logs, then run again to resume"
            )

    def _why(self, begun: Begun) -> str:
        return (
            f"the worker died {begun.deaths} times at this image (crash, out of memory, or more than "
            f"{self.timeout_s:g} s in the stage {self.stage})"
        )

    def _timed(self, work: Callable[[Sequence[int]], Sequence[T]], places: Sequence[int]) -> Sequence[T]:
        """Work under the timeout; its timer is in C, so it ends the process even if a library hangs.

        The time in which the work waits for a failing store does not count.
        """
        self.renew()
        try:
            with patient(alive=self.renew):
                return work(places)
        finally:
            if self.timeout_s:
                faulthandler.cancel_dump_traceback_later()
