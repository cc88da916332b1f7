"""Rank tests and their effect sizes, with the image as the block.

scipy gives the distributions and, for few images, the exact tests; scikit-posthocs has the same post-hoc tests but
brings statsmodels, seaborn and matplotlib with it, so it is an oracle of the tests of this file and no dependency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
EXACT = 50
"""Most images for which Wilcoxon's exact distribution is asked for."""


@dataclass(frozen=True)
class Omnibus:
    """A test of several groups at once.

    Attributes:
        statistic: its value.
        df: degrees of freedom, of the numerator for F.
        p: probability of a value at least as extreme where nothing differs.
        effect: Kendall's W for blocks, ε² for independent groups; 0 = no difference, 1 = all there can be.
    """

    statistic: float
    df: float
    p: float
    effect: float


@dataclass(frozen=True)
class Effect:
    """An effect size with its interval, and a test; bounds are NaN where they cannot be estimated."""

    effect: float
    lower: float
    upper: float
    statistic: float
    p: float


def block_ranks(values: NDArray[np.floating[Any]]) -> Array:
    """Ranks within every block, 1 = highest, ties averaged.

    Args:
        values: (n, k), complete blocks.
    """
    greater, equal = np.zeros(values.shape), np.zeros(values.shape)
    for column in values.T:
        greater += column[:, None] > values
        equal += column[:, None] == values
    return greater + (equal + 1) / 2


@dataclass(frozen=True)
class RankSums:
    """What the tests over blocks need of their ranks.

    Attributes:
        n: blocks.
        means: (k,) mean ranks.
        squares: Σ rank².
    """

    n: int
    means: Array
    squares: float

    @classmethod
    def of(cls, ranks: Array) -> "RankSums":
        """Of (n, k) ranks, from `block_ranks`."""
        return cls(len(ranks), ranks.mean(axis=0), float((ranks**2).sum()))

    @property
    def k(self) -> int:
        """Treatments."""
        return len(self.means)


def friedman(ranks: RankSums) -> tuple[Omnibus, Omnibus]:
    """Friedman's χ², corrected for ties, and Iman and Davenport's F, both with Kendall's W.

    NaN where every block is one tie.

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
    """Nemenyi's: mean ranks of k treatments over n blocks that lie further apart differ, all pairs taken together.

    The studentized range with infinite degrees of freedom, as in Demšar 2006.
    """
    return _studentized(k, level) * float(np.sqrt(k * (k + 1) / (12 * n)))


@cache
def _studentized(k: int, level: float) -> float:
    return float(stats.studentized_range.ppf(level, k, np.inf))


def nemenyi(ranks: RankSums, first: int, second: int, half: float) -> Effect:
    """Difference of two mean ranks, corrected for all pairs; positive: the first ranks better.

    Args:
        ranks: of n blocks and k treatments.
        first: place of one.
        second: place of the other.
        half: `critical_difference` of (k, n), the half width of the interval.
    """
    k = ranks.k
    difference = float(ranks.means[second] - ranks.means[first])
    q = abs(difference) / np.sqrt(k * (k + 1) / (12 * ranks.n))
    # Beyond 40 the probability is below 1e-170, and the integral of scipy takes its time.
    p = float(stats.studentized_range.sf(q, k, np.inf)) if q < 40 else 0.0
    return Effect(difference, difference - half, difference + half, q / np.sqrt(2), min(1.0, max(0.0, p)))


def conover(ranks: RankSums, first: int, second: int, level: float = 0.95) -> Effect:
    """Conover's t after Friedman: difference of two mean ranks, not corrected; positive: the first ranks better.

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
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    t = difference / error
    return Effect(difference, difference - half, difference + half, t, float(2 * special.stdtr(freedom, -abs(t))))


