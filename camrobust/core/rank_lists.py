"""Rank-biased overlap of two lists of any length that share only some items, with ties.

A list begins with its best item; a set or frozenset in it is a tie group: ["a", {"b", "c"}, "d"]. The shorter list has
s items, the longer one l.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from camrobust.core.ranks import check_persistence

TIES = ("b", "a", "w")


@dataclass(frozen=True)
class RboBounds:
    """Rank-biased overlap of two lists that share only some items.

    Attributes:
        ext: extrapolated from the items seen.
        low: the value if no unseen item agrees.
        high: the value if the unseen items agree as far as possible.
    """

    ext: float
    low: float
    high: float

    @property
    def residual(self) -> float:
        """High - low: the uncertainty due to the unseen ranks."""
        return self.high - self.low


@dataclass(frozen=True)
class _Ranking:
    """First and last rank of every item, from 1.

    Attributes:
        first: rank at which an item's tie group begins.
        last: rank at which it ends.
        whole: a tie group enters the top d as a whole, at its first rank (rule "w").
    """

    first: dict[object, int]
    last: dict[object, int]
    whole: bool

    def __len__(self) -> int:
        return len(self.first)

    def share(self, item: object, d: int) -> float:
        """c(d), the contribution of an item to the top d; 0 for an item that is not in the list."""
        if item not in self.first or d < self.first[item]:
            return 0.0
        size = self.last[item] - self.first[item] + 1
        return 1.0 if self.whole else min(1.0, (d - self.first[item] + 1) / size)

    def total(self, d: int, power: int) -> float:
        """Σ c(d)^power; every rank beyond the end of the list adds 1."""
        unseen = max(0, d - len(self))
        return unseen + math.fsum(self.share(item, d) ** power for item in self.first)


def _ranking(items: Sequence[object], ties: str) -> _Ranking:
    groups: list[Collection[object]] = [item if isinstance(item, (set, frozenset)) else [item] for item in items]
    first: dict[object, int] = {}
    last: dict[object, int] = {}
    rank = 0
    for group in groups:
        first |= dict.fromkeys(group, rank + 1)
        rank += len(group)
        last |= dict.fromkeys(group, rank)
    if not first or len(first) != rank or not all(groups):
        raise ValueError(
            f"rbo_lists: a list must have items, each of them once, got {list(items)}; remove empty groups and repeats"
        )
    return _Ranking(first, last, ties == "w")


class _Lists:
    """The shorter and the longer list, and their overlap at every depth."""

    def __init__(self, first: _Ranking, second: _Ranking, ties: str) -> None:
        self.short, self.long = sorted((first, second), key=len)
        self.ties = ties
        self.shared = [item for item in self.short.first if item in self.long.first]
        ranks = self.long.first
        self.only_long = sorted((item for item in ranks if item not in self.short.first), key=ranks.__getitem__)

    def seen(self, d: int) -> float:
        """X_d, the overlap of the items seen."""
        return math.fsum(self.short.share(item, d) * self.long.share(item, d) for item in self.shared)

    def agreement(self, d: int, overlap: float) -> float:
        """A_d of an overlap X_d: the overlap as a share of the top d."""
        if self.ties == "a":
            return overlap / d
        if self.ties == "w":
            return 2 * overlap / (self.short.total(d, 1) + self.long.total(d, 1))
        return overlap / math.sqrt(self.short.total(d, 2) * self.long.total(d, 2))

    def expected(self, d: int) -> float:
        """X_d for s < d ≤ l if the short list continues to agree as it does at its end."""
        s = len(self.short)
        shares = [share for item in self.only_long if (share := self.long.share(item, d))]
        return self.seen(d) + (d - s) * self.agreement(s, self.seen(s)) * math.fsum(shares) / len(shares)

    def possible(self, d: int) -> float:
        """X_d for s < d ≤ l if the short list continues with the items that only the long list has."""
        return self.seen(d) + math.fsum(self.long.share(item, d) for item in self.only_long[: d - len(self.short)])


def rbo_lists(first: Sequence[object], second: Sequence[object], p: float = 0.9, ties: str = "b") -> RboBounds:
    """Rank-biased overlap of two lists of any length that share only some items.

    Args:
        first: items, best first; a set is a tie group.
        second: likewise.
        p: persistence, (0, 1); a smaller p puts more weight on the top ranks.
        ties: the tie rule "b", "a" or "w", as in `camrobust.core.ranks.agreement`.

    Returns:
        The extrapolated value and the bounds that any continuation of the lists keeps, all in [0, 1].

    Raises:
        ValueError: a list or group is empty, an item is twice in one list, or p or ties is out of range.

    References:
        Webber, Moffat, Zobel 2010, ACM TOIS 28(4), equations 11, 23 and 32; Corsi & Urbano 2024, SIGIR, section 4, for
        ties.

    Examples:
        >>> from camrobust.core.rank_lists import rbo_lists
        >>> bounds = rbo_lists(["a", {"b", "c"}, "d"], ["b", "a", "x"], p=0.9)
        >>> bounds.low < bounds.ext < bounds.high
        True
    """
    lists = _lists(first, second, ties)
    check_persistence("rbo_lists", p)
    s, depth = len(lists.short), len(lists.long)
    at_s, shared = lists.agreement(s, lists.seen(s)), lists.seen(depth)
    weight = {d: (1 - p) / p * p**d for d in range(1, 2 * depth + 1)}
    head = math.fsum(weight[d] * lists.agreement(d, lists.seen(d)) for d in range(1, s + 1))
    between = range(s + 1, depth + 1)
    ext, low, high = (
        head + math.fsum(weight[d] * lists.agreement(d, overlap(d)) for d in between)
        for overlap in (lists.expected, lists.seen, lists.possible)
    )
    full = s + depth - round(shared)
    tail = math.log(1 / (1 - p)) - math.fsum(p**d / d for d in range(1, depth + 1))
    filling = math.fsum(weight[d] * (2 * d - depth - s + shared) / d for d in range(depth + 1, full + 1))
    return RboBounds(
        ext=ext + (shared + (depth - s) * at_s) / depth * p**depth,
        low=low + (1 - p) / p * shared * tail,
        high=high + filling + p**full,
    )


def overlaps(first: Sequence[object], second: Sequence[object], ties: str = "b") -> list[float]:
    """A_d of two lists at the depths 1 … s that both have; their mean is the average overlap.

    Args:
        first: items, best first; a set is a tie group.
        second: likewise.
        ties: the tie rule "b", "a" or "w".

    Raises:
        ValueError: a list or group is empty, an item is twice in one list, or ties is out of range.
    """
    lists = _lists(first, second, ties)
    return [lists.agreement(d, lists.seen(d)) for d in range(1, len(lists.short) + 1)]


def _lists(first: Sequence[object], second: Sequence[object], ties: str) -> _Lists:
    if ties not in TIES:
        raise ValueError(f"rbo_lists: ties must be one of {', '.join(TIES)}, got '{ties}'; b is the default")
    return _Lists(_ranking(first, ties), _ranking(second, ties), ties)
