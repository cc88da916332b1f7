"""How a run stands, from its folder alone: while it is measured, after it was stopped, or when it is complete."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camrobust.results.folder import RunFolder
from camrobust.results.lease import is_held
from camrobust.results.progress import Progress, Stage, in_all, read_progress


@dataclass(frozen=True)
class Status:
    """How a run stands; a unit is a group of variants of one image, with all models.

    Attributes:
        state: complete, running, stopped (no driver is at work, something is missing).
        units: planned.
        committed: units that are there.
        failures: failure rows that are there.
        uncounted: files that no commit counts, left by a writer that died or being written now.
        attempts: drivers that have measured in this folder.
        latest: how far the last of them is, None where none has begun.
        updated: when that was written down, None likewise.
        stages: what the workers did, all attempts added up.
    """

    state: str
    units: int
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
        share = f"{self.committed} of {self.units} images and parts ({self.committed / max(1, self.units):.1%})"
        if self.state == "complete":
            return f"complete: {share}"
        if self.state == "stopped":
            return f"stopped: {share}; run the same command again to resume"
        left = None if self.latest is None else self.latest.left_s
        return f"running: {share}" + ("" if left is None else f", about {left:.0f} s left")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        latest = None if self.latest is None else {**vars(self.latest), "stages": _plain(self.latest.stages)}
        return {**vars(self), "latest": latest, "stages": _plain(self.stages)}


def _plain(stages: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    return {name: vars(stage) for name, stage in stages.items()}


def status(folder: RunFolder) -> Status:
    """Look at a run folder; writes nothing, and takes a few seconds where its driver may be on another machine.

    Raises:
        UserError: there is no run in that folder.
    """
    planned = folder.run().planned
    units = planned.images * planned.parts
    committed = folder.committed()
    attempts = read_progress(folder.store)
    latest, updated = attempts[-1] if attempts else (None, None)
    if folder.done() is not None and committed.units.height == units:
        state = "complete"
    else:
        state = "running" if is_held(folder.store) else "stopped"
    return Status(
        state=state,
        units=units,
        committed=committed.units.height,
        failures=int(committed.units["failures"].sum()),
        uncounted=len(committed.uncounted),
        attempts=len(attempts),
        latest=latest,
        updated=updated,
        stages=in_all(attempt for attempt, _ in attempts),
    )
