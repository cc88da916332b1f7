"""Ends of batches that the ledger has still to be told; the next begin of the same process takes them along.

They belong to the process and not to a stage's object: Ray makes a new one for every batch of Load.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock, Timer
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

WAIT_S = 0.25
"""An end waits so long in a worker that begins at least four batches a second; one without work may soon be stopped."""
LONGEST_WAIT_S = 1.0
"""In a worker that begins them more slowly, an end waits for two of its pauses, but at most so long."""
SLOW_S = 1.0
"""A batch that took longer saves nothing by waiting."""


class _Ends(NamedTuple):
    """Of one ledger: the ends, and what sends them if no begin does."""

    messages: list[list[Any]]
    timer: Timer


_LOCK = Lock()
_WAITING: dict[Any, _Ends] = {}
_BEGUN: dict[Any, tuple[float, float]] = {}
"""By ledger, when this process last began a batch, on the clock, and how long after the one before it, s."""


def end_later(ledger: Any, message: Sequence[Any]) -> None:
    """Let an end wait for the next begin.

    Args:
        ledger: that is to be told.
        message: the fields of an `Ended`.
    """
    with _LOCK:
        if ledger not in _WAITING:
            _, pause_s = _BEGUN.get(ledger, (0.0, 0.0))
            timer = Timer(min(max(WAIT_S, 2 * pause_s), LONGEST_WAIT_S), _send, [ledger])
            timer.daemon = True
            _WAITING[ledger] = _Ends([], timer)
            timer.start()
        _WAITING[ledger].messages.append(list(message))


def take_ends(ledger: Any) -> list[list[Any]]:
    """The ends that wait for this ledger; the caller tells it, because it begins a batch."""
    now = time.monotonic()
    last, _ = _BEGUN.get(ledger, (now, 0.0))
    _BEGUN[ledger] = now, now - last
    return _take(ledger)


def _take(ledger: Any) -> list[list[Any]]:
    with _LOCK:
        ends = _WAITING.pop(ledger, None)
    if ends is None:
        return []
    ends.timer.cancel()
    return ends.messages


def _send(ledger: Any) -> None:
    """Tell the ledger now, if the process still belongs to a cluster; without one, Ray would start another."""
    ends = _take(ledger)
    if ray.is_initialized():
        for message in ends:
            with suppress(RayError):
                ledger.end.remote(message)
