"""Measures of the position of a map's mass. The map minus its minimum, divided by its sum, is a distribution."""

import math

import torch
from torch import Tensor

from camrobust.core.similarity.registry import similarity

TOP_SHARE = 0.2
"""Share of the positions that `topk_iou` compares."""


def _shares(values: Tensor) -> Tensor:
    """Values (…, n) minus their minimum, divided by their sum, float64."""
    shifted = values.double() - values.amin(dim=-1, keepdim=True).double()
    return shifted / shifted.sum(dim=-1, keepdim=True)


@similarity(
    "l1", takes="positions", low=0, high=1, same=0, unit="share of the mass that moved",
    source="total variation distance",
)  # fmt: skip
def l1(clean: Tensor, noisy: Tensor) -> Tensor:
    """½·Σ|a/Σa - b/Σb| of the maps minus their minima: the share of the mass that moved, [0, 1]."""
    return (_shares(clean) - _shares(noisy)).abs().sum(dim=-1) / 2


@similarity("js", takes="positions", low=0, high=1, same=0, unit="√bit", source="Endres & Schindelin 2003")
def js(clean: Tensor, noisy: Tensor) -> Tensor:
    """Jensen-Shannon distance √(H((a+b)/2) - (H(a) + H(b))/2) of the mass distributions, base 2, [0, 1]."""
    a, b = _shares(clean), _shares(noisy)
    middle = (a + b) / 2
    bits = ((torch.xlogy(a, a) + torch.xlogy(b, b)) / 2 - torch.xlogy(middle, middle)).sum(dim=-1) / math.log(2)
    return bits.clamp(0, 1).sqrt()


def _membership(values: Tensor, k: int) -> Tensor:
    """Membership of each position in the top k, [0, 1]; positions tied at the threshold share the remaining places."""
    threshold = values.topk(k, dim=-1).values[..., -1:]
    above, tied = values > threshold, values == threshold
    left = k - above.sum(dim=-1, keepdim=True)
    return above.double() + tied.double() * left / tied.sum(dim=-1, keepdim=True)


@similarity(
    "topk_iou", takes="positions", low=0, high=1, same=1, unit="intersection over union of the top 20 %",
    source="camrobust",
)  # fmt: skip
def topk_iou(clean: Tensor, noisy: Tensor) -> Tensor:
    """Overlap of the strongest ⌈0.2·n⌉ positions: Σmin/Σmax of memberships in [0, 1].

    Positions tied at the threshold share the remaining places equally, so that equal values are treated alike.
    """
    k = math.ceil(TOP_SHARE * clean.shape[-1])
    a, b = torch.broadcast_tensors(_membership(clean, k), _membership(noisy, k))
    return torch.minimum(a, b).sum(dim=-1) / torch.maximum(a, b).sum(dim=-1)


def _centre(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Centre of mass (y, x) of maps (…, h, w) in an image of H × W px, (…, 2) px."""
    shares = _shares(maps.flatten(-2)).reshape(maps.shape)
    y, x = (
        (torch.arange(cells, device=maps.device, dtype=torch.float64) + 0.5) / cells * side
        for cells, side in zip(maps.shape[-2:], size, strict=True)
    )
    return torch.stack([(shares.sum(dim=-1) * y).sum(dim=-1), (shares.sum(dim=-2) * x).sum(dim=-1)], dim=-1)


@similarity("com_shift", takes="grid", low=0, high=1, same=0, unit="share of the image's diagonal", source="camrobust")
def com_shift(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:
    """Shift of the centre of mass of the map minus its minimum, as a share of the image's diagonal, [0, 1]."""
    moved: Tensor = torch.linalg.vector_norm(_centre(clean, size) - _centre(noisy, size), dim=-1)
    return moved / math.hypot(*size)
