"""How far a run is: `progress/NUMBER.json`, which the driver writes now and then, one file per attempt."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Self

from camrobust.contract.record import content_of, parse_record
from camrobust.contract.run_documents import ProgressRecord
from camrobust.io.objects import MissingObjectError, Store, TooLargeObjectError

FOLDER = "progress/"
MAX_BYTES = 2**20
"""Largest size of one file."""


@dataclass(frozen=True)
class Stage:
    """The work of one stage so far.

    Attributes:
        images: images finished; a fraction if an image passes in steps (parts, models).
        busy_s: seconds of work, summed over the workers.
        busy: workers that are busy with an image now.
    """

    images: float
    busy_s: float
    busy: int

    def __add__(self, other: Self) -> "Stage":
        return Stage(self.images + other.images, self.busy_s + other.busy_s, self.busy + other.busy)


@dataclass(frozen=True)
class Progress:
    """How far an attempt is.

    Attributes:
        done: images and parts committed in this attempt.
        total: images and parts that were pending when it began.
        failures: failure rows committed in this attempt.
        seconds: time since it began to measure.
        stages: stages by name, in the order in which images pass them.
    """

    done: int
    total: int
    failures: int
    seconds: float
    stages: Mapping[str, Stage]

    @property
    def per_s(self) -> float:
        """Images and parts committed per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left at this rate; None before the first commit."""
        return (self.total - self.done) / self.per_s if self.done else None


def write_progress(store: Store, attempt: int, now: Progress, updated: str) -> None:
    """Record the progress for `camrobust status`.

    Args:
        store: store of the run folder.
        attempt: number of the driver's lease.
        now: how far the attempt is.
        updated: the current time, as text.
    """
    record = ProgressRecord.model_validate({**asdict(now), "updated": updated})
    store.write(f"{FOLDER}{attempt:08}.json", content_of(record))


def read_progress(store: Store) -> list[tuple[Progress, str]]:
    """All attempts, oldest first, each with the time at which it was recorded; damaged files are left out."""
    attempts = (_read(store, entry.key) for entry in store.list(FOLDER))
    return [attempt for attempt in attempts if attempt is not None]


def _read(store: Store, key: str) -> tuple[Progress, str] | None:
    try:
        record = parse_record(store.read(key, MAX_BYTES), ProgressRecord, store.locate(key))
    except (MissingObjectError, TooLargeObjectError, ValueError):
        return None
    stages = {name: Stage(stage.images, stage.busy_s, stage.busy) for name, stage in record.stages.items()}
    return Progress(record.done, record.total, record.failures, record.seconds, stages), record.updated


def in_all(attempts: Iterable[Progress]) -> dict[str, Stage]:
    """The stages of several attempts, added up."""
    total: dict[str, Stage] = {}
    for attempt in attempts:
        for name, stage in attempt.stages.items():
            total[name] = total[name] + stage if name in total else stage
    return total
