"""Processor time of a session of Ray: of this process, of the ledger, and of all processes together."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from camrobust.bench.chaos.processes import cpu_s, descendants, title
from camrobust.run.observer import repeating

LOOK_S = 1.0


class Meter:
    """Processor time of the processes of this session since the meter was made.

    Workers end while a stream runs, and their time with them, so `look` has to be called now and then.

    Attributes:
        driver_s: of this process, without what looking took; valid when the meter has ended.
        ledger_s: of the ledger, not of those that earlier runs have left.
    """

    def __init__(self) -> None:
        self.before = {pid: cpu_s(pid) for pid in descendants(os.getpid())}
        self.last = dict(self.before)
        self.others = {pid for pid in self.before if _is_ledger(pid)}
        self.began, self.looking_s = time.process_time(), 0.0
        self.driver_s = self.ledger_s = 0.0

    def look(self) -> None:
        """Note the time of all processes that live."""
        start = time.thread_time()
        for pid in descendants(os.getpid()):
            # A process that is ending shows no time any more.
            self.last[pid] = max(cpu_s(pid), self.last.get(pid, 0.0))
            if pid not in self.others and _is_ledger(pid):
                self.ledger_s = self.last[pid] - self.before.get(pid, 0.0)
        self.looking_s += time.thread_time() - start

    def everything_s(self) -> float:
        """All processes together."""
        return self.driver_s + sum(now - self.before.get(pid, 0.0) for pid, now in self.last.items())


def _is_ledger(pid: int) -> bool:
    return title(pid).startswith("ray::Ledger")


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter that looks every second while the block runs, and at its end."""
    meter = Meter()
    try:
        with repeating(meter.look, LOOK_S):
            yield meter
    finally:
        meter.look()
        meter.driver_s = time.process_time() - meter.began - meter.looking_s
