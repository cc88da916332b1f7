"""Similarity of two low-resolution maps, beside rank-biased overlap.

Every function takes maps with their positions flattened, (…, n) twice with leading dimensions that broadcast, and
returns (…), NaN where a map is constant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.registry import Registry

Function = Callable[[Tensor, Tensor], Tensor]
FLAT = 1e-6
TOP_SHARE = 0.2


@dataclass(frozen=True)
class Similarity:
    """A similarity measure with its facts.

    Attributes:
        name: as it stands in the results.
        function: (clean (…, n), noisy (…, n)) to (…).
        low: least value.
        high: largest value.
        same: what two equal maps give.
        unit: of the value.
        source: where it is defined.
    """

    name: str
    function: Function
    low: float
    high: float
    same: float
    unit: str
    source: str


SIMILARITIES: Registry[Similarity] = Registry("similarity")


def similarity(
    name: str, *, low: float, high: float, same: float, unit: str, source: str
) -> Callable[[Function], Function]:
    """Register a function of two flattened maps; arguments as in `Similarity`."""

    def register(function: Function) -> Function:
        SIMILARITIES.add(Similarity(name, function, low, high, same, unit, source))
        return function

    return register


def flat(values: Tensor) -> Tensor:
    """Constant up to rounding along the last dimension: max - min is at most 1e-6 of the largest magnitude.

    A map that is mathematically constant must not be ranked by its rounding errors.
    """
    spread = values.amax(dim=-1) - values.amin(dim=-1)
    return spread <= FLAT * values.abs().amax(dim=-1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double(), b.double()
    a, b = a - a.mean(dim=-1, keepdim=True), b - b.mean(dim=-1, keepdim=True)
    norm = torch.sqrt(a.square().sum(dim=-1) * b.square().sum(dim=-1))
    return ((a * b).sum(dim=-1) / norm).clamp(-1, 1)


def _undefined_where_flat(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(flat(a) | flat(b), torch.nan, value)


@similarity("pearson", low=-1, high=1, same=1, unit="linear correlation", source="Pearson 1895")
def pearson(clean: Tensor, noisy: Tensor) -> Tensor:
    """Linear correlation over positions, [-1, 1]."""
    return _undefined_where_flat(_correlation(clean, noisy), clean, noisy)


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, ascending, ties share their mean rank; (…, n) float64."""
    ascending = values.sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ascending, values.contiguous(), right=False)
    not_above = torch.searchsorted(ascending, values.contiguous(), right=True)
    return (below + not_above + 1).double() / 2


@similarity("spearman", low=-1, high=1, same=1, unit="rank correlation", source="Spearman 1904")
def spearman(clean: Tensor, noisy: Tensor) -> Tensor:
    """Rank correlation over positions, [-1, 1]; ties share their mean rank."""
    return _undefined_where_flat(_correlation(average_ranks(clean), average_ranks(noisy)), clean, noisy)


def _shares(values: Tensor) -> Tensor:
    """Min-max scaled and divided by their sum."""
    shifted = values.double() - values.amin(dim=-1, keepdim=True).double()
    return shifted / shifted.sum(dim=-1, keepdim=True)


@similarity("l1", low=0, high=1, same=0, unit="share of the mass that moved", source="total variation distance")
def l1(clean: Tensor, noisy: Tensor) -> Tensor:
    """½·Σ|a/Σa - b/Σb| of the min-max scaled maps: the share of the map's mass that moved, [0, 1]."""
    return _undefined_where_flat((_shares(clean) - _shares(noisy)).abs().sum(dim=-1) / 2, clean, noisy)


def _membership(values: Tensor, k: int) -> Tensor:
    """How far each position belongs to the top k: those tied at the threshold share the places that are left."""
    threshold = values.topk(k, dim=-1).values[..., -1:]
    above, tied = values > threshold, values == threshold
    left = k - above.sum(dim=-1, keepdim=True)
    return above.double() + tied.double() * left / tied.sum(dim=-1, keepdim=True)


@similarity("topk_iou", low=0, high=1, same=1, unit="intersection over union of the top 20 %", source="camrobust")
def topk_iou(clean: Tensor, noisy: Tensor) -> Tensor:
    """Overlap of the strongest ⌈0.2·n⌉ positions: Σmin/Σmax of memberships in [0, 1].

    Positions tied at the threshold share the remaining places equally, so that no order of equal values is made up.
    """
    k = math.ceil(TOP_SHARE * clean.shape[-1])
    a, b = torch.broadcast_tensors(_membership(clean, k), _membership(noisy, k))
    iou = torch.minimum(a, b).sum(dim=-1) / torch.maximum(a, b).sum(dim=-1)
    return _undefined_where_flat(iou, clean, noisy)
