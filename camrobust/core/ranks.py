"""Rank-biased overlap of rankings of the same items, exact under ties, and what chance alone would give.

An item tied at ranks t … b of a list contributes c(d) to its top d: 0 for d < t, (d-t+1)/(b-t+1) inside the group, 1
behind it. The overlap A_d at every depth follows from the two lists' contributions, for all images, variants and CAMs
at once. Lists that share only some items: `camrobust.core.rank_lists`.
"""

import math

import torch
from torch import Tensor

TIES = ("b", "a", "w", "index")
CHUNK_BYTES = 64 * 2**20
"""Most memory for the contributions of one list."""


def check_persistence(where: str, p: float) -> None:
    """Raise ValueError unless p is between 0 and 1."""
    if not 0 < p < 1:
        raise ValueError(f"{where}: p must be between 0 and 1, got {p:g}; 0.9 puts 86 % of the weight on the top 10")


def _check(scores_a: Tensor, scores_b: Tensor, p: float, ties: str) -> None:
    if scores_a.shape[-1] != scores_b.shape[-1] or not scores_a.shape[-1]:
        raise ValueError(
            f"rbo: both lists must score the same items, got {scores_a.shape[-1]} and {scores_b.shape[-1]}; "
            "use rbo_lists for lists that share only some"
        )
    check_persistence("rbo", p)
    if ties not in TIES:
        raise ValueError(f"rbo: ties must be one of {', '.join(TIES)}, got '{ties}'; b is the default")


def _depths(m: int, like: Tensor) -> Tensor:
    return torch.arange(1, m + 1, device=like.device, dtype=torch.float64)


def _groups(scores: Tensor) -> tuple[Tensor, Tensor]:
    """First and last rank of every item's tie group, (N, m) int64 twice."""
    m = scores.shape[-1]
    ascending = scores.sort(dim=-1).values.contiguous()
    first = m - torch.searchsorted(ascending, scores.contiguous(), right=True) + 1
    last = m - torch.searchsorted(ascending, scores.contiguous(), right=False)
    return first, last


def _contributions(scores: Tensor, ties: str) -> Tensor:
    """c(d) of every item, (N, m items, m depths) float64, for scores (N, m)."""
    m = scores.shape[-1]
    depths = _depths(m, scores)
    if ties == "index":
        order = scores.argsort(dim=-1, descending=True, stable=True)
        ranks = torch.empty_like(order).scatter_(-1, order, depths.long().expand_as(order))
        return (depths >= ranks[..., None]).double()
    first, last = _groups(scores)
    if ties == "w":
        return (depths >= first[..., None]).double()
    inside = (depths - first[..., None] + 1) / (last - first + 1)[..., None]
    return inside.clamp_(0, 1)


def _chance_of_top(scores: Tensor, sizes: Tensor) -> Tensor:
    """P(item i is in the top d) when `scores` are dealt out at random and ties broken by the item's number.

    Of a tie group at ranks t … b the lowest number stands at rank t. Item i is in the group with chance g/m; how many
    of the group's other g-1 members then have a lower number, of the m-1 other items, is hypergeometric.

    Args:
        scores: (N, m).
        sizes: (N, 1), how many of the items count.

    Returns:
        (N, m items, m depths) float64.
    """
    m = scores.shape[-1]
    order = scores.argsort(dim=-1, descending=True)
    first, last = (ranks.gather(-1, order)[:, None] for ranks in _groups(scores))
    ranks = _depths(m, scores).long()
    lower, group = ranks - first, last - first + 1
    items, others = sizes[..., None].long(), (ranks - 1)[:, None]
    log_factorial = torch.lgamma(torch.arange(m + 1, device=scores.device, dtype=torch.float64) + 1)

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        possible = (k >= 0) & (k <= n)
        n = n.clamp(min=0)
        k = k.clamp(min=0).minimum(n)
        return torch.where(possible, log_factorial[n] - log_factorial[k] - log_factorial[n - k], -torch.inf)

    share = log_choose(others, lower) + log_choose(items - 1 - others, group - 1 - lower)
    at_rank = (share - log_choose(items - 1, group - 1)).exp() * group / items
    return torch.where((others < items) & (ranks <= items), at_rank, 0).cumsum(dim=-1)


def _chance_of_both(a: Tensor, b: Tensor, sizes: Tensor) -> Tensor:
    """Expected overlap at every depth when both lists' scores are dealt out at random, (N, m)."""
    return (_chance_of_top(a, sizes) * _chance_of_top(b, sizes)).sum(dim=1)


