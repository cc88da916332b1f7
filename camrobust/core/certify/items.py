"""What each noisy sample says about each item, and its sums over the samples.

All sums are of integers, so they do not depend on the order of the samples or on how they are cut into passes.

==== ================================ ===============================================================
kind z of a sample                    where it is unknown
==== ================================ ===============================================================
rank (m - rank)/(m - 1), middle ranks a flat or non-finite sample: 0 in `lower`, 1 in `upper`
     where scores are tied
top  1 in the top K, otherwise 0      as for rank; so is an item whose tie group lies across the border
==== ================================ ===============================================================
"""

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from camrobust.core.ranks import ranks_of
from camrobust.core.similarity.registry import flat as constant

KINDS = ("rank", "top")
MOST = math.isqrt(2**63 - 1)
"""Largest sum of a certificate's integers whose square is an int64."""


def check_kind(kind: str) -> None:
    """Raise ValueError unless kind is one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"certify: item must be one of {', '.join(KINDS)}, got '{kind}'; rank is the default")


def top_places(sizes: Tensor, share: float) -> Tensor:
    """K = ⌈share·m⌉, the number of items in the top, int64 of the shape of `sizes`.

    Raises:
        ValueError: share is not within (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"certify: top must be above 0 and at most 1 (share of the items), got {share:g}; try 0.2")
    # 0.07·100 is 7.000000000000001 in floating point, and its ceiling must be 7.
    return (sizes.double() * share - 1e-9).ceil().long().clamp(min=1)


@dataclass(frozen=True)
class ItemSums:
    """Sums over the samples of an image for each item, all int64.

    Two of them can be added; the order does not matter.

    Attributes:
        kind: one of `KINDS`.
        samples: n, the number of samples.
        sizes: (…), the number of items m of each list; the rest is padding.
        lower: (…, M), the sum of `scale`·z, with z = 0 where it is unknown.
        upper: (…, M), the same with z = 1 where it is unknown.
        lower_squares: (…, M), the sum of (`scale`·z)², with z = 0 where it is unknown.
        upper_squares: (…, M), the same with z = 1 where it is unknown.
        flat: (…), the number of samples that were flat or not finite.
    """

    kind: str
    samples: int
    sizes: Tensor
    lower: Tensor
    upper: Tensor
    lower_squares: Tensor
    upper_squares: Tensor
    flat: Tensor

    @property
    def scale(self) -> Tensor:
        """The integer that stands for z = 1, (…, 1): twice m - 1 for ranks, because middle ranks have halves."""
        return _scale(self.kind, self.sizes)

    @property
    def inside(self) -> Tensor:
        """Which items are no padding, (…, M) bool."""
        return torch.arange(self.lower.shape[-1], device=self.lower.device) < self.sizes[..., None]

    def __add__(self, other: Self) -> Self:
        """The sums over the samples of both.

        Raises:
            ValueError: they are sums of different items.
        """
        if self.kind != other.kind or self.lower.shape != other.lower.shape:
            raise ValueError(
                f"certify: sums of '{self.kind}' items {tuple(self.lower.shape)} and of '{other.kind}' items "
                f"{tuple(other.lower.shape)} cannot be added; add those of the same image"
            )
        added = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.name not in ("kind", "sizes")
        }
        return type(self)(kind=self.kind, sizes=self.sizes, **added)


def _scale(kind: str, sizes: Tensor) -> Tensor:
    ones = torch.ones_like(sizes)[..., None]
    return 2 * (sizes[..., None] - 1) if kind == "rank" else ones


def item_sums(
    scores: Tensor, kind: str = "rank", sizes: Tensor | None = None, top: float = 0.2, unusable: Tensor | None = None
) -> ItemSums:
    """Sum up what N samples say about each item.

    Args:
        scores: (N, …, M), the scores of the items in every sample, the highest first in rank. Which of them are tied,
            `core.ties` says.
        kind: one of `KINDS`.
        sizes: (…), int64, the number of items of each list, 1 … M; must broadcast. Images with fewer segments are
            padded at the end with any value. None means M.
        top: K as a share of m; only for the kind "top".
        unusable: (N, …) bool, samples that count as flat whatever their scores, for example because the map is
            constant although the segments' scores differ by rounding.

    Returns:
        The sums, (…, M).

    Raises:
        ValueError: kind, top or the shape is out of range, or there are so many samples of so many items that the sums
            of squares could overflow.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.items import item_sums
        >>> sums = item_sums(torch.tensor([[0.9, 0.5, 0.1], [0.5, 0.9, 0.1], [0.0, 0.0, 0.0]]))
        >>> (sums.lower / sums.scale).tolist(), int(sums.flat)
        ([1.5, 1.5, 0.0], 1)
    """
    check_kind(kind)
    N, M = scores.shape[0], scores.shape[-1]
    if not N or not M:
        raise ValueError(f"certify: scores must hold samples of items, got the shape {tuple(scores.shape)}")
    check_samples(N, M)
    lists = scores.shape[1:-1]
    sizes = torch.full(lists, M, device=scores.device) if sizes is None else sizes.to(scores.device).expand(lists)
    K = top_places(sizes, top)[..., None]
    inside = torch.arange(M, device=scores.device) < sizes[..., None]
    lost = (~scores.isfinite() & inside).any(dim=-1)
    # The padding repeats the first score, so it changes neither the largest nor the smallest one.
    known = torch.where(inside, scores, scores[..., :1]).masked_fill(lost[..., None], 0)
    lost = lost | constant(known)
    if unusable is not None:
        lost = lost | unusable
    first, last = ranks_of(known, sizes.expand(scores.shape[:-1]))
    scale = _scale(kind, sizes)
    if kind == "rank":
        lower = upper = scale - (first + last)
    else:
        lower, upper = (last < K).long(), (first < K).long()
    out = ~inside
    lower = lower.masked_fill(lost[..., None] | out, 0)
    upper = torch.where(lost[..., None], scale, upper).masked_fill(out, 0)
    return ItemSums(
        kind, N, sizes, lower.sum(dim=0), upper.sum(dim=0), lower.square().sum(dim=0), upper.square().sum(dim=0),
        lost.long().sum(dim=0),
    )  # fmt: skip


def check_samples(samples: int, items: int) -> None:
    """Raise ValueError if the sums over so many samples of so many items could overflow."""
    if 2 * samples * items > MOST:
        raise ValueError(
            f"certify: {samples} samples of {items} items overflow the sums; take at most {MOST // (2 * items)} samples"
        )
