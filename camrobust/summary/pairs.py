"""Pairs added up within images: a block of whole images becomes sums per (image, cell) or per (image, group of cells).

A cell is one CAM at one strength of one perturbation. Cells are sorted, so that a coarser group consists of
neighbouring cells and its sums are sums of neighbouring columns. The rows are therefore read only once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrobust.summary.answers import Answers
from camrobust.summary.exact_sums import SMALL, added, sums_at
from camrobust.summary.rows import NO_SEVERITY, Rows

Array = NDArray[np.float64]
FORMS = {"": "rbo", "_adjusted": "rbo_adjusted"}
"""By the suffix of a measure's name, the column of the score rows from which it is computed."""
NOT_SCORED = ("flat_map", "not_finite", "ambiguous")
"""What a row's status can be beside `ok`."""
Cell = tuple[str, str, int | None, str]
"""CAM, perturbation, severity, strength."""


@dataclass(frozen=True)
class PairSums:
    """Sums over the pairs of I images in G groups.

    Attributes:
        sums: by form, (2, I, G): Σ r over pairs that kept their class, Σ (1 - r) over flipped pairs.
        counts: by form, (2, I, G): number of pairs in these sums; one array for both forms if they are equal.
        pairs: (I, G), number of all pairs.
        events: (5, G), number of pairs that flipped, then by the statuses of `NOT_SCORED`, then of those left out,
            which are in none of the other numbers but `answers`.
        answers: (3, I, G), labelled pairs, and those whose clean and perturbed prediction is right; None where no pair
            is labelled.
    """

    sums: tuple[Array, Array]
    counts: tuple[Array, Array]
    pairs: Array
    events: Array
    answers: Array | None = None

    def mapped(self, change: Callable[[Array], Array]) -> "PairSums":
        """Apply the same change of the last axis to all arrays."""
        raw, adjusted = self.counts
        counts = change(raw)
        both = (counts, counts if adjusted is raw else change(adjusted))
        answers = None if self.answers is None else change(self.answers)
        sums = (change(self.sums[0]), change(self.sums[1]))
        return PairSums(sums, both, change(self.pairs), change(self.events), answers)

    def rolled(self, starts: Sequence[int]) -> "PairSums":
        """Merge neighbouring groups, each from one start to the next."""
        if len(starts) == self.pairs.shape[1]:
            return self
        return self.mapped(lambda part: np.add.reduceat(part, starts, axis=-1))

    def of(self, groups: NDArray[np.bool_]) -> "PairSums":
        """Only the chosen groups."""
        return self if groups.all() else self.mapped(lambda part: part[..., groups])

    def where(self, groups: NDArray[np.bool_]) -> "PairSums":
        """All groups, but without the pairs of those that are not chosen."""
        return self if groups.all() else self.mapped(lambda part: part * groups)

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            (self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]),
            (self.counts[0] + other.counts[0], self.counts[1] + other.counts[1]),
            self.pairs + other.pairs,
            self.events + other.events,
            self.answers if other.answers is None else other.answers if self.answers is None
            else self.answers + other.answers,
        )  # fmt: skip


