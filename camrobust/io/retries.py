"""How long a call to any object store is tried, and who hears that it is.

A store may fail for minutes. While a run measures (`patient`), a call is tried for `patience_s()`; elsewhere, above all
while a run is planned, it is tried `attempts()` times, so that a mistyped endpoint is told within seconds. A call that
is made again soon anyway (`hasty`), like a beat of the lease, is tried twice.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from camrobust.io.store_errors import PassingError

ATTEMPTS = 8
HASTY = 2
PATIENCE_S = 900.0
LINES = 15
"""Lines in the whole patience that say what a store answers: one a minute."""
OBJECT_TIMEOUT_S = 300
"""For one whole object. A store that sends a few bytes now and then is given up, too; in half an image's timeout."""
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""Between two bytes of an answer."""
CONNECTIONS = 64
"""Kept open by a client."""
FIRST_PAUSE_S = 0.5
"""The longest possible pause after the first attempt of a call to a far store."""
BACKOFF_S = 20.0
"""The longest pause between two attempts, unless the patience is short."""
SLICE_S = 0.5
"""A pause is slept in slices of this length; after each one those who watch hear that this process is alive."""

Tell = Callable[[str, str], None]
"""Takes the address of a store, and a line for the user."""
T = TypeVar("T")


def attempts() -> int:
    """The number of attempts for one call outside a run: AWS_MAX_ATTEMPTS, or 8."""
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(given) if given.isdigit() and int(given) else ATTEMPTS


def patience_s() -> float:
    """Seconds for which a call is tried in a run: CAMROBUST_STORE_PATIENCE_S, or 900."""
    try:
        return max(0.0, float(os.environ.get("CAMROBUST_STORE_PATIENCE_S", "")))
    except ValueError:
        return PATIENCE_S


@dataclass
class _Trouble:
    """A store that fails now.

    Attributes:
        since: when it began, on this process's monotonic clock, s.
        told: when the user heard of it last.
    """

    since: float
    told: float


@dataclass
class _Process:
    """What the threads of this process know together."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    patient: int = 0
    tell: list[Tell] = field(default_factory=list)
    alive: list[Callable[[], None]] = field(default_factory=list)
    trouble: dict[str, _Trouble] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    told: dict[str, float] = field(default_factory=dict)


_PROCESS = _Process()
_THREAD = threading.local()


@contextmanager
def patient(tell: Tell | None = None, alive: Callable[[], None] | None = None) -> Iterator[None]:
    """While open, calls of all threads of this process are tried by time.

    Args:
        tell: takes a line about once a minute while a store fails.
        alive: called before every attempt, and in the pauses between them at least once a second.
    """
    with _PROCESS.lock:
        _PROCESS.patient += 1
        _PROCESS.tell += [] if tell is None else [tell]
        _PROCESS.alive += [] if alive is None else [alive]
    try:
        yield
    finally:
        with _PROCESS.lock:
            _PROCESS.patient -= 1
            if tell is not None:
                _PROCESS.tell.remove(tell)
            if alive is not None:
                _PROCESS.alive.remove(alive)


@contextmanager
def hasty() -> Iterator[None]:
    """While open, calls of this thread are tried twice."""
    before = getattr(_THREAD, "hasty", False)
    _THREAD.hasty = True
    try:
        yield
    finally:
        _THREAD.hasty = before


def insist(call: Callable[[], T], store: str, first_s: float = 0.1, tries: int | None = None) -> T:
    """The result of a call, tried again while its error may pass.

    Args:
        call: asks the store.
        store: address of the bucket or container.
        first_s: the longest possible pause after the first attempt, s.
        tries: attempts outside a run; None for `attempts()`.

    Raises:
        PassingError: the store still fails after the last attempt.
    """
    began, attempt = time.monotonic(), 0
    while True:
        _is_alive()
        try:
            found = call()
        except PassingError as error:
            attempt += 1
            _failed(store, error)
            if _is_enough(error, store, attempt, time.monotonic() - began, tries):
                raise
            error.before_next()
            _pause(attempt - 1, first_s)
        else:
            _recovered(store)
            return found


def _is_enough(error: PassingError, store: str, attempt: int, waited_s: float, tries: int | None) -> bool:
    if getattr(_THREAD, "hasty", False):
        return attempt >= min(HASTY, attempts())
    if _PROCESS.patient and (error.always or store in _PROCESS.reached):
        return waited_s >= patience_s()
    return attempt >= (error.tries or tries or attempts())


def polars_retries() -> dict[str, int]:
    """The same for the calls that polars makes itself, as its storage options."""
    if not _PROCESS.patient:
        return {"max_retries": attempts()}
    return {"max_retries": 2**20, "retry_timeout_ms": round(1000 * patience_s())}


def _pause(attempt: int, first_s: float) -> None:
    """Sleep between two attempts; the longest possible pause doubles with each."""
    longest = min(BACKOFF_S, max(SLICE_S, patience_s() / 3 / LINES))
    end = time.monotonic() + random.uniform(0, min(longest, first_s * 2 ** min(attempt, 20)))
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(SLICE_S, left))
        _is_alive()
    _is_alive()


def _is_alive() -> None:
    # Under the lock, so that nobody is called who is no longer there.
    with _PROCESS.lock:
        for alive in _PROCESS.alive:
            alive()


def _failed(store: str, error: PassingError) -> None:
    """Tell once a minute; nothing is told of a failure that passes within the first minute."""
    now = time.monotonic()
    with _PROCESS.lock:
        trouble = _PROCESS.trouble.setdefault(store, _Trouble(now, now))
        if now - trouble.told < patience_s() / LINES:
            return
        trouble.told = now
    tell(store, f"store: {store} {error.why}, for {_shown(now - trouble.since)} now; it is tried again")


def tell(store: str, line: str) -> None:
    """Pass on a line about a store, from this process or a worker, unless one about it was passed on just now."""
    now = time.monotonic()
    with _PROCESS.lock:
        if now - _PROCESS.told.get(store, float("-inf")) < patience_s() / LINES / 2:
            return
        _PROCESS.told[store] = now
        hearing = list(_PROCESS.tell)
    for one in hearing:
        one(store, line)


def _recovered(store: str) -> None:
    with _PROCESS.lock:
        _PROCESS.reached.add(store)
        _PROCESS.trouble.pop(store, None)


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
