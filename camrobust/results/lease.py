"""One driver per run folder: a lease that its holder renews, and that expires when the holder dies.

The newest `lease/NUMBER.json` is the lease. A driver takes the lease by creating the next number, only if it does not
exist yet; of two drivers one succeeds. A lease file never changes and is never deleted. It lists the commits that count
from then on (see `results.commits`), so a driver that was only asleep cannot change the results. The holder writes
`beats/NUMBER.json` every few seconds to show that it is alive. Another driver that finds a lease watches it: a new beat
means that the holder is alive; no beat for `TERM_S` seconds on the watcher's own clock means that it died. The clocks
of two machines are never compared.
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
from camrobust.io.retries import hasty, patience_s
from camrobust.io.store_errors import PassingError
from camrobust.results.documents import read_record, write_record

TERM_S = 45.0
"""A lease without a new beat for so long has expired; CAMROBUST_LEASE_TERM_S changes this time."""
BEATS = 6
"""Beats per term, so that a few of them may fail."""

TAKEN = "another driver has taken it over"

Say = Callable[[str], None]
Accept = Callable[[int], Sequence[str]]
"""From the number of a lease to the keys of the commits that it lists; called when the previous lease is free."""


def term_s() -> float:
    """Seconds without a beat after which the holder counts as dead."""
    try:
        return max(1.0, float(os.environ.get("CAMROBUST_LEASE_TERM_S", "")))
    except ValueError:
        return TERM_S


def _machine() -> str:
    """A hash of this machine's last start and of this container, so that no name is recorded."""
    try:
        parts = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return secrets.token_hex(8)
    return sha256(parts.encode()).hexdigest()[:16]


def started(pid: int) -> str:
    """Start time of a process in kernel ticks; empty if it has ended. It tells apart processes with the same number."""
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
        number: number of the lease; 0 if there is none.
        generation: commits with this number count even if they are not listed. It is 0 also for a lease of version 0.1,
            whose commits have no number.
        accepts: keys of the commits that the lease lists.
        record: contents of the lease file.
    """

    number: int
    generation: int
    accepts: tuple[str, ...]
    record: LeaseRecord

    @property
    def old(self) -> bool:
        """Whether version 0.1 took it. Its leases list no commits: then every whole commit counts, of any version."""
        return self.number > 0 and self.record.accepts is None


def newest_lease(store: Store) -> NewestLease:
    """Read the newest lease.

    Raises:
        UserError: it is not as camrobust writes it.
    """
    number = _newest(store)
    record = (read_record(store, lease_key(number), LeaseRecord) if number else None) or LeaseRecord()
    return NewestLease(number, 0 if record.accepts is None else number, record.accepts or (), record)


@dataclass
class Lease:
    """A lease that this process holds; a thread renews it until `release`.

    Attributes:
        store: store of the run folder.
        number: number of the lease.
        holder: the process that holds it.
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
        """Start the thread that writes beats."""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        term = term_s()
        good = time.monotonic()
        while not self._stop.wait(term / BEATS):
            limit = term
            try:
                with self._taking, hasty():
                    if _newest(self.store) != self.number:
                        self._lost = TAKEN
                        return
                    self._beats += 1
                    self._show(BeatRecord(beat=self._beats))
                good = time.monotonic()
            except PassingError:
                # Where the store fails for everybody, nobody can take the lease. Whoever took it elsewhere in the
                # meantime is seen as soon as the store answers.
                limit = max(term, patience_s())
            except UserError:
                pass
            if time.monotonic() - good > limit:
                self._lost = f"its lease could not be renewed for {limit:g} s"
                return

    def _show(self, beat: BeatRecord) -> None:
        self.store.write(_beat_key(self.number), content_of(beat))

    def check(self) -> None:
        """Raise if the lease is lost.

        Raises:
            RunFailed: another driver works in this folder, or could.
        """
        if self._lost:
            raise RunFailed(f"run: {self.store.uri}: {self._lost}; run again to resume what is left")

    def look(self) -> None:
        """Look now whether this lease is still the newest; raises the same as `check`."""
        if not self._lost and _newest(self.store) != self.number:
            self._lost = TAKEN
        self.check()

    def renew(self, accept: Accept) -> None:
        """Take the next lease, so that commits still being written under this lease do not count.

        Args:
            accept: gives the commits that the next lease lists.

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
        """Give the lease back, so that another driver can take it at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            with suppress(UserError), hasty():
                self._show(BeatRecord(beat=self._beats, released=True))


def _newest(store: Store) -> int:
    return max((lease_number(entry.key) for entry in store.list("lease/")), default=0)


def _take(store: Store, number: int, holder: LeaseRecord, accepts: tuple[str, ...]) -> bool:
    return write_record(store, lease_key(number), holder.model_copy(update={"accepts": accepts}))


def _pulse(store: Store, number: int) -> tuple[LeaseRecord, BeatRecord]:
    """The files that change while the holder is alive; version 0.1 writes its beats into the lease file."""
    lease = read_record(store, lease_key(number), LeaseRecord) if number else None
    return lease or LeaseRecord(), read_record(store, _beat_key(number), BeatRecord) or BeatRecord()


def _is_free(pulse: tuple[LeaseRecord, BeatRecord], machine: str) -> bool:
    """Released, held by nobody, or held by a process of this machine that has ended."""
    lease, beat = pulse
    if lease.released or beat.released or not lease.holder:
        return True
    return lease.machine == machine and started(lease.process) != lease.started


def _watch(store: Store, number: int, machine: str, say: Say) -> None:
    """Wait until the lease has expired.

    Raises:
        UserError: the lease was renewed, or another driver took it.
    """
    alive = UserError(
        f"run: another driver is measuring in {store.uri}; wait until it is done, or choose another output"
    )
    before, term = _pulse(store, number), term_s()
    say(f"another driver may be at work in {store.uri}; watching its lease for {term:g} s …")
    end = time.monotonic() + term
    while time.monotonic() < end:
        time.sleep(term / BEATS / 2)
        asked = time.monotonic()
        now = _pulse(store, number)
        # While the store does not answer, the holder cannot write a beat either.
        end += time.monotonic() - asked
        if _is_free(now, machine):
            return
        if now != before or _newest(store) != number:
            raise alive


def acquire(store: Store, accept: Accept, say: Say = lambda _: None) -> Lease:
    """Take the lease of a run folder.

    Args:
        store: store of the run folder.
        accept: gives the commits that the new lease lists.
        say: called with a line for the user.

    Raises:
        UserError: another driver that is alive holds the lease.
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
    """Whether a driver is at work in a run folder; if that is unclear, it watches the lease for up to two beats."""
    machine, number = _machine(), _newest(store)
    before = _pulse(store, number)
    if _is_free(before, machine):
        return False
    if before[0].machine == machine:
        return True
    end = time.monotonic() + 2 * term_s() / BEATS
    while time.monotonic() < end:
        time.sleep(term_s() / BEATS / 4)
        if _newest(store) != number or _pulse(store, number) != before:
            return True
    return False


@contextmanager
def held(store: Store, accept: Accept, say: Say = lambda _: None) -> Iterator[Lease]:
    """Hold the lease of a run folder while the block runs; the arguments are those of `acquire`.

    Raises:
        UserError: another driver that is alive holds the lease.
    """
    lease = acquire(store, accept, say)
    lease.keep()
    try:
        yield lease
    except Exception:
        # If a newer holder deleted files, the error here is only a consequence: report the lost lease instead.
        with suppress(PassingError), hasty():
            lease.look()
        raise
    finally:
        lease.release()
