"""The state of a run, from its folder alone: running, stopped or complete."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from camrobust.contract.sharding import ShardRecord, shards_of
from camrobust.contract.units import duration
from camrobust.results.folder import RunFolder
from camrobust.results.lease import is_held
from camrobust.results.progress import Progress, Stage, in_all, read_progress
from camrobust.results.shards import shard_folder

READERS = 16
"""Shards that are looked at together, as a driver on another machine is watched for some seconds."""


@dataclass(frozen=True)
class Status:
    """The state of a run. A part is a group of variants of one image, with all models.

    Attributes:
        state: complete, running, or stopped (no driver is at work and results are missing).
        images: images planned.
        parts: parts planned.
        committed: parts committed.
        failures: failure rows committed.
        uncounted: files that no commit counts; a writer that died left them, or they are being written now.
        attempts: number of drivers that have measured in this folder.
        latest: progress of the last of them; None if none has begun.
        updated: when this progress was recorded; None if none has begun.
        stages: work of all attempts, added up by stage.
    """

    state: str
    images: int
    parts: int
    committed: int
    failures: int
    uncounted: int
    attempts: int
    latest: Progress | None
    updated: str | None
    stages: Mapping[str, Stage]

    @property
    def sentence(self) -> str:
        """The state in one line."""
        things = "images" if self.parts == self.images else f"parts of {self.images:,} images"
        share = f"{self.committed:,} of {self.parts:,} {things} ({self.committed / max(1, self.parts):.1%})"
        if self.state == "complete":
            return f"complete: {share}"
        if self.state == "stopped":
            return f"stopped: {share}; run the same command again to resume"
        left = None if self.latest is None else self.latest.left_s
        return f"running: {share}" + ("" if left is None else f", about {duration(left)} left")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        latest = None if self.latest is None else {**vars(self.latest), "stages": _plain(self.latest.stages)}
        return {**vars(self), "latest": latest, "stages": _plain(self.stages)}


def _plain(stages: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    return {name: vars(stage) for name, stage in stages.items()}


def status(folder: RunFolder) -> Status:
    """Look at a run folder without writing to it; takes a few seconds if its driver may be on another machine.

    Raises:
        UserError: there is no run in that folder.
    """
    planned = folder.run().planned
    parts = planned.images * planned.parts
    committed = folder.committed()
    attempts = read_progress(folder.store)
    latest, updated = attempts[-1] if attempts else (None, None)
    if folder.done() is not None and committed.parts.height == parts:
        state = "complete"
    else:
        state = "running" if is_held(folder.store) else "stopped"
    return Status(
        state=state,
        images=planned.images,
        parts=parts,
        committed=committed.parts.height,
        failures=int(committed.parts["failures"].sum()),
        uncounted=len(committed.uncounted),
        attempts=len(attempts),
        latest=latest,
        updated=updated,
        stages=in_all(attempt for attempt, _ in attempts),
    )


def status_of_shards(output: RunFolder, shards: int) -> dict[ShardRecord, Status | None]:
    """The state of every shard of a run; None for a shard that nobody has begun.

    Args:
        output: the folder that holds the shards.
        shards: how many there are.
    """
    named = shards_of(shards)
    folders = [shard_folder(output, shard) for shard in named]
    with ThreadPoolExecutor(READERS) as pool:
        states = pool.map(lambda folder: status(folder) if folder.holds("run.json") else None, folders)
        return dict(zip(named, states, strict=True))
