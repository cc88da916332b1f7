"""Deterministic blurs that smooth every part of the image in the same way."""

import math
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from camrobust.contract.parameters import Parameter
from camrobust.core.perturb.filters import band, mirrored, smooth
from camrobust.core.perturb.registry import imagenet_c

SMALL_DISK = 8
"""Disks up to this radius (px) have a kernel 17 px wide and a rim softened over 3 px; larger ones over 5 px."""


@imagenet_c(family="blur", severities=(1, 2, 3, 4, 6))
def gaussian_blur(images: Tensor, sigma: Annotated[float, Parameter(0, 100, "px", "standard deviation")]) -> Tensor:
    """Separable Gaussian blur with its kernel cut at 4σ; the last pixel continues beyond the edges.

    Equals `skimage.filters.gaussian(mode="nearest")`.
    """
    return smooth(images, sigma).clamp(0, 1)


def disk(radius: int, alias: float) -> np.ndarray:
    """The published out-of-focus kernel: a disk with a rim softened by a small Gaussian, (k, k) float64 of sum 1.

    The Gaussian mirrors the disk at the border of the kernel; disks of 8 px or more touch that border.
    """
    reach = max(radius, SMALL_DISK)
    offsets = np.arange(-reach, reach + 1)
    inside = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).astype(np.float64)
    taps = np.arange(3 if radius <= SMALL_DISK else 5)
    weights = np.exp(-0.5 * ((taps - len(taps) // 2) / alias) ** 2)
    rim = band(weights / weights.sum(), len(offsets), "mirror")
    softened: np.ndarray = rim @ (inside / inside.sum()) @ rim.T
    return softened


@lru_cache(maxsize=16)
def _disk_spectrum(radius: int, alias: float, height: int, width: int, device: torch.device) -> Tensor:
    """The Fourier transform of the disk on a (height, width) canvas, centred on the first pixel."""
    kernel = disk(radius, alias)
    reach = len(kernel) // 2
    canvas = np.zeros((height, width))
    canvas[: len(kernel), : len(kernel)] = kernel
    spectrum: Tensor = torch.fft.rfft2(torch.from_numpy(np.roll(canvas, (-reach, -reach), (0, 1))))
    return spectrum.to(torch.complex64).to(device)


@imagenet_c(family="blur", severities=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)))
def defocus_blur(
    images: Tensor,
    radius: Annotated[int, Parameter(1, 50, "px", "radius of the disk")],
    alias: Annotated[float, Parameter(0.01, 10, "px", "standard deviation of the rim's softening")],
) -> Tensor:
    """Out of focus: the mean over a disk with a soft rim; the picture is mirrored at its last pixel.

    Computed by the Fourier transform in float32, within 1e-6 of the direct sum over the disk.
    """
    from scipy.fft import next_fast_len  # Slow to import, and only this perturbation needs it

    H, W = images.shape[2:]
    reach = max(radius, SMALL_DISK)
    framed = mirrored(images, reach)
    size = [next_fast_len(side, real=True) for side in framed.shape[2:]]
    spectrum = torch.fft.rfft2(framed, s=size) * _disk_spectrum(radius, alias, *size, images.device)
    blurred: Tensor = torch.fft.irfft2(spectrum, s=size)
    return blurred[..., reach : reach + H, reach : reach + W].clamp(0, 1)


def clipped_zoom(images: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """The centre of a picture, enlarged linearly to a size; corner pixels stay in the corners.

    Rows, then columns, are enlarged by plain products and sums. torch's own interpolation chooses its kernel, and
    with it the last bits, by the number of images and threads.

    Args:
        images: (B, C, h, w), the centre alone; `zoom_crop` gives its sides.
        factor: of the enlargement.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W), column by column in memory.
    """
    return _stretched(_stretched(images, factor, size[0]).mT.contiguous(), factor, size[1]).mT


def _stretched(images: Tensor, factor: float, wanted: int) -> Tensor:
    """The middle `wanted` rows of the picture after its rows are enlarged."""
    side = images.shape[-2]
    grown = round(side * factor)
    rows = torch.arange(wanted, dtype=torch.float64, device=images.device) + (grown - wanted) // 2
    at = rows * ((side - 1) / max(1, grown - 1))
    low = at.floor().clamp(max=max(0, side - 2)).long()
    share = (at - low).to(images.dtype)[:, None]
    above, below = images.index_select(-2, low), images.index_select(-2, (low + 1).clamp(max=side - 1))
    return above.mul_(1 - share).add_(below.mul_(share))


def zoom_crop(side: int, factor: float) -> int:
    """How many pixels of a side remain visible at a zoom factor."""
    return math.ceil(side / factor)


@imagenet_c(family="blur", severities=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)))
def zoom_blur(
    images: Tensor,
    stop: Annotated[float, Parameter(1, 4, "×", "upper end of the enlargements")],
    step: Annotated[float, Parameter(0.001, 3, "×", "between two enlargements")],
) -> Tensor:
    """The mean of a picture and its enlargements by 1, 1 + step, … below `stop`, counted as in `numpy.arange`."""
    H, W = images.shape[2:]
    factors = np.arange(1, stop, step).tolist()
    # Transposed, like the enlarged pictures.
    total = images.mT.clone(memory_format=torch.contiguous_format)
    for factor in factors:
        h, w = zoom_crop(H, factor), zoom_crop(W, factor)
        top, left = (H - h) // 2, (W - w) // 2
        total += clipped_zoom(images[..., top : top + h, left : left + w], factor, (H, W)).mT
    return total.mT.div(len(factors) + 1).clamp_(0, 1).contiguous()