@dataclass(frozen=True)
class Placed:
    """N rows, each assigned to its cell.

    Attributes:
        image: (N,) positions of the images.
        cell: (N,) positions of the cells.
        cells: the cells, sorted, so that groups of cells are neighbours.
        flipped: (N,) bool, the class was not kept.
        values: by form, (N,) r.
        good: by form, (N,) bool, r is defined; one array for both forms if they are equal.
        events: (5, cells), as in `PairSums`.
        counted: (N,) bool, rows that are not left out; None where all count.
        answers: whether the predictions are the labels, of all rows; None without labels.
    """

    image: NDArray[np.integer[Any]]
    cell: NDArray[np.int64]
    cells: list[Cell]
    flipped: NDArray[np.bool_]
    values: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
    good: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    events: Array
    counted: NDArray[np.bool_] | None = None
    answers: Answers | None = None

    @classmethod
    def of(cls, rows: Rows, *, only_correct: bool = False) -> "Placed":
        """The rows of some images under one model.

        Args:
            rows: the rows.
            only_correct: leave out the images whose clean prediction is wrong, or that have no label.
        """
        cell, cells = _cells(rows)
        every = np.ones(len(cell), bool)
        counted = every if not only_correct else ~every if rows.answers is None else rows.answers.right[0]
        status = rows.text["status"]
        ok = _is(status.codes, status.values, "ok") & counted
        raw, adjusted = (rows.numbers[column] for column in FORMS.values())
        good, other = (ok & ~np.isnan(values) for values in (raw, adjusted))
        flipped = ~rows.same
        happened = (
            flipped,
            *(_is(status.codes, status.values, name) for name in NOT_SCORED),
        )
        events = np.stack([*(_counted(cell, event & counted, len(cells)) for event in happened),
                           _counted(cell, ~counted, len(cells))])  # fmt: skip
        both = (good, good if np.array_equal(good, other) else other)
        left_out = counted if only_correct else None
        return cls(rows.image, cell, cells, flipped, (raw, adjusted), both, events, left_out, rows.answers)

    def _of_counted(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places if self.counted is None else places[self.counted]

    def pairs_of_cells(self) -> NDArray[np.int64]:
        """(cells,), number of pairs that are not left out."""
        return np.bincount(self._of_counted(self.cell), minlength=len(self.cells))

    def single(self, images: int) -> bool:
        """Whether no image has two rows in one cell."""
        seen = np.zeros(images * len(self.cells), bool)
        seen[self.image * np.int64(len(self.cells)) + self.cell] = True
        return int(np.count_nonzero(seen)) == len(self.cell)

    def sums(self, images: int, starts: Sequence[int]) -> PairSums:
        """Sums per image and group of neighbouring cells, each from one start to the next."""
        G = len(starts)
        group = np.zeros(len(self.cells), np.int64)
        group[starts[1:]] = 1
        shape, size = (2, images, G), images * G
        index = self.image * np.int64(G) + np.cumsum(group)[self.cell]
        sided = index + np.multiply(self.flipped, size, dtype=np.int64)
        counts = _added(sided, None, self.good[0], shape)
        both = (counts, counts if self.good[1] is self.good[0] else _added(sided, None, self.good[1], shape))
        sums = [_added(sided, values, good, shape) for values, good in zip(self.values, self.good, strict=True)]
        for total, count in zip(sums, both, strict=True):
            np.subtract(count[1], total[1], out=total[1])
        if self.good[0].all():
            pairs = counts.sum(axis=0)
        else:
            pairs = np.bincount(self._of_counted(index), minlength=size).reshape(images, G).astype(np.float64)
        answers = None if self.answers is None else self.answers.counted(index, size).reshape(3, images, G)
        return PairSums((sums[0], sums[1]), both, pairs, np.add.reduceat(self.events, starts, axis=1), answers)


def _is(codes: NDArray[np.int32], values: Sequence[str], wanted: str) -> NDArray[np.bool_]:
    """Whether a coded text is the wanted one, row by row."""
    chosen = np.array([value == wanted for value in values], bool)
    if chosen.all() or not chosen.any():
        return np.full(len(codes), bool(chosen.size) and bool(chosen[0]))
    result: NDArray[np.bool_] = chosen[codes]
    return result


def _added(
    places: NDArray[np.int64], values: NDArray[np.floating[Any]] | None, kept: NDArray[np.bool_], shape: tuple[int, ...]
) -> Array:
    """Add up values (ones if None) by their place."""
    if not kept.all():
        places, values = places[kept], None if values is None else values[kept]
    size = int(np.prod(shape))
    if values is None:
        return np.bincount(places, minlength=size).reshape(shape).astype(np.float64)
    # The rows of an image may lie in several files, in any order.
    return added(sums_at(places, values.astype(np.float64), size, SMALL)).reshape(shape)


def _counted(cell: NDArray[np.int64], event: NDArray[np.bool_], cells: int) -> Array:
    return np.bincount(cell[event], minlength=cells).astype(np.float64) if event.any() else np.zeros(cells)


def _cells(rows: Rows) -> tuple[NDArray[np.int64], list[Cell]]:
    """The cell of every row, and all cells that occur, sorted."""
    cam, perturbation, strength = (rows.text[name] for name in ("cam", "perturbation", "strength"))
    low = int(rows.severity.min(initial=NO_SEVERITY))
    severities = int(rows.severity.max(initial=NO_SEVERITY)) - low + 1
    shape = (len(cam.values), len(perturbation.values), severities, len(strength.values))
    key = cam.codes.astype(np.int64)
    rest: tuple[NDArray[Any], ...] = (perturbation.codes, rows.severity - low, strength.codes)
    for codes, size in zip(rest, shape[1:], strict=True):
        key = key * size + codes
    if np.prod(shape, dtype=np.float64) <= 2 * key.size + 1_000_000:
        seen = np.zeros(int(np.prod(shape)), bool)
        seen[key] = True
        present = np.flatnonzero(seen)
    else:
        present = np.unique(key)
    cells = [
        (cam.values[c], perturbation.values[p], None if s + low == NO_SEVERITY else int(s + low), strength.values[q])
        for c, p, s, q in zip(*np.unravel_index(present, shape), strict=True)
    ]
    order = sorted(range(len(cells)), key=lambda place: _sortable(cells[place]))
    rank = np.empty(len(cells), np.int64)
    rank[order] = np.arange(len(cells))
    if present.size and present[-1] < 2 * key.size + 1_000_000:
        lookup = np.zeros(int(present[-1]) + 1, np.int64)
        lookup[present] = rank
        return lookup[key], [cells[place] for place in order]
    return rank[np.searchsorted(present, key)], [cells[place] for place in order]


def _sortable(cell: Cell) -> tuple[str, str, int, str]:
    return cell[0], cell[1], NO_SEVERITY if cell[2] is None else cell[2], cell[3]


def starts_of(keys: Sequence[tuple[Any, ...]]) -> tuple[list[int], list[tuple[Any, ...]]]:
    """First position and key of each run of equal neighbours."""
    starts = [place for place, key in enumerate(keys) if not place or key != keys[place - 1]]
    return starts, [keys[place] for place in starts]
