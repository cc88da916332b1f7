"""The faults that a trial injects, and how they are drawn.

A fault acts on a trial and returns what it did and whether it struck (`trial.Injection`), or raises `Missed`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from camrobust.bench.chaos.file_faults import corrupt, full_disk, lose_result, plant, vanish
from camrobust.bench.chaos.node_faults import (
    drain_node,
    full_spill,
    kill_all_nodes,
    kill_node,
    late_node,
    lose_head,
    slow_node,
    small_store,
    without_a_node,
)
from camrobust.bench.chaos.process_faults import end_driver, kill_driver, kill_worker, pause_commit, pause_driver
from camrobust.bench.chaos.store_faults import bad_store, cut_off, dead_store, expire, outage
from camrobust.bench.chaos.trial import BEFORE, Injection, Moment, Trial

Need = Literal["", "store", "disk", "memory", "disk and memory", "keys"]
MEMORY: tuple[Need, ...] = ("memory", "disk and memory")


@dataclass(frozen=True)
class Fault:
    """One row of the table of faults.

    Attributes:
        inject: acts on a trial.
        weight: how often it is drawn, relative to the others.
        needs: a store that can fail, the right to mount a small disk, a job that fills the memory of Ray's object
            store, or keys that can expire.
        when: before the driver starts, as soon as the run has begun, or at some share of the commits.
        prepare: what the trial must begin with.
    """

    inject: Callable[[Trial], Injection]
    weight: int = 1
    needs: Need = ""
    when: Literal["before", "begun", "any time"] = "any time"
    prepare: Callable[[Trial], None] | None = None


FAULTS = (
    Fault(kill_worker, weight=2),
    Fault(kill_node),
    Fault(kill_all_nodes),
    Fault(lose_head, weight=2),
    Fault(drain_node),
    Fault(late_node, weight=2, when="begun", prepare=without_a_node),
    Fault(slow_node, weight=2, when="begun"),
    Fault(kill_driver),
    Fault(end_driver),
    Fault(lose_result),
    Fault(vanish, when="begun"),
    Fault(corrupt, when="begun"),
    Fault(pause_driver),
    Fault(pause_commit),
    Fault(plant),
    Fault(bad_store, needs="store"),
    Fault(dead_store, needs="store"),
    Fault(outage, weight=3, needs="store"),
    Fault(cut_off, weight=3, needs="store", when="begun"),
    Fault(expire, weight=3, needs="keys"),
    Fault(full_disk, needs="disk", when="before"),
    Fault(small_store, needs="memory", when="before"),
    Fault(full_spill, needs="disk and memory", when="before"),
)


def choose(dice: random.Random, able: Sequence[Need]) -> list[Fault]:
    """One to three faults, none twice; one that needs much memory and no other such if the trial offers it.

    Args:
        dice: decides.
        able: what the trial offers.
    """
    known = [fault for fault in FAULTS if not fault.needs or fault.needs in able]
    short = [fault for fault in known if fault.needs in MEMORY]
    others = [fault for fault in known if fault not in short]
    first = [dice.choice(short)] if short else []
    count = dice.choice((1, 2, 2, 3)) - len(first)
    return list(dict.fromkeys([*first, *dice.choices(others, [fault.weight for fault in others], k=count)]))


def moments(dice: random.Random, drawn: Sequence[Fault]) -> list[Moment]:
    """The share of the commits at which each fault strikes, in that order."""
    shares = {"before": BEFORE, "begun": 0.0}
    timed = [(shares[fault.when] if fault.when in shares else dice.uniform(0, 0.9), fault.inject) for fault in drawn]
    return sorted(timed, key=lambda moment: moment[0])
