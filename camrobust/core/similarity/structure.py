"""Measures of a map as a picture or a shape. They cost more than the others and are measured on demand."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.core.scaling import min_max
from camrobust.core.similarity.registry import chunks, similarity

WINDOW = 11
"""Side of the Gaussian window of SSIM, px."""
SIGMA = 1.5
"""Standard deviation of the window, px."""
C1, C2 = 0.01**2, 0.03**2
"""The constants (K·L)² of SSIM, with data range L = 1."""


def _window(size: int, like: Tensor) -> Tensor:
    """(size - 10, size): row i holds the window's weights of 11 neighbouring pixels, where the window fits."""
    steps = torch.arange(WINDOW, device=like.device, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(steps**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    rows = torch.arange(size - WINDOW + 1, device=like.device)
    matrix = torch.zeros(len(rows), size, device=like.device, dtype=torch.float64)
    places = rows[:, None] + torch.arange(WINDOW, device=like.device)
    return matrix.scatter_(1, places, weights.expand(len(rows), WINDOW))


def _filters(cells: int, size: int, like: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Matrices from low-resolution maps to the window's mean of the enlarged map, and of products of two such maps.

    A pixel of the enlarged map mixes two neighbouring cells. The product of two enlarged maps is therefore a sum over
    pairs of equal or neighbouring cells, and its mean follows from the low-resolution maps alone.

    Returns:
        (size - 10, cells) for a map, (size - 10, q) for a product, and the two cells of each of the q pairs.
    """
    eye = torch.eye(cells, device=like.device, dtype=torch.float64)
    enlarge = interpolate(eye[None], size, mode="linear", align_corners=False)[0].T
    number = torch.arange(cells, device=like.device)
    first, second = torch.where((number[:, None] - number).abs() <= 1)
    window = _window(size, like)
    return (window @ enlarge).float(), (window @ (enlarge[:, first] * enlarge[:, second])).float(), (first, second)


@similarity(
    "ssim", takes="grid", low=-1, high=1, same=1, unit="structural similarity at the image's size",
    source="Wang et al. 2004", default=False,
)  # fmt: skip
def ssim(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean structural similarity of the maps as pictures, [-1, 1].

    Each map is min-max scaled and enlarged bilinearly (align_corners=False) to the image. The window is a Gaussian of
    11 px with σ = 1.5 px, K = (0.01, 0.03), the data range is 1. The mean is taken over the pixels where the window
    fits; NaN if the image is smaller than the window.
    """
    if min(size) < WINDOW:
        return torch.full_like(clean[..., 0, 0] + noisy[..., 0, 0], torch.nan)
    down, down_pairs, rows = _filters(clean.shape[-2], size[0], clean)
    across, across_pairs, columns = _filters(clean.shape[-1], size[1], clean)

    def product(a: Tensor, b: Tensor) -> Tensor:
        """The window's mean of the product of two enlarged maps."""
        cells = a[:, rows[0]][:, :, columns[0]] * b[:, rows[1]][:, :, columns[1]]
        return down_pairs @ cells @ across_pairs.T

    def ssim_of(a: Tensor, b: Tensor) -> Tensor:
        mean_a, mean_b = (down @ side @ across.T for side in (a, b))
        var_a, var_b, cov = product(a, a) - mean_a**2, product(b, b) - mean_b**2, product(a, b) - mean_a * mean_b
        above = (2 * mean_a * mean_b + C1) * (2 * cov + C2)
        below = (mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2)
        return (above / below).mean(dim=(1, 2))

    clean, noisy = (min_max(maps, (-2, -1)).float() for maps in (clean, noisy))
    return chunks(clean, noisy, ssim_of, 2, 12 * 4 * size[0] * size[1]).clamp(-1, 1)


def _standardised(maps: Tensor) -> Tensor:
    """The rows of maps as points, shifted to mean 0 and scaled to norm 1; all 0 if all rows are equal."""
    centred = torch.nan_to_num(maps.double(), nan=0.0, posinf=0.0, neginf=0.0)
    largest = centred.abs().amax(dim=(-2, -1), keepdim=True)
    centred = centred - centred.mean(dim=-2, keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True)
    # A map whose numbers are all undefined gets here, too, and must not reach the decomposition as NaN.
    return torch.where(norm <= 1e-12 * largest, 0.0, centred / norm.clamp(min=torch.finfo(norm.dtype).tiny))


@similarity(
    "procrustes", takes="grid", low=0, high=1, same=0, unit="share of the variance that no rotation explains",
    source="Gower 1975", default=False,
)  # fmt: skip
def procrustes(clean: Tensor, noisy: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG001 - a grid measure's form
    """Procrustes disparity of the maps, with their h rows as points in w dimensions, [0, 1].

    1 - (Σσ)², σ the singular values of XᵀY of the standardised points: the squared distance that remains after the best
    shift, scaling and rotation (or reflection). NaN if all rows of a map are equal.
    """
    a, b = _standardised(clean), _standardised(noisy)
    explained = torch.linalg.svdvals(a.mT @ b).sum(dim=-1)
    disparity = (1 - explained**2).clamp(0, 1)
    empty = (a == 0).all(dim=-1).all(dim=-1) | (b == 0).all(dim=-1).all(dim=-1)
    return torch.where(empty, torch.nan, disparity)
