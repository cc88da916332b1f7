"""Rank-biased overlap of two rankings of the same items, with ties, and its expectation by chance.

An item that is tied at ranks t … b of a list contributes c(d) to the top d: 0 for d < t, (d-t+1)/(b-t+1) for
t ≤ d ≤ b, 1 for d > b. At depth d only one tie group of each list is in part within the top d. So the overlap X_d
follows from four numbers of items, those that have begun or are complete in either list, and no step compares items
with items. All images, variants and CAMs are computed at once. Which scores are tied, `core.ties` says. For lists that
share only some items see `camrobust.core.rank_lists`. It states the tie rules again, so change both files together.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from camrobust.core.ties import tie_groups

TIES = ("b", "a", "w", "index")
CHUNK_BYTES = 64 * 2**20
"""Largest size of the chances of one list under "index", which compare every item with every depth."""


def check_persistence(where: str, p: float) -> None:
    """Raise ValueError unless p is between 0 and 1."""
    if not 0 < p < 1:
        raise ValueError(f"{where}: p must be between 0 and 1, got {p:g}; 0.9 puts 86 % of the weight on the top 10")


def check_rule(p: float, ties: str) -> None:
    """Raise ValueError unless p is between 0 and 1 and ties is one of `TIES`."""
    check_persistence("rbo", p)
    if ties not in TIES:
        raise ValueError(f"rbo: ties must be one of {', '.join(TIES)}, got '{ties}'; b is the default")


def _check(scores_a: Tensor, scores_b: Tensor, p: float, ties: str) -> None:
    if scores_a.shape[-1] != scores_b.shape[-1] or not scores_a.shape[-1]:
        raise ValueError(
            f"rbo: both lists must score the same items, got {scores_a.shape[-1]} and {scores_b.shape[-1]}; "
            "use rbo_lists for lists that share only some"
        )
    check_rule(p, ties)


@dataclass(frozen=True)
class RankedPair:
    """Two rankings of the same items and their tie groups.

    Attributes:
        order: (2, …, m) int64, the items of the first and of the second list, highest score first, tied ones, too.
        bounds: smallest and largest score of each list, without the padding, (2, …) float64 each.
        groups: (2, 2, …, m) int64, the first and the last rank, from 0, of the tie group at every rank of both lists.
        sizes: (…, 1) int64, the number of items of each pair of lists. Padding follows them, as one tie group.
    """

    order: Tensor
    bounds: tuple[Tensor, Tensor]
    groups: Tensor
    sizes: Tensor

    @property
    def m(self) -> int:
        """Number of items, padding included."""
        return self.order.shape[-1]

    @cached_property
    def of_items(self) -> Tensor:
        """The first and the last rank of every item's tie group, (2, 2, …, m) int64."""
        return torch.empty_like(self.groups).scatter_(-1, self.order.expand_as(self.groups), self.groups)

    @cached_property
    def first(self) -> Tensor:
        """The first rank, from 0, of the tie group at every rank, (2, …, m) float64."""
        return self.groups[0].double()

    @cached_property
    def tied(self) -> Tensor:
        """The number of items of the tie group at every rank, (2, …, m) float64."""
        return (self.groups[1] + 1).sub(self.first)

    @cached_property
    def depths(self) -> Tensor:
        """1 … m, (m,) float64."""
        return torch.arange(1, self.m + 1, device=self.order.device, dtype=torch.float64)


def ranked(scores_a: Tensor, scores_b: Tensor, sizes: Tensor | None = None) -> RankedPair:
    """The tie groups of two lists of scores (…, m); arguments as in `agreement`."""
    return _ranked(torch.stack(torch.broadcast_tensors(scores_a, scores_b)).double().neg_(), sizes)


def ranks_of(scores: Tensor, sizes: Tensor | None = None) -> Tensor:
    """The first and the last rank, from 0 at the highest score, of every item's tie group: (…, m) to (2, …, m) int64.

    The arguments are as in `agreement`. Items that are padding come behind all others.
    """
    return _ranked(scores.double().neg()[None], sizes).of_items[:, 0]


def _ranked(falling: Tensor, sizes: Tensor | None) -> RankedPair:
    m = falling.shape[-1]
    if sizes is None:
        sizes = torch.full((1,), m, device=falling.device)
    else:
        sizes = sizes[..., None]
        falling = falling.masked_fill(torch.arange(m, device=falling.device) >= sizes, torch.inf)
    best_first, order = falling.sort(dim=-1, stable=True)
    below, high = best_first.gather(-1, (sizes - 1).expand(*falling.shape[:-1], 1)), best_first[..., :1].neg()
    groups = tie_groups(best_first, torch.maximum(high, below))
    return RankedPair(order, (-below[..., 0], high[..., 0]), torch.stack(groups), sizes)


def _shared(of_items: Tensor, share: Tensor) -> Tensor:
    """X_d, the overlap of the top d, (…, m depths) float64.

    Args:
        of_items: (2, 2, …, m) int64, as in `RankedPair`.
        share: (2, …, m) float64, the share within the top d of the tie group at rank d.
    """
    m = of_items.shape[-1]
    first, second = of_items.unbind(dim=1)
    both = torch.maximum(first[:, None], second)
    # An item that is not a number begins at m.
    counts = torch.zeros(*both.shape[:-1], m + 1, device=both.device, dtype=torch.float64)
    counts = counts.scatter_(-1, both, 1, reduce="add").cumsum(dim=-1)[..., :m]
    (begun, complete), (of_first, of_second) = counts.unbind(), share.unbind()
    begun, complete = torch.lerp(complete, begun, of_first).unbind()
    return torch.lerp(complete, begun, of_second)


