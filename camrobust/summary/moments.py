"""Images added up within groups: only moments are kept, however many images there are.

The estimates, their intervals clustered by image, and the spread of the images are computed from these moments. The
sums are kept in parts (`summary.exact_sums`), so that they do not depend on the order of the images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrobust.summary.answers import MOMENTS as ANSWERS
from camrobust.summary.answers import moments_of
from camrobust.summary.exact_sums import LARGE, SMALL, column_sums, counted, split, sums_at
from camrobust.summary.pairs import FORMS, Array, PairSums, Placed

SIDES = ("consistency", "responsiveness")
MOMENTS = ("n", "a", "b", "aa", "ab", "bb", "m", "mm")
CROSSED = ("ac", "ad", "bc", "bd")
COUNTS = ("n_images", "n_pairs", "n_same", "n_flipped", "flips", "flat", "bad", "ambiguous", "left_out")
STEP = 0.001
"""Width of the bins of the histograms from which medians are read; the bins are centred on its multiples."""
RANGES = {"consistency": (0, 1), "responsiveness": (0, 1),
          "consistency_adjusted": (-1, 1), "responsiveness_adjusted": (0, 2)}  # fmt: skip
"""Range of the histograms; values beyond it are counted in the outermost bin."""
BINS = {name: round((high - low) / STEP) + 1 for name, (low, high) in RANGES.items()}


@dataclass
class Groups:
    """Moments of one summary table; they grow with the number of groups, not of images.

    Attributes:
        average: macro (per image first) or micro (over all pairs).
        resamples: R, number of bootstrap resamples; 0 for none.
        keys: group to its position.
        units: into multiples of which powers of two the sums are split.
        moments: (G, 2 forms, 2 sides, 8, parts).
        crossed: (G, 2 forms, 4, parts).
        counts: (G, 9).
        answers: (G, 9), see `summary.answers`.
        histogram: (G, bins of all measures).
        resampled: (G, 2 forms, 4, R, parts), Σ w·a, Σ w·b, Σ w·c, Σ w·d.
    """

    average: str
    resamples: int = 0
    keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    units: Sequence[float] = field(init=False)
    moments: Array = field(init=False)
    crossed: Array = field(init=False)
    counts: Array = field(default_factory=lambda: np.zeros((0, len(COUNTS))))
    answers: Array = field(default_factory=lambda: np.zeros((0, len(ANSWERS))))
    histogram: NDArray[np.uint32] = field(default_factory=lambda: np.zeros((0, sum(BINS.values())), np.uint32))
    resampled: Array = field(init=False)

    def __post_init__(self) -> None:
        self.units = LARGE if self.average == "micro" else SMALL
        parts = len(self.units)
        self.moments = np.zeros((0, 2, 2, len(MOMENTS), parts))
        self.crossed = np.zeros((0, 2, len(CROSSED), parts))
        self.resampled = np.zeros((0, 2, 4, self.resamples, parts))

    def add(self, keys: Sequence[tuple[Any, ...]], pairs: PairSums, weights: Array | None = None) -> None:
        """Add the images of a block.

        Args:
            keys: keys of the G groups.
            pairs: sums per image and group.
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
            self.crossed[places, form] += np.stack(
                [column_sums(x * y, self.units) for x in (a, b) for y in (c, d)], axis=1
            )
            if weights is not None:
                self.resampled[places, form] += np.stack([self._drawn(weights, x) for x in (a, b, c, d)], axis=1)
        inside = np.stack([(pairs.pairs > 0).sum(0), pairs.pairs.sum(0), *pairs.counts[0].sum(1), *pairs.events])
        self.counts[places] += inside.T
        if pairs.answers is not None:
            self.answers[places] += moments_of(pairs.answers)

    def add_single(self, keys: Sequence[tuple[Any, ...]], placed: Placed) -> None:
        """Add the images of a block with at most one pair per cell: equal to `add`, but faster, as zeros are skipped.

        Args:
            keys: keys of the cells.
            placed: the rows.
        """
        places, L = self._places(keys), len(placed.cells)
        sided = placed.cell + np.multiply(placed.flipped, L, dtype=np.int64)
        known: list[Array] = []
        for form in range(2):
            good, values = placed.good[form], placed.values[form].astype(np.float64)
            where, flipped = (sided, placed.flipped) if good.all() else (sided[good], placed.flipped[good])
            kept = values if good.all() else values[good]
            r = np.where(flipped, 1 - kept, kept)
            if form == 0 or placed.good[1] is not placed.good[0]:
                known.append(np.bincount(where, minlength=2 * L).reshape(2, L).astype(np.float64))
            n = counted(known[-1], self.units)
            total, squares = (sums_at(where, x, 2 * L, self.units).reshape(2, L, -1) for x in (r, r * r))
            for side in range(2):
                parts = (n, total, n, squares, total, n, total, squares)
                self.moments[places, form, side] += np.stack([part[side] for part in parts], axis=1)
            self._fill_single(places, where, r, flipped, form)
        pairs = placed.pairs_of_cells()
        self.counts[places] += np.stack([pairs, pairs, *known[0], *placed.events]).T
        if placed.answers is not None:
            labelled, *right = placed.answers.counted(placed.cell, L)
            each = (labelled, labelled, labelled, *(count for count in right for _ in range(3)))
            self.answers[places] += np.stack(each, axis=1)

    def _fill_single(
        self, places: NDArray[np.int64], where: NDArray[np.int64], r: Array, flipped: NDArray[np.bool_], form: int
    ) -> None:
        (offset, low, bins), (after, high, _) = (_columns(form, side) for side in range(2))
        L = len(places)
        place = r / STEP
        place += 0.5 - low / STEP
        if low != high:
            place -= flipped * ((high - low) / STEP)
        np.clip(place, 0, bins - 1, out=place)
        whole = place.astype(np.int64)
        whole += where * bins
        filled = np.bincount(whole, minlength=2 * L * bins).reshape(2, L, bins).astype(np.uint32)
        self.histogram[places, offset : offset + bins] += filled[0]
        self.histogram[places, after : after + bins] += filled[1]

    def _places(self, keys: Sequence[tuple[Any, ...]]) -> NDArray[np.int64]:
        places = np.array([self.keys.setdefault(key, len(self.keys)) for key in keys], np.int64)
        if len(self.keys) > len(self.moments):
            self._resize(max(len(self.keys), 2 * len(self.moments)))
        return places

    def trim(self) -> None:
        """Release the memory that was reserved for more groups."""
        self._resize(len(self.keys))

    def _resize(self, groups: int) -> None:
        """Reserve space for so many groups; unused zeros take no memory until they are written to."""
        for name in ("moments", "crossed", "counts", "answers", "histogram", "resampled"):
            old = getattr(self, name)
            kept = min(groups, len(old))
            new = np.zeros((groups, *old.shape[1:]), old.dtype)
            new[:kept] = old[:kept]
            setattr(self, name, new)

    def _side(self, x: Array, y: Array, mean: Array, has: Array) -> Array:
        n, total, squares = counted(has.sum(0), self.units), column_sums(x, self.units), column_sums(x * x, self.units)
        if self.average == "macro":
            return np.stack([n, total, n, squares, total, n, total, squares], axis=1)
        more = (column_sums(values, self.units) for values in (y, x * y, y * y, mean, mean * mean))
        b, ab, bb, m, mm = more
        return np.stack([n, total, b, squares, ab, bb, m, mm], axis=1)

    def _drawn(self, weights: Array, values: Array) -> Array:
        """(G, R, parts), the sums of every resample."""
        drawn = np.zeros((values.shape[1], len(weights), len(self.units)))
        for place, part in enumerate(split(values, self.units)):
            if part.any():  # whole numbers have one part
                drawn[..., place] = (weights @ part).T
        return drawn

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
    """The bins of a measure in the histogram: position of the first, its value, and the number of bins."""
    names = [f"{name}{suffix}" for suffix in FORMS for name in SIDES]
    place = form * len(SIDES) + side
    return sum(BINS[name] for name in names[:place]), RANGES[names[place]][0], BINS[names[place]]


def medians(histogram: NDArray[np.uint32]) -> dict[str, Array]:
    """Median over images of every measure, with an error of at most half of `STEP`; NaN for a group without images.

    Args:
        histogram: (G, bins of all measures).
    """
    by_measure = {}
    for form, suffix in enumerate(FORMS):
        for side, name in enumerate(SIDES):
            offset, low, bins = _columns(form, side)
            part = np.cumsum(histogram[:, offset : offset + bins], axis=1, dtype=np.int64)
            n = part[:, -1]
            ends = [(part < half[:, None]).sum(1) for half in ((n + 1) // 2, n // 2 + 1)]
            by_measure[f"{name}{suffix}"] = np.where(n > 0, low + np.add(*ends) / 2 * STEP, np.nan)
    return by_measure
