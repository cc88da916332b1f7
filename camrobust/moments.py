"""Pairs added up within images, and images added up within groups; one pass, from the finest groups upwards.

A block of whole images becomes sums per (image, cell), a cell being one CAM at one strength. Coarser groups are sums of
neighbouring cells of the same image, so the rows are looked at once. Over the images of a group only moments are kept:
what the estimates, their intervals clustered by image, and the spread of the images are made from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrobust.coded import NO_SEVERITY, Rows

Array = NDArray[np.float64]
FORMS = {"": "rbo", "_adjusted": "rbo_adjusted"}
SIDES = ("consistency", "responsiveness")
MOMENTS = ("n", "a", "b", "aa", "ab", "bb", "m", "mm")
CROSSED = ("ac", "ad", "bc", "bd")
COUNTS = ("n_images", "n_pairs", "n_same", "n_flipped", "flips", "flat", "bad")
STEP = 0.001
"""Width of a bin of the histograms that medians are read from; bins lie around its multiples."""
RANGES = {"consistency": (0, 1), "responsiveness": (0, 1),
          "consistency_adjusted": (-1, 1), "responsiveness_adjusted": (0, 2)}  # fmt: skip
"""What the histograms cover; values beyond are counted in the outermost bin."""
BINS = {name: round((high - low) / STEP) + 1 for name, (low, high) in RANGES.items()}
Cell = tuple[str, str, int | None, str]
"""CAM, perturbation, severity, parameter."""


@dataclass(frozen=True)
class PairSums:
    """Sums over the pairs of I images in G groups.

    Attributes:
        sums: by form, (2, I, G): Σ r over same pairs, Σ (1 - r) over flipped ones.
        counts: by form, (2, I, G): pairs in which that is defined; one array for both forms where they agree.
        pairs: (I, G), all pairs.
        events: (3, G), pairs that flipped, that are flat, that are not finite.
    """

    sums: tuple[Array, Array]
    counts: tuple[Array, Array]
    pairs: Array
    events: Array

    def mapped(self, change: Callable[[Array], Array]) -> "PairSums":
        """The same change of the last axis of all parts."""
        raw, adjusted = self.counts
        counts = change(raw)
        both = (counts, counts if adjusted is raw else change(adjusted))
        return PairSums((change(self.sums[0]), change(self.sums[1])), both, change(self.pairs), change(self.events))

    def rolled(self, starts: Sequence[int]) -> "PairSums":
        """Groups of neighbouring groups, each from one start to the next."""
        if len(starts) == self.pairs.shape[1]:
            return self
        return self.mapped(lambda part: np.add.reduceat(part, starts, axis=-1))

    def of(self, groups: NDArray[np.bool_]) -> "PairSums":
        """Some of the groups."""
        return self if groups.all() else self.mapped(lambda part: part[..., groups])

    def __add__(self, other: "PairSums") -> "PairSums":
        return PairSums(
            (self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]),
            (self.counts[0] + other.counts[0], self.counts[1] + other.counts[1]),
            self.pairs + other.pairs,
            self.events + other.events,
        )


def pair_sums(rows: Rows, images: int) -> tuple[PairSums, list[Cell]]:
    """Sums per image and cell.

    Args:
        rows: all rows of these images, one model.
        images: I, how many images the block has.

    Returns:
        The sums, and the cells that their last axis stands for, sorted.
    """
    cell, cells = _cells(rows)
    L, size = len(cells), images * len(cells)
    index = rows.image * np.int64(L)
    index += cell
    flipped = ~rows.same
    sided = index + np.multiply(flipped, size, dtype=np.int64)
    status = rows.text["status"]
    ok = _is(status.codes, status.values, "ok")
    raw, adjusted = (rows.numbers[column] for column in FORMS.values())
    good = [ok & ~np.isnan(values) for values in (raw, adjusted)]
    shape = (2, images, L)
    n = _added(sided, None, good[0], shape)
    both = (n, n if np.array_equal(*good) else _added(sided, None, good[1], shape))
    sums = [_added(sided, values, kept, shape) for values, kept in zip((raw, adjusted), good, strict=True)]
    for total, count in zip(sums, both, strict=True):
        np.subtract(count[1], total[1], out=total[1])
    if good[0].all():
        pairs = n.sum(axis=0)
    else:
        pairs = np.bincount(index, minlength=size).reshape(images, L).astype(np.float64)
    happened = (flipped, *(_is(status.codes, status.values, name) for name in ("flat_map", "not_finite")))
    events = np.stack([_counted(cell, event, L) for event in happened])
    return PairSums((sums[0], sums[1]), both, pairs, events), cells


def _is(codes: NDArray[np.int32], values: Sequence[str], wanted: str) -> NDArray[np.bool_]:
    chosen = np.array([value == wanted for value in values], bool)
    if chosen.all() or not chosen.any():
        return np.full(len(codes), bool(chosen.size) and bool(chosen[0]))
    found: NDArray[np.bool_] = chosen[codes]
    return found


def _added(
    places: NDArray[np.int64], values: NDArray[np.floating[Any]] | None, kept: NDArray[np.bool_], shape: tuple[int, ...]
) -> Array:
    """Values, or ones, added up where they belong."""
    if not kept.all():
        places, values = places[kept], None if values is None else values[kept]
    return np.bincount(places, values, int(np.prod(shape))).reshape(shape).astype(np.float64, copy=False)


def _counted(cell: NDArray[np.int64], event: NDArray[np.bool_], cells: int) -> Array:
    return np.bincount(cell[event], minlength=cells).astype(np.float64) if event.any() else np.zeros(cells)


def _cells(rows: Rows) -> tuple[NDArray[np.int64], list[Cell]]:
    """The cell of every row, and the cells that occur, sorted, so that groups of them are neighbours."""
    cam, perturbation, parameter = (rows.text[name] for name in ("cam", "perturbation", "parameter"))
    low = int(rows.severity.min(initial=NO_SEVERITY))
    severities = int(rows.severity.max(initial=NO_SEVERITY)) - low + 1
    shape = (len(cam.values), len(perturbation.values), severities, len(parameter.values))
    key = cam.codes.astype(np.int64)
    for codes, size in zip((perturbation.codes, rows.severity - low, parameter.codes), shape[1:], strict=True):
        key = key * size + codes
    if np.prod(shape, dtype=np.float64) <= 2 * key.size + 1_000_000:
        seen = np.zeros(int(np.prod(shape)), bool)
        seen[key] = True
        present = np.flatnonzero(seen)
    else:
        present = np.unique(key)
    found = [
        (cam.values[c], perturbation.values[p], None if s + low == NO_SEVERITY else int(s + low), parameter.values[q])
        for c, p, s, q in zip(*np.unravel_index(present, shape), strict=True)
    ]
    order = sorted(range(len(found)), key=lambda place: _sortable(found[place]))
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    if present.size and present[-1] < 2 * key.size + 1_000_000:
        lookup = np.zeros(int(present[-1]) + 1, np.int64)
        lookup[present] = rank
        return lookup[key], [found[place] for place in order]
    return rank[np.searchsorted(present, key)], [found[place] for place in order]


def _sortable(cell: Cell) -> tuple[str, str, int, str]:
    return cell[0], cell[1], NO_SEVERITY if cell[2] is None else cell[2], cell[3]


def starts_of(keys: Sequence[tuple[Any, ...]]) -> tuple[list[int], list[tuple[Any, ...]]]:
    """Where each run of equal neighbours begins, and its key."""
    starts = [place for place, key in enumerate(keys) if not place or key != keys[place - 1]]
    return starts, [keys[place] for place in starts]


@dataclass
class Groups:
    """Moments of one summary table, growing with the groups that occur, not with the images.

    Attributes:
        average: macro, per image first, or micro, over all pairs.
        resamples: R, bootstrap resamples that are kept; 0 for none.
        keys: group to place.
        moments: (G, 2 forms, 2 sides, 8).
        crossed: (G, 2 forms, 4).
        counts: (G, 7).
        histogram: (G, bins of all measures).
        resampled: (G, 2 forms, 4, R), Σ w·a, Σ w·b, Σ w·c, Σ w·d.
    """

    average: str
    resamples: int = 0
    keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    moments: Array = field(default_factory=lambda: np.zeros((0, 2, 2, len(MOMENTS))))
    crossed: Array = field(default_factory=lambda: np.zeros((0, 2, len(CROSSED))))
    counts: Array = field(default_factory=lambda: np.zeros((0, len(COUNTS))))
    histogram: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, sum(BINS.values())), np.uint32))
    resampled: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2, 4, 0)))

    def add(self, keys: Sequence[tuple[Any, ...]], pairs: PairSums, weights: Array | None = None) -> None:
        """Add the images of a block.

        Args:
            keys: of the G groups.
            pairs: sums per image.
            weights: (R, I), how often each image is drawn in each resample.
        """
        places = self._places(keys)
        known, has = None, pairs.counts[0]
        for form, (sums, counts) in enumerate(zip(pairs.sums, pairs.counts, strict=True)):
            if known is None or counts is not pairs.counts[0]:
                known = counts > 0
                has = known.astype(np.float64)
            means = np.divide(sums, counts, out=np.zeros_like(sums), where=known)
            (a, c), (b, d) = (sums, counts) if self.average == "micro" else (means, has)
            for side, (x, y) in enumerate(((a, b), (c, d))):
                self.moments[places, form, side] += self._side(x, y, means[side], has[side])
                self._fill(places, means[side], known[side], form, side)
            self.crossed[places, form] += np.stack([_dot(a, c), _dot(a, d), _dot(b, c), _dot(b, d)], axis=-1)
            if weights is not None:
                self.resampled[places, form] += np.stack([weights @ part for part in (a, b, c, d)]).transpose(2, 0, 1)
        inside = np.stack([(pairs.pairs > 0).sum(0), pairs.pairs.sum(0), *pairs.counts[0].sum(1), *pairs.events])
        self.counts[places] += inside.T

    def _places(self, keys: Sequence[tuple[Any, ...]]) -> NDArray[np.int64]:
        places = np.array([self.keys.setdefault(key, len(self.keys)) for key in keys], np.int64)
        fresh = len(self.keys) - len(self.moments)
        if fresh:
            self.resampled = self.resampled if self.resampled.size else np.zeros((0, 2, 4, self.resamples))
            for name in ("moments", "crossed", "counts", "histogram", "resampled"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros((fresh, *old.shape[1:]), old.dtype)]))
        return places

    def _side(self, x: Array, y: Array, mean: Array, has: Array) -> Array:
        n, total, squares = has.sum(0), x.sum(0), _dot(x, x)
        if self.average == "macro":
            return np.stack([n, total, n, squares, total, n, total, squares], axis=-1)
        return np.stack([n, total, y.sum(0), squares, _dot(x, y), _dot(y, y), mean.sum(0), _dot(mean, mean)], axis=-1)

    def _fill(self, places: NDArray[np.int64], mean: Array, known: NDArray[np.bool_], form: int, side: int) -> None:
        offset, low, bins = _columns(form, side)
        G = mean.shape[1]
        place = mean / STEP
        place += 0.5 - low / STEP
        np.clip(place, 0, bins - 1, out=place)
        whole = place.astype(np.int64)
        whole += np.arange(G) * bins
        filled = np.bincount(whole[known], minlength=G * bins).reshape(G, bins)
        self.histogram[places, offset : offset + bins] += filled.astype(np.uint32)


def _columns(form: int, side: int) -> tuple[int, int, int]:
    """Where a measure's bins begin in the histogram, at which value, and how many there are."""
    names = [f"{name}{suffix}" for suffix in FORMS for name in SIDES]
    place = form * len(SIDES) + side
    return sum(BINS[name] for name in names[:place]), RANGES[names[place]][0], BINS[names[place]]


def _dot(x: Array, y: Array) -> Array:
    found: Array = np.einsum("ig,ig->g", x, y)
    return found


def medians(histogram: NDArray[np.uint32]) -> dict[str, Array]:
    """Median over images of every measure, off by half of `STEP` at most; NaN where there is no image.

    Args:
        histogram: (G, bins of all measures).
    """
    found = {}
    for form, suffix in enumerate(FORMS):
        for side, name in enumerate(SIDES):
            offset, low, bins = _columns(form, side)
            part = np.cumsum(histogram[:, offset : offset + bins], axis=1, dtype=np.int64)
            n = part[:, -1]
            ends = [(part < half[:, None]).sum(1) for half in ((n + 1) // 2, n // 2 + 1)]
            found[f"{name}{suffix}"] = np.where(n > 0, low + np.add(*ends) / 2 * STEP, np.nan)
    return found
