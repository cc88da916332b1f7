"""Measures of a map's picture or shape. They cost more than the others and are measured on demand."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.core.similarity.catalogue import chunks, similarity, undefined_where_flat

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def _window(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): row i averages 11 neighbours by a Gaussian, only where the window fits."""
    steps = torch.arange(WINDOW, device=like.device, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(steps**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    rows = torch.arange(size - WINDOW + 1, device=like.device)
    matrix = torch.zeros(len(rows), size, device=like.device, dtype=torch.float64)
    places = rows[:, None] + torch.arange(WINDOW, device=like.device)
    return matrix.scatter_(1, places, weights.expand(len(rows), WINDOW)).float()


def _scaled(maps: Tensor) -> Tensor:
    """Min-max scaled, (…, h, w) float32."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return ((maps - low) / (high - low)).float()


@similarity(
    "ssim", takes="grid", low=-1, high=1, same=1, unit="structural similarity at the image's size",
    source="Wang et al. 2004", default=False,
)  # fmt: skip
def ssim(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean structural similarity of the maps as pictures, [-1, 1].

    Each map is min-max scaled and enlarged bilinearly (align_corners=False) to the image; Gaussian window of 11 px with
    σ = 1.5 px, K = (0.01, 0.03), data range 1, averaged over the places where the window fits. NaN where the image is
    smaller than the window.
    """
    if min(size) < WINDOW:
        return torch.full_like(clean[..., 0, 0] + noisy[..., 0, 0], torch.nan)
    down, across = _window(size[0], clean), _window(size[1], clean)

    def pictures(one: Tensor, other: Tensor) -> Tensor:
        a, b = (interpolate(side[:, None], size, mode="bilinear", align_corners=False)[:, 0] for side in (one, other))
        mean_a, mean_b, aa, bb, ab = (down @ picture @ across.T for picture in (a, b, a * a, b * b, a * b))
        var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
        above = (2 * mean_a * mean_b + C1) * (2 * cov + C2)
        below = (mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2)
        return (above / below).mean(dim=(1, 2))

    found = chunks(_scaled(clean), _scaled(noisy), pictures, 2, 12 * 4 * size[0] * size[1])
    return undefined_where_flat(found.clamp(-1, 1), clean.flatten(-2), noisy.flatten(-2))


def _standardised(maps: Tensor) -> Tensor:
    """Rows as points: their mean at 0, their norm 1; all 0 where every row is the same."""
    centred = torch.nan_to_num(maps.double(), nan=0.0, posinf=0.0, neginf=0.0)
    centred = centred - centred.mean(dim=-2, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
    small = norm <= 1e-12 * maps.abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(small, 0.0, centred / norm)


@similarity(
    "procrustes", takes="grid", low=0, high=1, same=0, unit="share of the variance that no rotation explains",
    source="Gower 1975", default=False,
)  # fmt: skip
def procrustes(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG001 - a grid measure's form
    """Procrustes disparity of the maps, their h rows taken as points in w dimensions, [0, 1].

    What is left of the squared distance after the best shift, scale and rotation (or reflection) of the points. NaN
    where all rows of a map are the same, for then there are no points to fit.
    """
    a, b = _standardised(clean), _standardised(noisy)
    explained = torch.linalg.svdvals(a.mT @ b).sum(dim=-1)
    disparity = (1 - explained**2).clamp(0, 1)
    empty = (a == 0).all(dim=-1).all(dim=-1) | (b == 0).all(dim=-1).all(dim=-1)
    return undefined_where_flat(torch.where(empty, torch.nan, disparity), clean.flatten(-2), noisy.flatten(-2))
