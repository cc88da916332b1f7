"""Elastic transformation: a random affine map, then a random smooth displacement of every pixel."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import smooth_exactly
from camrobust.core.perturb.registry import check_streams, each, imagenet_c, within

SIDE = 244.0
"""What the published strengths are multiplied by; 224 was meant, and the published images hold 244."""
TRUNCATE = 3.0


@imagenet_c(
    "elastic_transform", parameter=("alpha", "sigma", "affine"), unit="× 244 px, × 244 px, × 244 px",
    severities=((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    family="digital", random=True,
    check=each(
        within("elastic_transform", "alpha", 0, 100, "× 244 px"),
        within("elastic_transform", "sigma", 0, 10, "× 244 px"),
        within("elastic_transform", "affine", 0, 0.25, "× 244 px"),
    ),
)  # fmt: skip
def elastic_transform(images: Tensor, alpha: float, sigma: float, affine: float, draws: Draws) -> Tensor:
    """Three points of the picture moved at random, then every pixel displaced by smoothed uniform noise.

    The original ImageNet-C's; imagecorruptions has another transformation of that name. Deviation: the affine map
    interpolates at exact places, OpenCV at the time at places rounded to 1/32 px.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        alpha: amplitude of the noise before it is smoothed, times 244 px.
        sigma: standard deviation of the smoothing, times 244 px.
        affine: farthest move of the three points on each axis, times 244 px.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Elastic"; Simard, Steinkraus, Platt 2003.
    """
    check_streams("elastic_transform", images, draws)
    H, W = images.shape[2:]
    moves = (draws.uniform((3, 2)).double().cpu().numpy() * 2 - 1) * (affine * SIDE)
    backwards = torch.from_numpy(np.stack([inverse_map(H, W, move) for move in moves])).to(images.device)
    x, y = (torch.arange(side, dtype=torch.float64, device=images.device) for side in (W, H))
    grid = torch.empty(len(images), H, W, 2, device=images.device)
    # Scaled to -1 … 1, first and last pixel, as grid_sample wants it with align_corners.
    for axis, side in enumerate((W, H)):
        row = backwards[:, axis] * (2 / (side - 1))
        grid[..., axis] = (row[:, :1] * x)[:, None, :] + (row[:, 1:2] * y + (row[:, 2:] - 1))[:, :, None]
    mapped = grid_sample(images, grid, "bilinear", "reflection", align_corners=True)
    field = draws.uniform((2, H, W)).to(images.device).double().mul_(2).sub_(1)
    moved = smooth_exactly(field, sigma * SIDE, "reflect", TRUNCATE, rounded=True)
    # Scaled to the outer edges of the picture, as without align_corners.
    for axis, (side, base) in enumerate(((W, x[None, :]), (H, y[:, None]))):
        grid[..., axis] = moved[:, axis] * (alpha * SIDE * 2 / side) + ((base * 2 + 1) / side - 1)
    return grid_sample(mapped, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)


def inverse_map(H: int, W: int, move: np.ndarray) -> np.ndarray:
    """Where a pixel of the result comes from, when three points of the picture move.

    Args:
        H: height, px.
        W: width, px.
        move: (3, 2) displacement (x, y) of the points, px.

    Returns:
        (2, 3) float64: (x, y) before = matrix · (x, y, 1) after.
    """
    centre, reach = np.array([H // 2, W // 2], dtype=np.float64), min(H, W) // 3
    corners = np.array([[1, 1], [1, -1], [-1, -1]], dtype=np.float64)
    points = (centre + corners * reach).astype(np.float32)
    after = (points + move.astype(np.float32)).astype(np.float64)
    matrix: np.ndarray = np.linalg.solve(np.column_stack((after, np.ones(3))), points.astype(np.float64)).T
    return matrix
