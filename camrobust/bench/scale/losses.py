"""Workers and nodes that are lost at random while a run measures."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from camrobust.bench.chaos.nodes import Nodes
from camrobust.bench.chaos.processes import kill
from camrobust.contract.errors import RunFailed

STAGES = ("Load", "Perturb", "RehearsedExplain", "Commit")


class Measuring(Protocol):
    """Something that measures for a time.

    Attributes:
        measuring: set while it does.
    """

    measuring: threading.Event


class Losses:
    """Kills workers (kill -9) and nodes; another node joins for each that was lost.

    Args:
        cluster: the nodes.
        dice: decides when, and whom.
        kill_s: mean seconds between two workers.
        lose_s: mean seconds between two nodes.
    """

    def __init__(self, cluster: Nodes, dice: random.Random, kill_s: float, lose_s: float) -> None:
        self.cluster, self.dice = cluster, dice
        self.nodes = len(cluster.workers)
        self.pauses_s = {"worker": kill_s, "node": lose_s}
        self.counts: Counter[str] = Counter()
        """What was lost, in words, and how often; a stage of which no worker was running is not counted."""

    def kill_worker(self) -> None:
        """Kill a worker of a stage that is chosen among those that run now."""
        running = [
            (stage, pid)
            for node in self.cluster.workers
            for stage in STAGES
            for pid in node.workers(stage, f"MapBatches({stage})")
        ]
        if not running:
            return
        stage = self.dice.choice(sorted({stage for stage, _ in running}))
        kill({self.dice.choice([pid for each, pid in running if each == stage])})
        self.counts[f"worker of {stage.removeprefix('Rehearsed')}"] += 1

    def lose_node(self) -> None:
        """Kill a node, then let another one join; on a busy machine it may not start in time, and is tried again."""
        if self.cluster.workers:
            self.cluster.lose(self.dice.choice(self.cluster.workers))
            self.counts["node"] += 1
        self.complete()

    def complete(self) -> None:
        """Let a node join in the place of each that is missing; one that does not start is left for the next time."""
        with suppress(RunFailed):
            while len(self.cluster.workers) < self.nodes:
                self.cluster.add()

    @contextmanager
    def while_measuring(self, run: Measuring) -> Iterator[None]:
        """While open, lose something now and then, but only while the run measures."""
        ended = threading.Event()

        def lose() -> None:
            act = {"worker": self.kill_worker, "node": self.lose_node}
            due_s = {what: self.dice.expovariate(1 / pause_s) for what, pause_s in self.pauses_s.items()}
            while not ended.is_set():
                what = min(due_s, key=due_s.__getitem__)
                waited_s = due_s[what]
                if not run.measuring.wait(1.0) or ended.wait(waited_s):
                    continue
                due_s = {name: left_s - waited_s for name, left_s in due_s.items()}
                due_s[what] = self.dice.expovariate(1 / self.pauses_s[what])
                if run.measuring.is_set():
                    self.complete()
                    act[what]()

        with ThreadPoolExecutor(1) as pool:
            losing = pool.submit(lose)
            try:
                yield
            finally:
                ended.set()
            losing.result()
