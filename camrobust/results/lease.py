"""One driver per run folder: a lease that its holder renews, and that lapses when the holder dies.

`lease/NUMBER.json` with the highest number is the lease. Whoever takes it creates the next number by a conditional
put, so of two takers one wins, on any store that can create an object only if it is not there. A lease file never
changes and is never deleted; it lists the commits that count from then on (see `io.commits`), which is what keeps a
driver that was only asleep from changing anything. The holder shows that it is alive by `beats/NUMBER.json`, every few
seconds. Who finds a lease watches it: a beat means that the holder lives; none for `TERM_S` seconds of the watcher's
own clock means that it died. No two machines' clocks are compared.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.record import content_of
from camrobust.contract.run_documents import BeatRecord, LeaseRecord
from camrobust.contract.run_files import lease_key, lease_number
from camrobust.io.objects import Store
from camrobust.results.documents import read_record, write_record

TERM_S = 45.0
"""A lease that is not renewed for so long has lapsed; CAMROBUST_LEASE_TERM_S changes it."""
BEATS = 6
"""Renewals in a term, so that a few may fail."""

TAKEN = "another driver has taken it over"

Say = Callable[[str], None]
Accept = Callable[[int], Sequence[str]]
"""Number of a lease to the keys of the commits that it accepts; called when the lease before it is free."""


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


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks, so that a number used again is told apart; empty where it ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _beat_key(number: int) -> str:
    return f"beats/{number:08}.json"


@dataclass(frozen=True)
class NewestLease:
    """The newest lease of a run folder.

    Attributes:
        number: 0 where there is none.
        generation: commits with this number count without being listed; 0 also under a lease of version 0.1, whose
            commits carry no number.
        accepts: keys of the commits that it lists.
        record: the file.
    """

    number: int
    generation: int
    accepts: tuple[str, ...]
    record: LeaseRecord

    @property
    def old(self) -> bool:
        """Whether version 0.1 took it, which lists nothing: every whole commit counts, whichever version wrote it."""
        return self.number > 0 and self.record.accepts is None


def newest_lease(store: Store) -> NewestLease:
    """Read the newest lease.

    Raises:
        UserError: it is not what camrobust writes there.
    """
    number = _newest(store)
    record = (read_record(store, lease_key(number), LeaseRecord) if number else None) or LeaseRecord()
    return NewestLease(number, 0 if record.accepts is None else number, record.accepts or (), record)


@dataclass
class Lease:
    """A held lease; kept alive by a thread until `release`.

    Attributes:
        store: of the run folder.
        number: of this lease.
        holder: who holds it.
    """

    store: Store
    number: int
    holder: LeaseRecord
    _lost: str = ""
    _beats: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _taking: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def keep(self) -> None:
        """Start to show that the holder is alive."""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        term = term_s()
        good = time.monotonic()
        while not self._stop.wait(term / BEATS):
            with suppress(UserError), self._taking:
                if _newest(self.store) != self.number:
                    self._lost = TAKEN
                    return
                self._beats += 1
                self._show(BeatRecord(beat=self._beats))
                good = time.monotonic()
            if time.monotonic() - good > term:
                self._lost = f"its lease could not be renewed for {term:g} s"
                return

    def _show(self, beat: BeatRecord) -> None:
        self.store.write(_beat_key(self.number), content_of(beat))

    def check(self) -> None:
        """Raise where the lease is lost.

        Raises:
            RunFailed: another driver works in this folder, or may do so.
        """
        if self._lost:
            raise RunFailed(f"run: {self.store.uri}: {self._lost}; run again to resume what is left")

    def look(self) -> None:
        """Look now whether the lease is still the newest, and raise as `check` does where it is not."""
        if not self._lost and _newest(self.store) != self.number:
            self._lost = TAKEN
        self.check()

    def renew(self, accept: Accept) -> None:
        """Take the next lease, so that nothing counts any more that is still on its way under this one.

        Args:
            accept: its commits, to be listed by the next lease.

        Raises:
            RunFailed: another driver has taken it.
        """
        self.check()
        accepts = tuple(accept(self.number + 1))
        with self._taking:
            if not _take(self.store, self.number + 1, self.holder, accepts):
                self._lost = TAKEN
            else:
                self.number += 1
        self.check()

    def release(self) -> None:
        """Let others take it at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            with suppress(UserError):
                self._show(BeatRecord(beat=self._beats, released=True))


