"""One driver per run folder: a lease that its holder renews, and that lapses when the holder dies.

`lease/NUMBER.json` with the highest number is the lease. Whoever takes it creates the next number by a conditional
put, so of two takers one wins, on any store that can create an object only if it is not there. Only the holder writes
to its own number: a beat every few seconds. Who finds a lease watches it: a beat means that the holder lives; none for
`TERM_S` seconds of the watcher's own clock means that it died. No two machines' clocks are compared.

What a lease protects is work, not rows: two drivers would void each other's commits in flight, and the rows would be
measured again.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from camrobust.errors import RunFailed, UserError
from camrobust.io.objects import MissingObjectError, Store

TERM_S = 45.0
"""A lease that is not renewed for so long has lapsed; CAMROBUST_LEASE_TERM_S changes it."""
BEATS = 6
"""Renewals in a term, so that a few may fail."""

Say = Callable[[str], None]


def term_s() -> float:
    """Seconds without a beat after which a holder counts as dead."""
    try:
        return max(1.0, float(os.environ.get("CAMROBUST_LEASE_TERM_S", "")))
    except ValueError:
        return TERM_S


def _machine() -> str:
    """This machine since its last start, and this container on it; a hash, so that no name is written down."""
    try:
        parts = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return secrets.token_hex(8)
    return sha256(parts.encode()).hexdigest()[:16]


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks, so that a number used again is told apart; empty where it ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _key(number: int) -> str:
    return f"lease/{number:08}.json"


@dataclass
class Lease:
    """A held lease; renewed by a thread until `release`.

    Attributes:
        store: of the run folder.
        number: of this lease.
        holder: who holds it: a token, the machine, the process.
    """

    store: Store
    number: int
    holder: dict[str, Any]
    _lost: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def keep(self) -> None:
        """Start to renew it."""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        term = term_s()
        beat, good = 0, time.monotonic()
        while not self._stop.wait(term / BEATS):
            beat += 1
            with suppress(UserError):
                if _newest(self.store) != self.number:
                    self._lost = "another driver has taken it over"
                    return
                self.store.write(_key(self.number), json.dumps({**self.holder, "beat": beat}).encode())
                good = time.monotonic()
            if time.monotonic() - good > term:
                self._lost = f"its lease could not be renewed for {term:g} s"
                return

    def check(self) -> None:
        """Raise where the lease is lost.

        Raises:
            RunFailed: another driver works in this folder, or may do so.
        """
        if self._lost:
            raise RunFailed(f"run: {self.store.uri}: {self._lost}; run again to resume what is left")

    def release(self) -> None:
        """Let others take it at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            with suppress(UserError):
                self.store.write(_key(self.number), json.dumps({"released": True}).encode())


def _newest(store: Store) -> int:
    numbers = [Path(entry.key).stem for entry in store.list("lease/")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _read(store: Store, number: int) -> dict[str, Any]:
    """The lease of that number; empty where there is none or it says nothing."""
    try:
        found = json.loads(store.read(_key(number)))
    except (MissingObjectError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _free(found: dict[str, Any], machine: str) -> bool:
    """Released, or held by a process of this machine that is no more."""
    if found.get("released") or not found:
        return True
    return found.get("machine") == machine and _started(int(found.get("process", 0))) != found.get("started")


def _watch(store: Store, number: int, found: dict[str, Any], machine: str, say: Say) -> None:
    """Return when the lease has lapsed; refuse when it is renewed or taken.

    Raises:
        UserError: its holder is alive.
    """
    alive = UserError(
        f"run: another driver is measuring in {store.uri}; wait until it is done, or choose another output"
    )
    term = term_s()
    say(f"another driver may be at work in {store.uri}; watching its lease for {term:g} s …")
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(term / BEATS / 2)
        now = _read(store, number)
        if _free(now, machine):
            return
        if now != found or _newest(store) != number:
            raise alive


def acquire(store: Store, say: Say = lambda _: None) -> Lease:
    """Take the lease of a run folder, or refuse.

    Args:
        store: of the run folder.
        say: takes a line for the user.

    Raises:
        UserError: another driver holds it and is alive.
    """
    machine, number = _machine(), _newest(store)
    found = _read(store, number)
    if not _free(found, machine):
        _watch(store, number, found, machine, say)
    holder = {
        "holder": secrets.token_hex(8), "machine": machine, "process": os.getpid(), "started": _started(os.getpid()),
    }  # fmt: skip
    if not store.create(_key(number + 1), json.dumps({**holder, "beat": 0}).encode()):
        raise UserError(f"run: another driver has just begun in {store.uri}; wait until it is done")
    for entry in list(store.list("lease/")):
        if entry.key < _key(number + 1):
            store.delete(entry.key)
    return Lease(store, number + 1, holder)


def is_held(store: Store) -> bool:
    """Whether a driver is at work in a run folder; watches its lease for up to two beats where it may be."""
    machine, number = _machine(), _newest(store)
    found = _read(store, number)
    if _free(found, machine):
        return False
    if found.get("machine") == machine:
        return True
    end = time.monotonic() + 2 * term_s() / BEATS
    while time.monotonic() < end:
        time.sleep(term_s() / BEATS / 4)
        if _newest(store) != number or _read(store, number) != found:
            return True
    return False


@contextmanager
def held(store: Store, say: Say = lambda _: None) -> Iterator[Lease]:
    """The lease of a run folder for as long as the block runs.

    Raises:
        UserError: another driver holds it and is alive.
    """
    lease = acquire(store, say)
    lease.keep()
    try:
        yield lease
    finally:
        lease.release()
