"""Separable filters as matrices: one product per axis, whatever the width and the rule for the edges.

If a threshold or a cut to whole levels follows, a difference in the last place would become visible. `smooth_exactly`
therefore computes exact sums: values are multiples of 2**-24 below 8 and weights multiples of 2**-26, so that every
partial sum fits into the 53 bits of a float64. No order of summation, batch size or device can then change a bit.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

VALUE_BITS = 24
WEIGHT_BITS = 26
BLOCK = 32


def gaussian_weights(sigma: float, truncate: float = 4.0) -> np.ndarray:
    """Normal weights at -r … r, of sum 1, with r = truncate·σ rounded; equal to scipy's."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights: np.ndarray = np.exp(-0.5 * (offsets / sigma) ** 2) if radius else np.ones(1)
    return weights / math.fsum(weights)


def quantised(weights: np.ndarray, bits: int = WEIGHT_BITS) -> np.ndarray:
    """Weights rounded to multiples of 2**-bits, of sum exactly 1: the largest weight takes the remainder."""
    whole = np.round(weights * 2.0**bits)
    whole[np.argmax(whole)] += 2.0**bits - whole.sum()
    scaled: np.ndarray = whole / 2.0**bits
    return scaled


def continued(places: np.ndarray, size: int, edge: str) -> np.ndarray:
    """The pixel that stands for a place outside: the last one ("nearest"), or the mirrored one.

    "reflect" mirrors the picture at its edge, "mirror" at the centre of its last pixel.
    """
    if edge == "nearest":
        return places.clip(0, size - 1)
    period = 2 * size if edge == "reflect" else max(1, 2 * size - 2)
    folded = places % period
    last = period - 1 if edge == "reflect" else period
    inside: np.ndarray = np.where(folded < size, folded, last - folded)
    return inside


def band(weights: np.ndarray, size: int, edge: str) -> np.ndarray:
    """(size, size) float64: correlation with weights of odd length, as a matrix for column vectors."""
    radius = len(weights) // 2
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
        np.add.at(matrix, (rows, continued(rows + offset, size, edge)), weight)
    return matrix


@lru_cache(maxsize=64)
def gaussian_matrix(
    sigma: float, size: int, device: torch.device, edge: str = "nearest", truncate: float = 4.0, *, exact: bool = False
) -> Tensor:
    """A Gaussian filter as a (size, size) matrix: float32, or with `exact` float64 of multiples of 2**-26."""
    weights = gaussian_weights(sigma, truncate)
    matrix = torch.from_numpy(band(quantised(weights) if exact else weights, size, edge))
    return (matrix if exact else matrix.float()).to(device)


def mirrored(images: Tensor, reach: int) -> Tensor:
    """(B, C, H, W) with a frame of `reach` pixels, mirrored at the last pixel, repeatedly if the frame is wide."""
    H, W = images.shape[2:]
    if reach < min(H, W):
        return pad(images, (reach, reach, reach, reach), mode="reflect")
    rows, columns = (
        torch.from_numpy(continued(np.arange(-reach, side + reach), side, "mirror")).to(images.device)
        for side in (H, W)
    )
    return images[:, :, rows][..., columns]


@lru_cache(maxsize=64)
def _block(sigma: float, truncate: float, device: torch.device) -> Tensor:
    """(BLOCK + 2r, BLOCK) float64: the exact filter of one block, for row vectors."""
    weights = quantised(gaussian_weights(sigma, truncate))
    matrix = np.zeros((BLOCK + len(weights) - 1, BLOCK))
    for column in range(BLOCK):
        matrix[column : column + len(weights), column] = weights
    return torch.from_numpy(matrix).to(device)


def _by_blocks(planes: Tensor, sigma: float, truncate: float, edge: str) -> Tensor:
    """The exact filter along the last axis; cheaper than the whole matrix if the kernel is short."""
    matrix = _block(sigma, truncate, planes.device)
    size, reach = planes.shape[-1], (len(matrix) - BLOCK) // 2
    if edge == "nearest":
        before, after = (
            planes[..., place].expand(*planes.shape[:-1], reach) for place in (slice(0, 1), slice(-1, None))
        )
    else:
        before, after = planes[..., :reach].flip(-1), planes[..., size - reach :].flip(-1)
    blocks = -(-size // BLOCK)
    framed = pad(torch.cat((before, planes, after), dim=-1), (0, blocks * BLOCK - size))
    filtered = framed.unfold(-1, len(matrix), BLOCK).reshape(-1, len(matrix)) @ matrix
    return filtered.reshape(*planes.shape[:-1], -1)[..., :size]


def smooth(planes: Tensor, sigma: float, edge: str = "nearest") -> Tensor:
    """Gaussian filter in float32.

    Args:
        planes: (…, H, W) float32.
        sigma: standard deviation, px.
        edge: rule for places outside: nearest, reflect or mirror, as in `continued`.

    Returns:
        (…, H, W) float32.
    """
    H, W = planes.shape[-2:]
    across = planes @ gaussian_matrix(sigma, W, planes.device, edge).T
    return gaussian_matrix(sigma, H, planes.device, edge) @ across


def smooth_in_order(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian filter in float32 with sums in a fixed order, so that no batch changes a bit; for few taps.

    Args:
        planes: (B, C, H, W) float32; the last pixel continues beyond the edges.
        sigma: standard deviation, px.

    Returns:
        (B, C, H, W) float32.
    """
    weights = gaussian_weights(sigma).tolist()
    reach = len(weights) // 2
    for axis, frame in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        size, framed = planes.shape[axis], pad(planes, frame, mode="replicate")
        planes = framed.narrow(axis, reach, size) * weights[reach]
        for place in range(reach):
            pair = framed.narrow(axis, place, size) + framed.narrow(axis, 2 * reach - place, size)
            planes.add_(pair, alpha=weights[place])
    return planes


def smooth_exactly(
    planes: Tensor, sigma: float, edge: str = "nearest", truncate: float = 4.0, *, rounded: bool = False
) -> Tensor:
    """Gaussian filter with the same bits on every device and in every batch.

    Args:
        planes: (…, H, W), values below 8, rounded to multiples of 2**-24.
        sigma: standard deviation, px.
        edge: rule for places outside: nearest, reflect or mirror, as in `continued`.
        truncate: where the kernel is cut, standard deviations.
        rounded: the planes already hold such multiples.

    Returns:
        (…, H, W) float64, multiples of 2**-50.
    """
    H, W = planes.shape[-2:]
    planes = planes.double() if rounded else _rounded(planes.double())
    if edge in ("nearest", "reflect") and int(truncate * sigma + 0.5) <= min(BLOCK, H, W):
        across = _rounded(_by_blocks(planes, sigma, truncate, edge))
        return _by_blocks(across.transpose(-1, -2), sigma, truncate, edge).transpose(-1, -2)
    across = planes @ gaussian_matrix(sigma, W, planes.device, edge, truncate, exact=True).T
    return gaussian_matrix(sigma, H, planes.device, edge, truncate, exact=True) @ _rounded(across)


def _rounded(values: Tensor) -> Tensor:
    return (values * 2.0**VALUE_BITS).round_().mul_(2.0**-VALUE_BITS)
