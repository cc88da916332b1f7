"""Nothing is left behind: SIGTERM ends a bench like Ctrl-C, and no process that it started outlives it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from camrobust.bench.chaos.processes import descendants, kill


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """While open, SIGTERM raises KeyboardInterrupt; at the end, whatever this process has started since is killed.

    A second SIGTERM or Ctrl-C is ignored, so that it cannot break off the cleaning up.
    """
    before = descendants(os.getpid())
    numbers = (signal.SIGTERM, signal.SIGINT)
    found = {number: signal.getsignal(number) for number in numbers} if current_thread() is main_thread() else {}

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in found:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in found:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in found:
            signal.signal(number, signal.SIG_IGN)
        kill(descendants(os.getpid()) - before)
        for number, handler in found.items():
            signal.signal(number, handler)