def _newest(store: Store) -> int:
    return max((lease_number(entry.key) for entry in store.list("lease/")), default=0)


def _take(store: Store, number: int, holder: LeaseRecord, accepts: tuple[str, ...]) -> bool:
    return write_record(store, lease_key(number), holder.model_copy(update={"accepts": accepts}))


def _pulse(store: Store, number: int) -> tuple[LeaseRecord, BeatRecord]:
    """What changes while a holder is alive; version 0.1 beats in the lease file itself."""
    lease = read_record(store, lease_key(number), LeaseRecord) if number else None
    return lease or LeaseRecord(), read_record(store, _beat_key(number), BeatRecord) or BeatRecord()


def _is_free(pulse: tuple[LeaseRecord, BeatRecord], machine: str) -> bool:
    """Released, held by nobody, or by a process of this machine that is no more."""
    lease, beat = pulse
    if lease.released or beat.released or not lease.holder:
        return True
    return lease.machine == machine and started(lease.process) != lease.started


def _watch(store: Store, number: int, machine: str, say: Say) -> None:
    """Return when the lease has lapsed; refuse when it is renewed or taken.

    Raises:
        UserError: its holder is alive.
    """
    alive = UserError(
        f"run: another driver is measuring in {store.uri}; wait until it is done, or choose another output"
    )
    found, term = _pulse(store, number), term_s()
    say(f"another driver may be at work in {store.uri}; watching its lease for {term:g} s …")
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(term / BEATS / 2)
        now = _pulse(store, number)
        if _is_free(now, machine):
            return
        if now != found or _newest(store) != number:
            raise alive


def acquire(store: Store, accept: Accept, say: Say = lambda _: None) -> Lease:
    """Take the lease of a run folder, or refuse.

    Args:
        store: of the run folder.
        accept: gives the commits that the new lease lists.
        say: takes a line for the user.

    Raises:
        UserError: another driver holds it and is alive.
    """
    machine, number = _machine(), _newest(store)
    if not _is_free(_pulse(store, number), machine):
        _watch(store, number, machine, say)
    holder = LeaseRecord(
        holder=secrets.token_hex(8), machine=machine, process=os.getpid(), started=started(os.getpid())
    )
    if not _take(store, number + 1, holder, tuple(accept(number + 1))):
        raise UserError(f"run: another driver has just begun in {store.uri}; wait until it is done")
    if number == 0 and store.create(lease_key(1), b"{}"):
        raise RunFailed(
            f"run: the store of {store.uri} does not know 'create only if nothing is there' (If-None-Match), which "
            "keeps two drivers apart; choose an output on another store"
        )
    return Lease(store, number + 1, holder)


def is_held(store: Store) -> bool:
    """Whether a driver is at work in a run folder; watches its lease for up to two beats where it may be."""
    machine, number = _machine(), _newest(store)
    found = _pulse(store, number)
    if _is_free(found, machine):
        return False
    if found[0].machine == machine:
        return True
    end = time.monotonic() + 2 * term_s() / BEATS
    while time.monotonic() < end:
        time.sleep(term_s() / BEATS / 4)
        if _newest(store) != number or _pulse(store, number) != found:
            return True
    return False


@contextmanager
def held(store: Store, accept: Accept, say: Say = lambda _: None) -> Iterator[Lease]:
    """The lease of a run folder for as long as the block runs; arguments as of `acquire`.

    Raises:
        UserError: another driver holds it and is alive.
    """
    lease = acquire(store, accept, say)
    lease.keep()
    try:
        yield lease
    except Exception:
        # Files that a newer holder deleted are missing here: then that is the reason to tell.
        lease.look()
        raise
    finally:
        lease.release()
