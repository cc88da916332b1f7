"""Rank-biased overlap of two rankings of the same items, with ties, and its expectation by chance.

An item that is tied at ranks t … b of a list contributes c(d) to the top d: 0 for d < t, (d-t+1)/(b-t+1) for
t ≤ d ≤ b, 1 for d > b. The overlap A_d at depth d follows from the contributions of both lists. All images, variants
and CAMs are computed at once. For lists that share only some items see `camrobust.core.rank_lists`. It states
the tie rules again, so change both files together.
"""

import math

import torch
from torch import Tensor

TIES = ("b", "a", "w", "index")
CHUNK_BYTES = 64 * 2**20
"""Largest size of the contributions of one list."""


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
    """First and last rank of the tie group of every item; two tensors (N, m) int64 for scores (N, m)."""
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
    """P(item i is in the top d) if `scores` are assigned to the items at random and ties are broken by item number.

    In a tie group of g items at ranks t … b, the item with the lowest number has rank t. Item i is in the group with
    probability g/m. The group's other g-1 members are drawn from the m-1 other items, so the number of them that
    precede item i is hypergeometric.

    Args:
        scores: (N, m).
        sizes: (N, 1), the number of items of each list; the rest is padding.

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
    """Expected overlap at every depth if the scores of both lists are assigned at random, (N, m)."""
    return (_chance_of_top(a, sizes) * _chance_of_top(b, sizes)).sum(dim=1)


def _overlaps(a: Tensor, b: Tensor, ties: str, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """A_d and its expectation by chance, (N, m depths) each, for scores (N, m) and numbers of items (N, 1)."""
    c, d = _contributions(a, ties), _contributions(b, ties)
    depths = _depths(a.shape[-1], a)
    shared = (c * d).sum(dim=1)
    if ties == "b":
        norm = torch.sqrt(c.square().sum(dim=1) * d.square().sum(dim=1))
        return shared / norm, depths.square() / (sizes * norm)
    if ties == "w":
        size_a, size_b = c.sum(dim=1), d.sum(dim=1)
        return 2 * shared / (size_a + size_b), 2 * size_a * size_b / sizes / (size_a + size_b)
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
    """Rank-biased overlap of two rankings of the same m items, raw and adjusted for chance.

    rbo = A_m·p^m + (1-p)/p · Σ_{d=1..m} A_d·p^d, with A_d the overlap of the two top-d sets.
    adjusted = (rbo - E)/(1 - E), with E the expectation of rbo by chance.

    Args:
        scores_a: (…, m), finite; the highest score is ranked first. Leading dimensions broadcast.
        scores_b: (…, m).
        p: persistence, (0, 1); a smaller p puts more weight on the top ranks.
        ties: the tie rule. "b": a ranking agrees with itself exactly. "a": the expectation over random tie breaking.
            "w": a tie group enters at its first rank. "index": ties are broken by item number.
        sizes: (…), the number of items of each pair of lists, 1 … m. Images with fewer segments are padded at the end
            with any value. None means m.

    Returns:
        rbo in [0, 1] and its adjusted value, both (…) float64. E is exact: the scores of one list are assigned to the
        items at random; under "index", which depends on the item numbers, the scores of both lists. The adjusted value
        is NaN where E is 1 (a single item, or all items tied).

    Raises:
        ValueError: the lists differ in length, or p or ties is out of range.

    References:
        Webber, Moffat, Zobel 2010, ACM TOIS 28(4), equation 32; Corsi & Urbano 2024, SIGIR, for ties. The expectations
        are ours.

    Examples:
        >>> import torch
        >>> from camrobust.core.ranks import agreement
        >>> rbo, adjusted = agreement(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0]))
        >>> round(float(rbo), 3), round(float(adjusted), 3)
        (0.955, 0.534)
    """
    _check(scores_a, scores_b, p, ties)
    a, b = torch.broadcast_tensors(scores_a, scores_b)
    m = a.shape[-1]
    if sizes is None:
        sizes = torch.full((), m, device=a.device)
    else:
        padding = torch.arange(m, device=a.device) >= sizes[..., None]
        a, b = (torch.where(padding, -torch.inf, scores) for scores in (a, b))
    shape = a.shape[:-1]
    chunk = max(1, CHUNK_BYTES // (8 * m * m))
    lists = (a.reshape(-1, m), b.reshape(-1, m), sizes.expand(shape).reshape(-1, 1))
    raw, chance = [], []
    for chunk_a, chunk_b, items in zip(*(values.split(chunk) for values in lists), strict=True):
        overlaps, expected = _overlaps(chunk_a, chunk_b, ties, items)
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
    """Average overlap, mean of A_d over all depths: like rank-biased overlap, but all depths have the same weight.

    Args:
        scores_a: (…, m), finite; leading dimensions broadcast.
        scores_b: (…, m).
        ties: as in `agreement`.

    Returns:
        (…) float64 in [0, 1].

    Raises:
        ValueError: the lists differ in length, or ties is out of range.

    References:
        Fagin, Kumar, Sivakumar 2003, "Comparing top k lists", SIAM J. Discrete Math. 17(1).
    """
    _check(scores_a, scores_b, 0.5, ties)
    a, b = torch.broadcast_tensors(scores_a, scores_b)
    shape, m = a.shape[:-1], a.shape[-1]
    items = torch.tensor(m, device=a.device)
    overlaps, _ = _overlaps(a.reshape(-1, m), b.reshape(-1, m), ties, items.expand(shape).reshape(-1, 1))
    return overlaps.mean(dim=-1).reshape(shape)


def top_weight(p: float, depth: int) -> float:
    """Share of rank-biased overlap that the first `depth` ranks determine, (0, 1).

    1 - p^(d-1) + (1-p)/p · d · (ln(1/(1-p)) - Σ_{i<d} p^i/i), with d = depth.

    Raises:
        ValueError: p is out of range, or depth is less than 1.

    References:
        Webber, Moffat, Zobel 2010, equation 21.
    """
    check_persistence("top_weight", p)
    if depth < 1:
        raise ValueError(f"top_weight: depth must be at least 1, got {depth}; it counts ranks from the top")
    tail = math.log(1 / (1 - p)) - sum(p**i / i for i in range(1, depth))
    return 1 - p ** (depth - 1) + (1 - p) / p * depth * tail
