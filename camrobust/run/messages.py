"""What workers and the ledger tell one another. It travels as plain lists, which cost Ray less than objects do."""

from collections.abc import Sequence
from typing import Any, NamedTuple

Key = tuple[str, str, str, str, int]
"""Stage, model (in Explain only), dataset, image_id, and part; several workers may have parts of one image."""


class Batch(NamedTuple):
    """What a worker tells when it begins.

    Attributes:
        ticket: a name for this batch, chosen by the worker.
        node: of the worker.
        stage: of the batch.
        model: of the batch; empty except in Explain.
        datasets: B names, or one for all.
        image_ids: the B images.
        parts: B numbers of parts, or one for all.
        ended: earlier batches of this process that it has finished, each as the fields of an `Ended`.
    """

    ticket: str
    node: str
    stage: str
    model: str
    datasets: Sequence[str]
    image_ids: Sequence[str]
    parts: Sequence[int]
    ended: Sequence[Sequence[Any]] = ()

    def keys(self) -> list[Key]:
        """B keys."""
        B = len(self.image_ids)
        datasets = list(self.datasets) * (B if len(self.datasets) == 1 else 1)
        parts = list(self.parts) * (B if len(self.parts) == 1 else 1)
        return [(self.stage, self.model, *names) for names in zip(datasets, self.image_ids, parts, strict=True)]


class Ended(NamedTuple):
    """What a worker tells when it has finished a batch, or those of its images that were no suspects.

    Attributes:
        ticket: of the batch.
        stage: of the batch; a ledger that has just restarted knows no tickets.
        images: how many were worked on.
        seconds: how long it took.
    """

    ticket: str
    stage: str
    images: int
    seconds: float


class Begun(NamedTuple):
    """What the ledger answers to a worker that begins a batch.

    Attributes:
        suspects: places of the images at which a worker may have died, the likely cause first. They are not begun:
            the worker begins each of them alone, in this order, after the others.
        deaths: of workers at the image, if it is begun alone; else 0.
        condemned: images condemned in the whole run.
    """

    suspects: Sequence[int] = ()
    deaths: int = 0
    condemned: int = 0
