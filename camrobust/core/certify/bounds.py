"""Confidence bounds on the mean of every item, all of them together.

Each bound is one-sided at `tail`: the chance that the mean lies beyond it is at most `tail`, whatever the distribution
on [0, 1] (for `clopper_pearson`, on {0, 1}). With α/(2m) for each side of m items, all 2m bounds hold together with
probability 1 - α. Which bound is used is fixed by the kind of item, before there are data.
"""

import math

import numpy as np
import torch
from torch import Tensor

from camrobust.core.certify.items import ItemSums, check_samples

RANK_BOUNDS = ("empirical_bernstein", "hoeffding")
"""The bounds for items of the kind rank; items of the kind top are 0 or 1 and have the Clopper-Pearson bound."""
OUTWARD = 1e-9
"""A beta quantile is moved outwards by this share of itself: more than its error, less than anything that matters."""


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha is between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"certify: alpha must be between 0 and 1 (probability of an error), got {alpha:g}; try 0.01")


def clopper_pearson(hits: Tensor, samples: int, tail: Tensor | float) -> tuple[Tensor, Tensor]:
    """The exact bounds on the probability of a hit, lower and upper, by Clopper & Pearson.

    The lower bound is the `tail` quantile of Beta(k, n-k+1), 0 without a hit; the upper one is the 1 - `tail` quantile
    of Beta(k+1, n-k), 1 without a miss. The quantiles of the different values are computed on the host.

    Args:
        hits: (…) int64, k.
        samples: n ≥ 1.
        tail: the chance of an error on each side; broadcasts.

    Returns:
        Two tensors (…) float64 in [0, 1].

    References:
        Clopper & Pearson 1934, Biometrika 26(4).

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.bounds import clopper_pearson
        >>> lower, upper = clopper_pearson(torch.tensor(1000), 1000, 0.05 / 60)
        >>> round(lower.item(), 4), upper.item()
        (0.9929, 1.0)
    """
    from scipy.special import betaincinv

    tails = torch.as_tensor(tail, dtype=torch.float64, device=hits.device).expand(hits.shape)
    levels, level = np.unique(tails.cpu().numpy().ravel(), return_inverse=True)
    keys, back = np.unique(level.ravel() * (samples + 1) + hits.cpu().numpy().ravel(), return_inverse=True)
    k, a = keys % (samples + 1), levels[keys // (samples + 1)]
    n, miss = samples, samples - k
    below = betaincinv(np.maximum(k, 1), miss + 1, a) * (1 - OUTWARD)
    above = betaincinv(np.maximum(miss, 1), k + 1, a) * (1 - OUTWARD)
    both = np.stack([np.where(k == 0, 0, below), np.where(k == n, 1, np.nextafter(1 - above, 1))])
    lower, upper = torch.from_numpy(both[:, back.ravel()]).to(hits.device).reshape(2, *hits.shape)
    return lower, upper


def hoeffding(mean: Tensor, samples: int, tail: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean ± √(ln(1/tail)/(2n)), within [0, 1]; the width does not depend on the data.

    Args:
        mean: (…) float64, of n independent samples in [0, 1].
        samples: n.
        tail: the chance of an error on each side; broadcasts.

    References:
        Hoeffding 1963, JASA 58(301), theorem 1.
    """
    half = torch.as_tensor(tail, dtype=torch.float64, device=mean.device).log().neg().div(2 * samples).sqrt()
    return (mean - half).clamp(0, 1), (mean + half).clamp(0, 1)


def empirical_bernstein(mean: Tensor, variance: Tensor, samples: int, tail: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean ± (√(2·V·ln(2/tail)/n) + 7·ln(2/tail)/(3·(n-1))), within [0, 1]; narrow where the samples vary little.

    Args:
        mean: (…) float64, of n independent samples in [0, 1].
        variance: (…), V, their unbiased sample variance.
        samples: n ≥ 2.
        tail: the chance of an error on each side; broadcasts.

    References:
        Maurer & Pontil 2009, COLT, theorem 4, for the samples and for 1 minus them.
    """
    log = torch.as_tensor(tail, dtype=torch.float64, device=mean.device).log().neg() + math.log(2)
    half = (2 * log * variance / samples).sqrt() + 7 * log / (3 * (samples - 1))
    return (mean - half).clamp(0, 1), (mean + half).clamp(0, 1)


def item_bounds(sums: ItemSums, alpha: float, bound: str = "empirical_bernstein") -> tuple[Tensor, Tensor]:
    """Bounds on the smoothed score of every item that hold together with probability 1 - α.

    Args:
        sums: of n samples.
        alpha: probability of an error in any of an image's items, (0, 1).
        bound: one of `RANK_BOUNDS`; items of the kind top have `clopper_pearson`.

    Returns:
        Lower and upper bounds, (…, M) float64 in [0, 1]; in the padding 0 and 1. Bounds from lower sums are lower ones
        and bounds from upper sums are upper ones.

    Raises:
        ValueError: alpha or bound is out of range, or there are fewer than two samples.
    """
    check_alpha(alpha)
    if bound not in RANK_BOUNDS:
        raise ValueError(f"certify: bound must be one of {', '.join(RANK_BOUNDS)}, got '{bound}'")
    n = sums.samples
    if n < 2:
        raise ValueError(f"certify: samples must be at least 2, got {n}; hundreds are needed to certify anything")
    check_samples(n, sums.lower.shape[-1])
    tail = alpha / (2 * sums.sizes.double()[..., None])
    if sums.kind == "top":
        lower, upper = clopper_pearson(sums.lower, n, tail)[0], clopper_pearson(sums.upper, n, tail)[1]
    else:
        lower, upper = _of_ranks(sums, tail, bound)
    return lower.masked_fill(~sums.inside, 0), upper.masked_fill(~sums.inside, 1)


def _of_ranks(sums: ItemSums, tail: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    n, scale = sums.samples, sums.scale.clamp(min=1).double()
    means = [total / (n * scale) for total in (sums.lower, sums.upper)]
    if bound == "hoeffding":
        return hoeffding(means[0], n, tail)[0], hoeffding(means[1], n, tail)[1]
    # Exact: both terms of the difference are int64.
    spreads = [
        (n * squares - total.square()) / (n * (n - 1) * scale.square())
        for total, squares in ((sums.lower, sums.lower_squares), (sums.upper, sums.upper_squares))
    ]
    return (
        empirical_bernstein(means[0], spreads[0], n, tail)[0],
        empirical_bernstein(means[1], spreads[1], n, tail)[1],
    )