def _overlaps(a: Tensor, b: Tensor, ties: str, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """A_d and E[A_d] by chance, (N, m depths), for scores (N, m) and numbers of items (N, 1)."""
    c, d = _contributions(a, ties), _contributions(b, ties)
    depths = _depths(a.shape[-1], a)
    shared = (c * d).sum(dim=1)
    if ties == "b":
        norm = torch.sqrt(c.square().sum(dim=1) * d.square().sum(dim=1))
        return shared / norm, depths.square() / (sizes * norm)
    if ties == "w":
        first, second = c.sum(dim=1), d.sum(dim=1)
        return 2 * shared / (first + second), 2 * first * second / sizes / (first + second)
    if ties == "index":
        return shared / depths, _chance_of_both(a, b, sizes) / depths
    return shared / depths, depths / sizes.expand_as(shared)


def _extrapolated(overlaps: Tensor, p: float, sizes: Tensor) -> Tensor:
    """A_m·p^m + (1-p)/p · Σ_{d ≤ m} A_d·p^d for overlaps (N, depths) and m = sizes (N, 1)."""
    depths = _depths(overlaps.shape[-1], overlaps)
    weights = p**depths * ((depths <= sizes).double() * ((1 - p) / p) + (depths == sizes).double())
    return (overlaps * weights).sum(dim=-1)


def agreement(
    scores_a: Tensor, scores_b: Tensor, p: float = 0.9, ties: str = "b", sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rank-biased overlap, raw and adjusted for chance.

    Args:
        scores_a: (…, m), finite, higher is ranked first; leading dimensions broadcast.
        scores_b: (…, m).
        p: persistence, (0, 1): weight of the top ranks.
        ties: "b" (a ranking agrees with itself exactly), "a" (expectation over random breaking), "w" (whole groups
            enter at once) or "index" (broken by the item's number).
        sizes: (…), how many of the m items each pair of lists has, 1 … m: lists of images with fewer segments are
            padded at the end with any number. None: all m.

    Returns:
        rbo in [0, 1] and (rbo - E)/(1 - E), both (…) in float64. E is the exact expectation when the scores of one list
        are dealt out to the items at random; under "index", where the items' numbers take part, the scores of both. The
        adjusted value is NaN where E is 1 (a single item, or everything tied).

    Raises:
        ValueError: lists of different length, or p or ties out of range.

    References:
        Webber, Moffat, Zobel 2010, ACM TOIS 28(4); Corsi & Urbano 2024, SIGIR, for ties. The expectations are ours.
    """
    _check(scores_a, scores_b, p, ties)
    a, b = torch.broadcast_tensors(scores_a, scores_b)
    m = a.shape[-1]
    if sizes is None:
        sizes = torch.full((), m, device=a.device)
    else:
        beyond = torch.arange(m, device=a.device) >= sizes[..., None]
        a, b = (torch.where(beyond, -torch.inf, scores) for scores in (a, b))
    shape = a.shape[:-1]
    chunk = max(1, CHUNK_BYTES // (8 * m * m))
    lists = (a.reshape(-1, m), b.reshape(-1, m), sizes.expand(shape).reshape(-1, 1))
    raw, chance = [], []
    for one, other, items in zip(*(each.split(chunk) for each in lists), strict=True):
        overlaps, expected = _overlaps(one, other, ties, items)
        raw.append(_extrapolated(overlaps, p, items))
        chance.append(_extrapolated(expected, p, items))
    rbo_values, expectation = torch.cat(raw).clamp(0, 1), torch.cat(chance)
    room = 1 - expectation
    adjusted = torch.where(room > 1e-12, (rbo_values - expectation) / room, torch.nan)
    return rbo_values.reshape(shape), adjusted.reshape(shape)


def rbo(scores_a: Tensor, scores_b: Tensor, p: float = 0.9, ties: str = "b", sizes: Tensor | None = None) -> Tensor:
    """Extrapolated rank-biased overlap of two rankings of the same m items, (…, m) twice to (…); see `agreement`.

    Examples:
        >>> import torch
        >>> from camrobust.core.ranks import rbo
        >>> scores = torch.tensor([0.9, 0.5, 0.2, 0.1])
        >>> round(rbo(scores, scores).item(), 3)
        1.0
        >>> round(rbo(scores, -scores, p=0.5).item(), 3)  # the opposite order
        0.208
    """
    return agreement(scores_a, scores_b, p, ties, sizes)[0]


def average_overlap(scores_a: Tensor, scores_b: Tensor, ties: str = "b") -> Tensor:
    """Mean of A_d over all depths, (…, m) twice to (…) in [0, 1]: the overlap without a weight for the top.

    Raises:
        ValueError: lists of different length, or ties out of range.

    References:
        Fagin, Kumar, Sivakumar 2003, "Comparing top k lists", SIAM J. Discrete Math. 17(1).
    """
    _check(scores_a, scores_b, 0.5, ties)
    a, b = torch.broadcast_tensors(scores_a, scores_b)
    shape, m = a.shape[:-1], a.shape[-1]
    items = torch.tensor(m, device=a.device)
    found = _overlaps(a.reshape(-1, m), b.reshape(-1, m), ties, items.expand(shape).reshape(-1, 1))[0]
    return found.mean(dim=-1).reshape(shape)


def top_weight(p: float, depth: int) -> float:
    """Share of rank-biased overlap that the first `depth` ranks decide, (0, 1).

    Raises:
        ValueError: p out of range, or depth less than 1.

    References:
        Webber, Moffat, Zobel 2010, equation 21.
    """
    check_persistence("top_weight", p)
    if depth < 1:
        raise ValueError(f"top_weight: depth must be at least 1, got {depth}; it counts ranks from the top")
    tail = math.log(1 / (1 - p)) - sum(p**i / i for i in range(1, depth))
    return 1 - p ** (depth - 1) + (1 - p) / p * depth * tail
