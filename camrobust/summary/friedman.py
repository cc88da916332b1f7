"""Tests of several treatments over the same blocks by their ranks: Friedman, Nemenyi, Conover. The image is the block.

scipy gives the distributions. scikit-posthocs has the same post-hoc tests, but depends on statsmodels, seaborn and
matplotlib, so only the tests of this file use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from camrobust.summary.intervals import t_interval
from camrobust.summary.ranktests import Effect, Omnibus


@dataclass(frozen=True)
class RankSums:
    """The sums over blocks that the tests need.

    Attributes:
        n: number of blocks.
        means: (k,) mean rank of every treatment; 1 = highest value.
        squares: Σ rank².
    """

    n: int
    means: NDArray[np.float64]
    squares: float

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]]) -> "RankSums":
        """Rank (n, k) complete blocks, the highest value first, ties averaged."""
        ranks = stats.rankdata(-values, axis=1)
        return cls(len(ranks), ranks.mean(axis=0), float((ranks**2).sum()))

    @property
    def k(self) -> int:
        """Number of treatments."""
        return len(self.means)


def friedman(ranks: RankSums) -> tuple[Omnibus, Omnibus]:
    """Friedman's χ², corrected for ties, and Iman and Davenport's F, both with Kendall's W.

    All are NaN if the treatments are tied in every block.

    References:
        Iman & Davenport 1980; Demšar 2006, JMLR 7.
    """
    n, k = ranks.n, ranks.k
    # Σ (rank - mean rank)² is n·k·(k² - 1)/12 without ties, and less with them: the usual correction.
    spread = ranks.squares - n * k * ((k + 1) / 2) ** 2
    between = float(((ranks.means - (k + 1) / 2) ** 2).sum())
    tied = spread < 1e-9 * ranks.squares
    chi2 = float("nan") if tied else n * n * (k - 1) * between / spread
    left = n * (k - 1) - chi2
    F = (n - 1) * chi2 / left if left > 1e-9 * n else float("nan") if tied else float("inf")
    W = chi2 / (n * (k - 1))
    p = float(special.fdtrc(k - 1, (k - 1) * (n - 1), F)) if n > 1 and np.isfinite(F) else float("nan") if tied else 0.0
    return Omnibus(chi2, k - 1, float(special.chdtrc(k - 1, chi2)), W), Omnibus(F, k - 1, p, W)


def critical_difference(k: int, n: int, level: float = 0.95) -> float:
    """Nemenyi's critical difference: mean ranks that lie further apart differ, with all pairs taken together.

    It uses the studentized range with infinite degrees of freedom, as in Demšar 2006.

    Args:
        k: number of treatments.
        n: number of blocks.
        level: confidence, (0, 1).
    """
    return _studentized(k, level) * float(np.sqrt(k * (k + 1) / (12 * n)))


@cache
def _studentized(k: int, level: float) -> float:
    return float(stats.studentized_range.ppf(level, k, np.inf))


def nemenyi(ranks: RankSums, first: int, second: int, half: float) -> Effect:
    """Difference of two mean ranks, corrected for all pairs; positive if the first treatment ranks better.

    Args:
        ranks: of n blocks and k treatments.
        first: number of a treatment.
        second: number of another.
        half: `critical_difference` of (k, n), the half width of the interval.
    """
    k = ranks.k
    difference = float(ranks.means[second] - ranks.means[first])
    q = abs(difference) / np.sqrt(k * (k + 1) / (12 * ranks.n))
    # Beyond 40 the probability is below 1e-170, and scipy's integral is slow there.
    p = float(stats.studentized_range.sf(q, k, np.inf)) if q < 40 else 0.0
    return Effect(difference, difference - half, difference + half, q / np.sqrt(2), min(1.0, max(0.0, p)))


def conover(ranks: RankSums, first: int, second: int, level: float = 0.95) -> Effect:
    """Conover's t after Friedman's test: difference of two mean ranks, not corrected.

    It is positive if the first treatment ranks better.

    References:
        Conover 1999, "Practical Nonparametric Statistics", §5.8.
    """
    n = ranks.n
    difference = float(ranks.means[second] - ranks.means[first])
    freedom = (n - 1) * (ranks.k - 1)
    if not freedom:
        return Effect(difference, np.nan, np.nan, np.nan, np.nan)
    left = ranks.squares - n * float((ranks.means**2).sum())
    if left < 1e-9 * ranks.squares:
        return Effect(difference, np.nan, np.nan, np.nan, 0.0 if difference else 1.0)
    error = np.sqrt(2 * left / (n * freedom))
    t = difference / error
    p = float(2 * special.stdtr(freedom, -abs(t)))
    return Effect(difference, *t_interval(difference, error, freedom, level), t, p)


def cliques(means: Sequence[float], half: float) -> list[tuple[int, int]]:
    """Groups of neighbours that do not differ significantly, for a critical-difference diagram.

    Args:
        means: mean ranks, ascending.
        half: the critical difference.

    Returns:
        First and last position of every group of two or more that is not part of a longer one.
    """
    groups: list[tuple[int, int]] = []
    for first, low in enumerate(means):
        last = max(place for place, high in enumerate(means) if high - low < half or place == first)
        if last > first and not (groups and groups[-1][1] >= last):
            groups.append((first, last))
    return groups
