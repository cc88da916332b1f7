"""Rank tests of pairs and of independent groups, with their effect sizes; Holm's correction."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
EXACT = 50
"""Up to so many images Wilcoxon's test uses the exact distribution."""


@dataclass(frozen=True)
class Omnibus:
    """A test of several groups at once.

    Attributes:
        statistic: value of the test statistic.
        df: degrees of freedom, of the numerator for F.
        p: probability of a value at least as extreme if nothing differs.
        effect: Kendall's W for blocks, ε² for independent groups; 0 = no difference, 1 = the largest possible.
    """

    statistic: float
    df: float
    p: float
    effect: float


@dataclass(frozen=True)
class Effect:
    """An effect size with its interval, and a test; bounds that cannot be estimated are NaN."""

    effect: float
    lower: float
    upper: float
    statistic: float
    p: float


def wilcoxon(differences: NDArray[np.floating[Any]], level: float = 0.95) -> Effect:
    """Wilcoxon's signed-rank test with Pratt's treatment of zeros, and the matched-pairs rank-biserial correlation.

    r = (R⁺ - R⁻)/(R⁺ + R⁻) is the mean sign of d_i + d_j over pairs of images, so its interval comes from the variance
    of a U-statistic. p is exact up to `EXACT` images without ties and zeros; otherwise it comes from the normal
    distribution, corrected for ties.

    Args:
        differences: (n,) one per image, first minus second.
        level: confidence of the interval, (0, 1).

    Returns:
        r, +1 if all differences are positive; the bounds are NaN if all have the same sign.

    References:
        Pratt 1959; Kerby 2014 (r); Hoeffding 1948 (variance).
    """
    # Sorted, because searchsorted is many times faster for neighbouring values.
    d = np.sort(differences.astype(np.float64))
    n, zeros = len(d), int((d == 0).sum())
    if zeros == n:
        return Effect(0.0, np.nan, np.nan, 0.0, 1.0)
    signed = float((np.sign(d) * stats.rankdata(np.abs(d))).sum())
    whole = n * (n + 1) / 2 - zeros * (zeros + 1) / 2
    r = signed / whole
    # Mean sign of d_i + d_j over j, and the influence of each image on r.
    signs = 1 - (np.searchsorted(d, -d, "left") + np.searchsorted(d, -d, "right")) / n
    q = zeros / n
    influence = 2 * (signs - signs.mean()) / (1 - q * q) + 2 * r * q * ((d == 0) - q) / (1 - q * q)
    error = float(np.sqrt(influence.var() / max(1, n - 1)))
    half = float(special.ndtri((1 + level) / 2)) * error if error > 1e-12 else np.nan
    exact = n <= EXACT and not zeros and len(np.unique(np.abs(d))) == n
    test = stats.wilcoxon(d, zero_method="pratt", correction=False, method="exact" if exact else "approx")
    return Effect(r, *_within(r - half, r + half), (whole + signed) / 2, float(test.pvalue))


def least_p(n: int) -> float:
    """The smallest p-value that Wilcoxon's two-sided test can give for n images: all differences have the same sign."""
    return min(1.0, 2.0 ** (1 - n))


def kruskal(groups: list[NDArray[np.floating[Any]]]) -> Omnibus:
    """Kruskal and Wallis' H of independent groups, with ε² = H/(n - 1); NaN if all values are equal."""
    whole = np.concatenate(groups)
    if whole.min() == whole.max():
        return Omnibus(np.nan, len(groups) - 1, np.nan, np.nan)
    H, p = stats.kruskal(*groups)
    return Omnibus(float(H), len(groups) - 1, float(p), float(H) / (len(whole) - 1))


def cliffs_delta(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], level: float = 0.95) -> Effect:
    """P(first > second) - P(first < second) of independent images, with Mann and Whitney's test.

    Returns:
        δ, +1 if every image of the first group exceeds every image of the second. The bounds are NaN if δ is 1 or -1,
        or if a group has fewer than two images.

    References:
        Cliff 1993, Psychological Bulletin 114; Feng & Cliff 2004 (the asymmetric interval). The variance is the
        consistent one, s²(row means)/n + s²(column means)/m of the dominance matrix, without the third term of Cliff's
        unbiased estimate, and at least (1 - δ²)/(n·m - 1).
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
    dominance: Array = (below + upto) / len(y) - 1
    return dominance


def holm(p: Array) -> Array:
    """Holm's correction of a family of p-values; NaN does not count as a member of the family.

    References:
        Holm 1979, Scandinavian Journal of Statistics 6.
    """
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return corrected
