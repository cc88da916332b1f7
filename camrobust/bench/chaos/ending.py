"""Nothing is left behind: SIGTERM ends a bench like Ctrl-C, and no process that it started outlives it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from camrobust.bench.chaos.processes import descendants, kill

_CAUGHT: set[int] = set()
"""Numbers of the signals that `ending_cleanly` catches now."""


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """While open, SIGTERM raises KeyboardInterrupt; at the end, whatever this process has started since is killed.

    A second SIGTERM or Ctrl-C is ignored, so that it cannot break off the cleaning up; so is a first one while other
    blocks close, if `unwinding` is the innermost of them.
    """
    before = descendants(os.getpid())
    numbers = (signal.SIGTERM, signal.SIGINT)
    found = {number: signal.getsignal(number) for number in numbers} if current_thread() is main_thread() else {}

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _ignore()
        raise KeyboardInterrupt

    _CAUGHT.update(found)
    for number in found:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        _ignore()
        _CAUGHT.difference_update(found)
        kill(descendants(os.getpid()) - before)
        for number, handler in found.items():
            signal.signal(number, handler)


@contextmanager
def unwinding() -> Iterator[None]:
    """When it closes, SIGTERM and Ctrl-C are ignored until `ending_cleanly` closes; nothing changes without that."""
    try:
        yield
    finally:
        _ignore()


@contextmanager
def undisturbed() -> Iterator[None]:
    """While open, the signals that `ending_cleanly` catches are ignored."""
    before = _ignore()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore() -> dict[int, Any]:
    """Ignore the signals that are caught; returns their handlers until now."""
    if current_thread() is not main_thread():
        return {}
    return {number: signal.signal(number, signal.SIG_IGN) for number in _CAUGHT}