def wilcoxon(differences: NDArray[np.floating[Any]], level: float = 0.95) -> Effect:
    """Wilcoxon's signed-rank test, zeros by Pratt, with the matched-pairs rank-biserial correlation.

    r = (R⁺ - R⁻)/(R⁺ + R⁻) is the mean sign of d_i + d_j over pairs of images, so its interval comes from the variance
    of a U-statistic. p is exact up to `EXACT` images, else from the normal distribution corrected for ties.

    Args:
        differences: (n,) of the images.
        level: confidence of the interval, (0, 1).

    Returns:
        r, +1 where all images favour the first; NaN bounds where they all favour the same one.

    References:
        Pratt 1959; Kerby 2014 (r); Hoeffding 1948 (variance).
    """
    # Sorted, since what follows looks sizes up: neighbours in memory are found many times faster.
    d = np.sort(differences.astype(np.float64))
    n, zeros = len(d), int((d == 0).sum())
    if zeros == n:
        return Effect(0.0, np.nan, np.nan, 0.0, 1.0)
    size = np.sort(np.abs(d))
    below, upto = np.searchsorted(size, np.abs(d), "left"), np.searchsorted(size, np.abs(d), "right")
    ranks = (below + upto + 1) / 2
    signed = float((np.sign(d) * ranks).sum())
    whole = n * (n + 1) / 2 - zeros * (zeros + 1) / 2
    r = signed / whole
    # Mean sign of d_i + d_j over j, and how much each image pulls r.
    signs = 1 - (np.searchsorted(d, -d, "left") + np.searchsorted(d, -d, "right")) / n
    q = zeros / n
    pull = 2 * (signs - signs.mean()) / (1 - q * q) + 2 * r * q * ((d == 0) - q) / (1 - q * q)
    error = float(np.sqrt(pull.var() / max(1, n - 1)))
    half = float(special.ndtri((1 + level) / 2)) * error if error > 1e-12 else np.nan
    p = _wilcoxon_p(d, signed, zeros, upto - below)
    return Effect(r, *_within(r - half, r + half), (whole + signed) / 2, p)


def _wilcoxon_p(d: Array, signed: float, zeros: int, ties: NDArray[np.int64]) -> float:
    n = len(d)
    if n <= EXACT and not zeros and (ties == 1).all():
        return float(stats.wilcoxon(d, method="exact").pvalue)
    # Σ over groups of t equal sizes of (t³ - t) is Σ over members of (t² - 1); zeros are no group.
    correction = float((ties[d != 0].astype(np.float64) ** 2 - 1).sum())
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1) - correction / 2) / 24
    return float(2 * special.ndtr(-abs(signed) / 2 / np.sqrt(variance)))


def kruskal(groups: list[NDArray[np.floating[Any]]]) -> Omnibus:
    """Kruskal and Wallis' H of independent groups, with ε² = H/(n - 1); NaN where all values are equal."""
    whole = np.concatenate(groups)
    if whole.min() == whole.max():
        return Omnibus(np.nan, len(groups) - 1, np.nan, np.nan)
    H, p = stats.kruskal(*groups)
    return Omnibus(float(H), len(groups) - 1, float(p), float(H) / (len(whole) - 1))


def cliffs_delta(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], level: float = 0.95) -> Effect:
    """P(first > second) - P(first < second) of independent images, with Mann and Whitney's test.

    Returns:
        δ, +1 where every image of the first exceeds every one of the second; NaN bounds there and below two images
        in a group.

    References:
        Cliff 1993, Psychological Bulletin 114; Feng & Cliff 2004 (the asymmetric interval).
    """
    x, y = np.sort(first.astype(np.float64)), np.sort(second.astype(np.float64))
    rows, columns = _dominance(x, y), -_dominance(y, x)
    delta = float(rows.mean())
    U, p = stats.mannwhitneyu(x, y, alternative="two-sided")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return Effect(delta, np.nan, np.nan, float(U), float(p))
    variance = max(float(rows.var(ddof=1)) / n + float(columns.var(ddof=1)) / m, (1 - delta**2) / (n * m - 1))
    z2 = float(special.ndtri((1 + level) / 2)) ** 2 * variance
    half = np.sqrt(z2 * ((1 - delta**2) ** 2 + z2))
    middle, width = delta - delta**3, 1 - delta**2 + z2
    if width < 1e-12:
        return Effect(delta, np.nan, np.nan, float(U), float(p))
    return Effect(delta, *_within((middle - half) / width, (middle + half) / width), float(U), float(p))


def _within(lower: float, upper: float) -> tuple[float, float]:
    low, high = np.clip([lower, upper], -1, 1)
    return float(low), float(high)


def _dominance(x: Array, y: Array) -> Array:
    """For every x: P(x > y) - P(x < y) over all y; both sorted."""
    below, upto = np.searchsorted(y, x, "left"), np.searchsorted(y, x, "right")
    found: Array = (below + upto) / len(y) - 1
    return found


def holm(p: Array) -> Array:
    """Holm's correction of a family of p-values; NaN stay out of the family.

    References:
        Holm 1979, Scandinavian Journal of Statistics 6.
    """
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return corrected


def cliques(means: Sequence[float], half: float) -> list[tuple[int, int]]:
    """Runs of neighbours that no test tells apart, for a critical-difference diagram.

    Args:
        means: mean ranks, ascending.
        half: the critical difference.

    Returns:
        First and last place of every run of two or more that lies in no longer one.
    """
    found: list[tuple[int, int]] = []
    for first, low in enumerate(means):
        last = max(place for place, high in enumerate(means) if high - low < half or place == first)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found
