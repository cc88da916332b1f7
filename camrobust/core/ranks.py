"""Rank-biased overlap of two rankings of the same items, exact under ties, and what chance alone would give.

A list's item that is tied at ranks t … b contributes c(d) to the top d: 0 for d < t, (d-t+1)/(b-t+1) inside the group,
1 behind it. The overlap A_d at every depth follows from the two lists' contributions, without a loop over pairs,
images or depths.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TIES = ("b", "a", "w", "index")
CHUNK_BYTES = 64 * 2**20
"""Most memory for the contributions of one list."""


def _check(scores_a: Tensor, scores_b: Tensor, p: float, ties: str) -> None:
    if scores_a.shape[-1] != scores_b.shape[-1] or not scores_a.shape[-1]:
        raise ValueError(
            f"rbo: both lists must score the same items, got {scores_a.shape[-1]} and {scores_b.shape[-1]}; "
            "use rbo_lists for lists that share only some"
        )
    if not 0 < p < 1:
        raise ValueError(f"rbo: p must be between 0 and 1, got {p:g}; 0.9 puts 86 % of the weight on the top 10")
    if ties not in TIES:
        raise ValueError(f"rbo: ties must be one of {', '.join(TIES)}, got '{ties}'; b is the default")


def _contributions(scores: Tensor, ties: str) -> Tensor:
    """c(d) of every item, (N, m items, m depths) float64, for scores (N, m)."""
    m = scores.shape[-1]
    depths = torch.arange(1, m + 1, device=scores.device, dtype=torch.float64)
    if ties == "index":
        order = scores.argsort(dim=-1, descending=True, stable=True)
        ranks = torch.empty_like(order).scatter_(
            -1, order, torch.arange(1, m + 1, device=scores.device).expand_as(order)
        )
        return (depths >= ranks[..., None]).double()
    ascending = scores.sort(dim=-1).values.contiguous()
    first = m - torch.searchsorted(ascending, scores.contiguous(), right=True) + 1
    last = m - torch.searchsorted(ascending, scores.contiguous(), right=False)
    if ties == "w":
        return (depths >= first[..., None]).double()
    inside = (depths - first[..., None] + 1) / (last - first + 1)[..., None]
    return inside.clamp_(0, 1)


def _overlaps(a: Tensor, b: Tensor, ties: str) -> tuple[Tensor, Tensor]:
    """A_d and E[A_d] by chance, (N, m depths), for scores (N, m)."""
    c, d = _contributions(a, ties), _contributions(b, ties)
    m = a.shape[-1]
    depths = torch.arange(1, m + 1, device=a.device, dtype=torch.float64)
    shared = torch.einsum("nid,nid->nd", c, d)
    if ties == "b":
        norm = torch.sqrt(c.square().sum(dim=1) * d.square().sum(dim=1))
        return shared / norm, depths.square() / (m * norm)
    if ties == "w":
        first, second = c.sum(dim=1), d.sum(dim=1)
        return 2 * shared / (first + second), 2 * first * second / m / (first + second)
    return shared / depths, (depths / m).expand_as(shared)


def _extrapolated(overlaps: Tensor, p: float) -> Tensor:
    """A_m·p^m + (1-p)/p · Σ A_d·p^d."""
    m = overlaps.shape[-1]
    weights = p ** torch.arange(1, m + 1, device=overlaps.device, dtype=torch.float64) * ((1 - p) / p)
    weights[-1] += p**m
    return overlaps @ weights


def agreement(scores_a: Tensor, scores_b: Tensor, p: float = 0.9, ties: str = "b") -> tuple[Tensor, Tensor]:
    """Rank-biased overlap, raw and adjusted for chance.

    Args:
        scores_a: (…, m), higher is ranked first; leading dimensions broadcast.
        scores_b: (…, m).
        p: persistence, (0, 1): weight of the top ranks.
        ties: "b" (a ranking agrees with itself exactly), "a" (expectation over random breaking), "w" (whole groups
            enter at once) or "index" (broken by the item's number).

    Returns:
        rbo in [0, 1] and (rbo - E)/(1 - E), both (…) in float64; E is the exact expectation when the items of one list
        are renamed at random. The adjusted value is NaN where E is 1 (a single item, or everything tied).

    Raises:
        ValueError: lists of different length, or p or ties out of range.

    References:
        Webber, Moffat, Zobel 2010, ACM TOIS 28(4); Corsi & Urbano 2024, SIGIR, for ties.
    """
    _check(scores_a, scores_b, p, ties)
    a, b = torch.broadcast_tensors(scores_a, scores_b)
    shape, m = a.shape[:-1], a.shape[-1]
    chunk = max(1, CHUNK_BYTES // (8 * m * m))
    raw, chance = [], []
    for one, other in zip(a.reshape(-1, m).split(chunk), b.reshape(-1, m).split(chunk), strict=True):
        overlaps, expected = _overlaps(one, other, ties)
        raw.append(_extrapolated(overlaps, p))
        chance.append(_extrapolated(expected, p))
    rbo_values, expectation = torch.cat(raw).clamp(0, 1), torch.cat(chance)
    room = 1 - expectation
    adjusted = torch.where(room > 1e-12, (rbo_values - expectation) / room, torch.nan)
    return rbo_values.reshape(shape), adjusted.reshape(shape)


def rbo(scores_a: Tensor, scores_b: Tensor, p: float = 0.9, ties: str = "b") -> Tensor:
    """Extrapolated rank-biased overlap of two rankings of the same m items, (…, m) twice to (…); see `agreement`."""
    return agreement(scores_a, scores_b, p, ties)[0]


@dataclass(frozen=True)
class RboBounds:
    """Rank-biased overlap of two lists that share only some items.

    Attributes:
        ext: extrapolated from what is seen.
        low: if nothing unseen agrees.
        high: if everything unseen agrees as far as it can.
    """

    ext: float
    low: float
    high: float


def rbo_lists(first: Sequence[object], second: Sequence[object], p: float = 0.9) -> RboBounds:
    """Rank-biased overlap of two lists without ties, of any length, that share only some items.

    Args:
        first: items, best first.
        second: items, best first.
        p: persistence, (0, 1).

    Raises:
        ValueError: an empty list, an item twice in one list, p out of range.

    References:
        Webber, Moffat, Zobel 2010, ACM TOIS 28(4), equations 11, 23 and 32.
    """
    if not 0 < p < 1:
        raise ValueError(f"rbo_lists: p must be between 0 and 1, got {p:g}; 0.9 puts 86 % of the weight on the top 10")
    for items in (first, second):
        if not items or len(set(items)) != len(items):
            raise ValueError(
                f"rbo_lists: each list must hold different items, got {list(items)}; drop the repeated ones"
            )
    short, long = sorted((list(first), list(second)), key=len)
    s, depth = len(short), len(long)
    shared = [len(set(short[:d]) & set(long[:d])) for d in range(1, depth + 1)]
    at_s, at_end = shared[s - 1], shared[-1]
    seen = sum(x / d * p**d for d, x in enumerate(shared, 1))
    beyond = sum(at_s * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    ext = (1 - p) / p * (seen + beyond) + ((at_end - at_s) / depth + at_s / s) * p**depth
    low = (1 - p) / p * (sum((x - at_end) / d * p**d for d, x in enumerate(shared, 1)) - at_end * math.log(1 - p))
    return RboBounds(ext, low, low + _residual(s, depth, at_end, p))


def _residual(s: int, depth: int, shared: int, p: float) -> float:
    """What items beyond the ends could add at most."""
    full = s + depth - shared
    tail = math.log(1 / (1 - p)) - sum(p**d / d for d in range(1, full + 1))
    head = sum(p**d / d for d in range(s + 1, full + 1)) * s + depth * sum(p**d / d for d in range(depth + 1, full + 1))
    return p**s + p**depth - p**full - (1 - p) / p * (head + shared * tail)
