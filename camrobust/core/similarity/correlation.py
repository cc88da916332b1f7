"""Correlations: similarity of two maps independent of their scale."""

import torch
from torch import Tensor

from camrobust.core.similarity.registry import chunks, similarity


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norm = torch.sqrt(a.square().sum(dim=-1) * b.square().sum(dim=-1))
    return ((a * b).sum(dim=-1) / norm).clamp(-1, 1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double(), b.double()
    return _cosine(a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True))


@similarity(
    "pearson", takes="positions", low=-1, high=1, same=1, unit="linear correlation of positions", source="Pearson 1895"
)
def pearson(clean: Tensor, noisy: Tensor) -> Tensor:
    """Linear correlation over positions, [-1, 1]: the cosine of the two maps minus their means."""
    return _correlation(clean, noisy)


def average_ranks(values: Tensor) -> Tensor:
    """Ascending ranks from 1, (…, n) float64; tied values share their mean rank."""
    ascending = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ascending, values.contiguous(), right=False)
    not_above = torch.searchsorted(ascending, values.contiguous(), right=True)
    return (below + not_above + 1).double() / 2


@similarity(
    "spearman", takes="positions", low=-1, high=1, same=1, unit="rank correlation of positions", source="Spearman 1904"
)
def spearman(clean: Tensor, noisy: Tensor) -> Tensor:
    """Rank correlation over positions, [-1, 1]: `pearson` of the ranks; tied values share their mean rank."""
    return _correlation(average_ranks(clean), average_ranks(noisy))


@similarity(
    "cosine", takes="positions", low=-1, high=1, same=1, unit="cosine of the angle between the maps",
    source="Salton & McGill 1983",
)  # fmt: skip
def cosine(clean: Tensor, noisy: Tensor) -> Tensor:
    """Cosine of the angle between the raw maps, [-1, 1]; unlike `pearson` it depends on an offset of the maps."""
    return _cosine(clean.double(), noisy.double())


@similarity(
    "kendall", takes="segments", low=-1, high=1, same=1, unit="rank correlation tau-b of segments",
    source="Kendall 1945",
)  # fmt: skip
def kendall(clean: Tensor, noisy: Tensor) -> Tensor:
    """Kendall's τ-b of the segments' scores, [-1, 1].

    (C - D)/√(P·Q), with C and D the numbers of segment pairs in the same and in the opposite order, P and Q the numbers
    of pairs that are not tied in the first and in the second list.
    """
    m = clean.shape[-1]
    return chunks(clean, noisy, _tau_b, 1, 3 * 4 * m * m)


def _tau_b(clean: Tensor, noisy: Tensor) -> Tensor:
    """τ-b of scores (N, m) and (N, m), (N,)."""
    a, b = (torch.sign(scores[:, :, None] - scores[:, None, :]) for scores in (clean, noisy))
    order = (a * b).sum(dim=(1, 2), dtype=torch.float64)
    untied = [signs.abs().sum(dim=(1, 2), dtype=torch.float64) for signs in (a, b)]
    return (order / torch.sqrt(untied[0] * untied[1])).clamp(-1, 1)
