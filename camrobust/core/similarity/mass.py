"""Measures of the position of a map's mass. The map minus its minimum, divided by its sum, is a distribution."""

import math

import torch
from torch import Tensor

from camrobust.core.similarity.pair import MapPair
from camrobust.core.similarity.registry import similarity

TOP_SHARE = 0.2
"""Share of the positions that `topk_iou` compares."""


def _l1_of(pair: MapPair) -> Tensor:
    moved: Tensor = torch.linalg.vector_norm(pair.moved_shares, ord=1, dim=-1)
    return moved.div_(2)


@similarity(
    "l1", takes="positions", low=0, high=1, same=0, unit="share of the mass that moved",
    source="total variation distance", shared=_l1_of,
)  # fmt: skip
def l1(clean: Tensor, noisy: Tensor) -> Tensor:
    """½·Σ|a/Σa - b/Σb| of the maps minus their minima: the share of the mass that moved, [0, 1]."""
    return _l1_of(MapPair.of(clean, noisy))


def _js_of(pair: MapPair) -> Tensor:
    middle = pair.shares.mean(dim=0)
    apart = torch.xlogy(pair.shares, pair.shares).mean(dim=0)
    bits = apart.sub_(torch.xlogy(middle, middle)).sum(dim=-1).div_(math.log(2))
    return bits.clamp_(0, 1).sqrt_()


@similarity(
    "js", takes="positions", low=0, high=1, same=0, unit="√bit", source="Endres & Schindelin 2003", shared=_js_of
)
def js(clean: Tensor, noisy: Tensor) -> Tensor:
    """Jensen-Shannon distance √(H((a+b)/2) - (H(a) + H(b))/2) of the mass distributions, base 2, [0, 1]."""
    return _js_of(MapPair.of(clean, noisy))


def _topk_iou_of(pair: MapPair) -> Tensor:
    k = math.ceil(TOP_SHARE * pair.n)
    first, last = pair.groups
    # Of a group of tied values, the part before rank k is in the top k.
    members = (k - first).double().div_(last - first + 1).clamp_(0, 1)
    shared = members.amin(dim=0).sum(dim=-1)
    return shared / (2 * k - shared)


@similarity(
    "topk_iou", takes="positions", low=0, high=1, same=1, unit="intersection over union of the top 20 %",
    source="camrobust", shared=_topk_iou_of,
)  # fmt: skip
def topk_iou(clean: Tensor, noisy: Tensor) -> Tensor:
    """Overlap of the strongest ⌈0.2·n⌉ positions: Σmin/Σmax of memberships in [0, 1].

    Positions tied at the threshold share the remaining places equally, so that equal values are treated alike. Both
    memberships sum to k, so Σmax = 2k - Σmin.
    """
    return _topk_iou_of(MapPair.of(clean, noisy))


def _middles(cells: int, side: int, like: Tensor) -> Tensor:
    """The middles of the cells along a side of the image, (cells,) px."""
    return torch.arange(0.5, cells, device=like.device, dtype=torch.float64).mul_(side / cells)


def _com_shift_of(pair: MapPair, cells: tuple[int, int], size: tuple[int, int]) -> Tensor:
    moved = pair.moved_shares.unflatten(-1, cells)
    down = (moved.sum(dim=-1) * _middles(cells[0], size[0], moved)).sum(dim=-1)
    across = (moved.sum(dim=-2) * _middles(cells[1], size[1], moved)).sum(dim=-1)
    return torch.hypot(down, across).div_(math.hypot(*size))


@similarity(
    "com_shift", takes="grid", low=0, high=1, same=0, unit="share of the image's diagonal", source="camrobust",
    shared=_com_shift_of,
)  # fmt: skip
def com_shift(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:
    """Shift of the centre of mass of the map minus its minimum, as a share of the image's diagonal, [0, 1]."""
    h, w = clean.shape[-2:]
    return _com_shift_of(MapPair.of(clean.flatten(-2), noisy.flatten(-2)), (h, w), size)
