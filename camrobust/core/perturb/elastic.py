"""Elastic transform: a random affine map, then a smooth random displacement of every pixel."""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import smooth_exactly
from camrobust.core.perturb.registry import imagenet_c

SIDE = 244.0
"""Factor of the published strengths. The authors meant 224, but the published images were made with 244."""
TRUNCATE = 3.0


@imagenet_c(
    family="digital",
    severities=((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
def elastic_transform(
    images: Tensor,
    alpha: Annotated[float, Parameter(0, 100, "× 244 px", "amplitude of the displacement before smoothing")],
    sigma: Annotated[float, Parameter(0, 10, "× 244 px", "standard deviation of the smoothing")],
    affine: Annotated[float, Parameter(0, 0.25, "× 244 px", "farthest move of the affine map's points on each axis")],
    draws: Draws,
) -> Tensor:
    """Move three points of the picture at random, then displace every pixel by smoothed uniform noise.

    This is the transform of the original ImageNet-C; imagecorruptions has another one of the same name. Deviation: the
    affine map interpolates at exact places, while the OpenCV of that time rounded places to 1/32 px.

    References:
        Simard, Steinkraus, Platt 2003, "Best practices for convolutional neural networks".
    """
    H, W = images.shape[2:]
    moves = (draws.uniform((3, 2)).double().cpu().numpy() * 2 - 1) * (affine * SIDE)
    backwards = torch.from_numpy(np.stack([inverse_map(H, W, move) for move in moves])).to(images.device)
    x, y = (torch.arange(side, dtype=torch.float64, device=images.device) for side in (W, H))
    grid = torch.empty(len(images), H, W, 2, device=images.device)
    # With align_corners, -1 and 1 are the centres of the first and the last pixel.
    for axis, side in enumerate((W, H)):
        row = backwards[:, axis] * (2 / (side - 1))
        grid[..., axis] = (row[:, :1] * x)[:, None, :] + (row[:, 1:2] * y + (row[:, 2:] - 1))[:, :, None]
    mapped = grid_sample(images, grid, "bilinear", "reflection", align_corners=True)
    field = draws.uniform((2, H, W)).to(images.device).double().mul_(2).sub_(1)
    moved = smooth_exactly(field, sigma * SIDE, "reflect", TRUNCATE, rounded=True)
    # Without align_corners, -1 and 1 are the outer edges of the picture.
    for axis, (side, base) in enumerate(((W, x[None, :]), (H, y[:, None]))):
        grid[..., axis] = moved[:, axis] * (alpha * SIDE * 2 / side) + ((base * 2 + 1) / side - 1)
    return grid_sample(mapped, grid, "bilinear", "reflection", align_corners=False).clamp(0, 1)


def inverse_map(H: int, W: int, move: np.ndarray) -> np.ndarray:
    """The affine map that undoes a move of three points.

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
