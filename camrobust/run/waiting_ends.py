"""Ends of batches that the ledger has still to be told; the next begin of the same process takes them along.

They belong to the process and not to a stage's object: Ray makes a new one for every batch of Load.
"""

from collections.abc import Sequence
from contextlib import suppress
from threading import Lock, Timer
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

WAIT_S = 0.25
"""An end waits at most so long. A worker with work to do begins sooner; one without may soon be stopped."""
SLOW_S = 1.0
"""A batch that took longer saves nothing by waiting."""


class _Ends(NamedTuple):
    """Of one ledger: the ends, and what sends them if no begin does."""

    messages: list[list[Any]]
    timer: Timer


_LOCK = Lock()
_WAITING: dict[Any, _Ends] = {}


def end_later(ledger: Any, message: Sequence[Any]) -> None:
    """Let an end wait for the next begin.

    Args:
        ledger: that is to be told.
        message: the fields of an `Ended`.
    """
    with _LOCK:
        if ledger not in _WAITING:
            timer = Timer(WAIT_S, _send, [ledger])
            timer.daemon = True
            _WAITING[ledger] = _Ends([], timer)
            timer.start()
        _WAITING[ledger].messages.append(list(message))


def take_ends(ledger: Any) -> list[list[Any]]:
    """The ends that wait for this ledger; the caller tells it."""
    with _LOCK:
        ends = _WAITING.pop(ledger, None)
    if ends is None:
        return []
    ends.timer.cancel()
    return ends.messages


def _send(ledger: Any) -> None:
    """Tell the ledger now, if the process still belongs to a cluster; without one, Ray would start another."""
    ends = take_ends(ledger)
    if ray.is_initialized():
        for message in ends:
            with suppress(RayError):
                ledger.end.remote(message)
