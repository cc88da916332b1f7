"""Correlations: similarity of two maps independent of their scale."""

import torch
from torch import Tensor

from camrobust.core.ranks import RankedPair, ranked
from camrobust.core.similarity.pair import MapPair
from camrobust.core.similarity.registry import chunks, similarity


def _cosine(values: Tensor) -> Tensor:
    """Cosine of the angle between the two vectors of every pair, (2, …, n) float64 to (…)."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
    clean, noisy = values.unbind()
    return (clean * noisy).sum(dim=-1).div_(norms.prod(dim=0)).clamp_(-1, 1)


def _pearson_of(pair: MapPair) -> Tensor:
    return _cosine(pair.values - pair.values.mean(dim=-1, keepdim=True))


@similarity(
    "pearson", takes="positions", low=-1, high=1, same=1, unit="linear correlation of positions", source="Pearson 1895",
    shared=_pearson_of,
)  # fmt: skip
def pearson(clean: Tensor, noisy: Tensor) -> Tensor:
    """Linear correlation over positions, [-1, 1]: the cosine of the two maps minus their means."""
    return _pearson_of(MapPair.of(clean, noisy))


def average_ranks(values: Tensor) -> Tensor:
    """Ascending ranks from 1, (…, n) float64; tied values share their mean rank."""
    first, last = MapPair(values).groups
    return values.shape[-1] - (first + last).double() / 2


def _spearman_of(pair: MapPair) -> Tensor:
    first, last = pair.groups
    # Twice the ranks from 0 minus their mean, which is (n-1)/2 whatever the ties.
    return _cosine((first + last).sub_(pair.n - 1).double())


@similarity(
    "spearman", takes="positions", low=-1, high=1, same=1, unit="rank correlation of positions",
    source="Spearman 1904", shared=_spearman_of,
)  # fmt: skip
def spearman(clean: Tensor, noisy: Tensor) -> Tensor:
    """Rank correlation over positions, [-1, 1]: `pearson` of the ranks; tied values share their mean rank."""
    return _spearman_of(MapPair.of(clean, noisy))


def _cosine_of(pair: MapPair) -> Tensor:
    return _cosine(pair.values)


@similarity(
    "cosine", takes="positions", low=-1, high=1, same=1, unit="cosine of the angle between the maps",
    source="Salton & McGill 1983", shared=_cosine_of,
)  # fmt: skip
def cosine(clean: Tensor, noisy: Tensor) -> Tensor:
    """Cosine of the angle between the raw maps, [-1, 1]; unlike `pearson` it depends on an offset of the maps."""
    return _cosine_of(MapPair.of(clean, noisy))


def _same_minus_opposite(first: Tensor, second: Tensor) -> Tensor:
    """Ordered pairs of segments in the same order minus those in the opposite order, for ranks (N, m): (N,)."""
    product = (first[:, :, None] - first[:, None]).clamp_(-1, 1)
    product.mul_((second[:, :, None] - second[:, None]).clamp_(-1, 1))
    # A column sums to less than m, so it fits the ranks' own type; int64 would take several times as long.
    return product.sum(dim=1, dtype=product.dtype).sum(dim=1)


def _kendall_of(pair: RankedPair) -> Tensor:
    m = pair.m
    narrow = torch.int16 if m < 2**15 else torch.int32
    first, second = pair.of_items[0].to(narrow).unbind()
    # Twice the size of the two buffers: one above 32 MiB would be mapped anew on every call.
    order = chunks(first, second, _same_minus_opposite, 1, 2 * 2 * narrow.itemsize * m * m)
    # The padding is one tie group behind all segments: it is in the same order with each of them.
    padded = (m - pair.sizes).mul_(pair.sizes).mul_(2)[..., 0]
    norm = (m * m - pair.tied.sum(dim=-1)).sub_(padded).prod(dim=0).sqrt_()
    return (order - padded).div(norm).clamp_(-1, 1)


@similarity(
    "kendall", takes="segments", low=-1, high=1, same=1, unit="rank correlation tau-b of segments",
    source="Kendall 1945", shared=_kendall_of,
)  # fmt: skip
def kendall(clean: Tensor, noisy: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Kendall's τ-b of the segments' scores, [-1, 1].

    (C - D)/√(P·Q), with C and D the numbers of segment pairs in the same and in the opposite order, P and Q the numbers
    of pairs that are not tied in the first and in the second list. `sizes` as in `ranks.agreement`.
    """
    return _kendall_of(ranked(clean, noisy, sizes))
