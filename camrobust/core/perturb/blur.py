"""Perturbations that smooth; deterministic."""

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from camrobust.core.perturb.catalogue import perturbation, within

TRUNCATE = 4.0
"""Radius of a Gaussian kernel in standard deviations, as in scipy and scikit-image."""


@perturbation(
    "gaussian_blur", parameter="sigma", unit="px", severities=(1, 2, 3, 4, 6), family="blur",
    check=within("gaussian_blur", "sigma", 0, 100, "px"),
)  # fmt: skip
def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, separable, edges continued by their last pixel, kernel cut at 4σ.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        sigma: standard deviation, px.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261; equals `skimage.filters.gaussian(mode="nearest")`.
    """
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return images.clone()
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / math.fsum(kernel.tolist())).float().to(images.device)
    planes = images.flatten(0, 1)[:, None]
    down = conv2d(pad(planes, (0, 0, radius, radius), mode="replicate"), kernel[None, None, :, None])
    across = conv2d(pad(down, (radius, radius, 0, 0), mode="replicate"), kernel[None, None, None, :])
    return across[:, 0].reshape(images.shape).clamp(0, 1)