def _chance_of_top(first: Tensor, last: Tensor, sizes: Tensor) -> Tensor:
    """P(item i is in the top d) if the scores are assigned to the items at random and ties are broken by item number.

    In a tie group of g items at ranks t … b, the item with the lowest number has rank t. Item i is in the group with
    probability g/m. The group's other g-1 members are drawn from the m-1 other items, so the number of them that
    precede item i is hypergeometric.

    Args:
        first: (N, m) int64, the first rank, from 0, of the tie group at every rank.
        last: (N, m) int64.
        sizes: (N, 1), the number of items of each list; the rest is padding.

    Returns:
        (N, m items, m depths) float64.
    """
    m = first.shape[-1]
    ranks = torch.arange(m, device=first.device)
    lower, group = ranks - first[:, None], (last - first)[:, None] + 1
    items, others = sizes[..., None].long(), ranks[:, None]
    log_factorial = torch.lgamma(torch.arange(m + 1, device=first.device, dtype=torch.float64) + 1)

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        possible = (k >= 0) & (k <= n)
        n = n.clamp(min=0)
        k = k.clamp(min=0).minimum(n)
        return torch.where(possible, log_factorial[n] - log_factorial[k] - log_factorial[n - k], -torch.inf)

    share = log_choose(others, lower) + log_choose(items - 1 - others, group - 1 - lower)
    at_rank = (share - log_choose(items - 1, group - 1)).exp() * group / items
    return torch.where((others < items) & (ranks < items), at_rank, 0).cumsum(dim=-1)


def _chance_of_both(pair: RankedPair) -> Tensor:
    """Expected overlap at every depth if the scores of both lists are assigned at random, (…, m)."""
    shape, chunk = pair.order.shape[1:], max(1, CHUNK_BYTES // (8 * pair.m**2))
    sizes = pair.sizes.expand(*shape[:-1], 1).reshape(-1, 1)
    groups = pair.groups.reshape(2, 2, -1, pair.m)
    chances = [
        (_chance_of_top(first[0], last[0], items) * _chance_of_top(first[1], last[1], items)).sum(dim=1)
        for (first, last), items in zip(groups.split(chunk, dim=2), sizes.split(chunk), strict=True)
    ]
    return torch.cat(chances).reshape(shape)


def _overlaps(pair: RankedPair, ties: str) -> tuple[Tensor, Tensor]:
    """A_d and its expectation by chance, (…, m depths) each."""
    depths = pair.depths
    if ties == "index":
        # Tied items in the order of their numbers.
        order = pair.of_items[0].argsort(dim=-1, stable=True)
        ranks = torch.empty_like(order).scatter_(-1, order, (depths.long() - 1).expand_as(order))
        shared = _shared(ranks.expand_as(pair.groups), torch.ones_like(ranks, dtype=torch.float64))
        return shared / depths, _chance_of_both(pair) / depths
    if ties == "w":
        size_a, size_b = pair.first + pair.tied
        both = size_a + size_b
        shared = _shared(pair.of_items, torch.ones_like(pair.first))
        return 2 * shared / both, 2 * size_a * size_b / pair.sizes / both
    within = depths - pair.first
    share = within / pair.tied
    shared = _shared(pair.of_items, share)
    if ties == "a":
        return shared / depths, depths / pair.sizes.expand_as(shared)
    # The items before the group count 1 each, and the group's g items (j/g)² each.
    squares = torch.addcmul(pair.first, within, share)
    norm = squares.prod(dim=0).sqrt_()
    return shared.div_(norm), depths.square() / norm.mul_(pair.sizes)


def depth_weights(depths: Tensor, sizes: Tensor, p: float) -> Tensor:
    """The weight of A_d in rank-biased overlap: (1-p)·p^(d-1), at the last item p^(m-1), in the padding 0.

    Args:
        depths: 1 … M, (M,) float64, M the number of items with padding.
        sizes: (…, 1), the number of items m of each list.
        p: persistence.

    Returns:
        (…, M) float64; they add up to 1.
    """
    powers = p ** (depths - 1)
    weights = torch.where(depths == sizes, powers, powers * (1 - p))
    return weights * (depths <= sizes)


def agreement_of(pair: RankedPair, p: float, ties: str) -> tuple[Tensor, Tensor]:
    """Rank-biased overlap, raw and adjusted for chance, of rankings that are known already; see `agreement`."""
    overlaps, expected = _overlaps(pair, ties)
    weights = depth_weights(pair.depths, pair.sizes, p)
    raw, chance = (overlaps * weights).sum(dim=-1).clamp_(0, 1), (expected * weights).sum(dim=-1)
    room = 1 - chance
    return raw, (raw - chance).div_(room).masked_fill_(room <= 1e-12, torch.nan)


def agreement(
    scores_a: Tensor, scores_b: Tensor, p: float = 0.9, ties: str = "b", sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Rank-biased overlap of two rankings of the same m items, raw and adjusted for chance.

    rbo = A_m·p^m + (1-p)/p · Σ_{d=1..m} A_d·p^d, with A_d the overlap of the two top-d sets.
    adjusted = (rbo - E)/(1 - E), with E the expectation of rbo by chance.

    Args:
        scores_a: (…, m), finite; the highest score is ranked first. Leading dimensions broadcast. Scores are tied that
            lie within 4 float32 ulp of the list's largest magnitude from the highest of their group.
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
    return agreement_of(ranked(scores_a, scores_b, sizes), p, ties)


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
    return _overlaps(ranked(scores_a, scores_b), ties)[0].mean(dim=-1)


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
