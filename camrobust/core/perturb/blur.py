"""Perturbations that smooth in the same way everywhere; deterministic."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from camrobust.core.perturb.filters import band, mirrored, smooth
from camrobust.core.perturb.registry import each, imagenet_c, whole, within

SMALL_DISK = 8
"""Radius, px, up to which the published kernel is 17 px wide and its rim is softened over 3 px, else over 5 px."""


@imagenet_c(
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
    return smooth(images, sigma).clamp(0, 1)


def disk(radius: int, alias: float) -> np.ndarray:
    """The published out-of-focus kernel: a disk whose rim a small Gaussian softens, (k, k) float64 with sum 1.

    The Gaussian sees the disk mirrored at the border of the kernel, which a radius of 8 px or more touches.
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
    """Its Fourier transform on a (height, width) canvas, centred on the first pixel."""
    kernel = disk(radius, alias)
    reach = len(kernel) // 2
    canvas = np.zeros((height, width))
    canvas[: len(kernel), : len(kernel)] = kernel
    spectrum: Tensor = torch.fft.rfft2(torch.from_numpy(np.roll(canvas, (-reach, -reach), (0, 1))))
    return spectrum.to(torch.complex64).to(device)


@imagenet_c(
    "defocus_blur", parameter=("radius", "alias"), unit="px, px",
    severities=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)), family="blur",
    check=each(whole("defocus_blur", "radius", 1, 50, "px"), within("defocus_blur", "alias", 0.01, 10, "px")),
)  # fmt: skip
def defocus_blur(images: Tensor, radius: float, alias: float) -> Tensor:
    """Out of focus: averaged over a disk with a soft rim, the picture mirrored at its last pixel.

    By the Fourier transform, in float32: within 1e-6 of the sum over the disk.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        radius: of the disk, px.
        alias: standard deviation of what softens its rim, px.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Defocus blur".
    """
    H, W = images.shape[2:]
    reach = max(int(radius), SMALL_DISK)
    framed = mirrored(images, reach)
    size = [_smooth_length(side) for side in framed.shape[2:]]
    spectrum = torch.fft.rfft2(framed, s=size) * _disk_spectrum(int(radius), alias, *size, images.device)
    blurred: Tensor = torch.fft.irfft2(spectrum, s=size)
    return blurred[..., reach : reach + H, reach : reach + W].clamp(0, 1)


def _smooth_length(least: int) -> int:
    """The next length with no prime factor above 5, at which the transform is fast."""
    length = least
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def clipped_zoom(images: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """The centre of a picture enlarged linearly, corner pixels onto corner pixels, to fill a size.

    By plain products and sums of rows, then of columns: torch's own interpolation chooses its kernel, and so the last
    bits, by how many images and threads there are.

    Args:
        images: (B, C, h, w), the centre itself: `zoom_crop` says how large it must be.
        factor: of the enlargement.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W), its columns side by side in memory.
    """
    return _stretched(_stretched(images, factor, size[0]).mT.contiguous(), factor, size[1]).mT


def _stretched(images: Tensor, factor: float, wanted: int) -> Tensor:
    """As many rows as wanted from the middle of the picture with its rows enlarged."""
    side = images.shape[-2]
    grown = round(side * factor)
    rows = torch.arange(wanted, dtype=torch.float64, device=images.device) + (grown - wanted) // 2
    at = rows * ((side - 1) / max(1, grown - 1))
    low = at.floor().clamp(max=max(0, side - 2)).long()
    share = (at - low).to(images.dtype)[:, None]
    above, below = images.index_select(-2, low), images.index_select(-2, (low + 1).clamp(max=side - 1))
    return above.mul_(1 - share).add_(below.mul_(share))


def zoom_crop(side: int, factor: float) -> int:
    """How many pixels of a side are seen at a factor."""
    return math.ceil(side / factor)


@imagenet_c(
    "zoom_blur", parameter=("stop", "step"), unit="×, ×",
    severities=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)), family="blur",
    check=each(within("zoom_blur", "stop", 1, 4, "×"), within("zoom_blur", "step", 0.001, 3, "×")),
)  # fmt: skip
def zoom_blur(images: Tensor, stop: float, step: float) -> Tensor:
    """The mean of a picture and of its enlargements by 1, 1 + step, … below `stop` (as numpy's arange counts).

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        stop: where the factors end.
        step: between two factors.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Zoom blur".
    """
    H, W = images.shape[2:]
    factors = np.arange(1, stop, step).tolist()
    # Transposed, as enlarged pictures lie in memory.
    total = images.mT.clone(memory_format=torch.contiguous_format)
    for factor in factors:
        h, w = zoom_crop(H, factor), zoom_crop(W, factor)
        top, left = (H - h) // 2, (W - w) // 2
        total += clipped_zoom(images[..., top : top + h, left : left + w], factor, (H, W)).mT
    return total.mT.div(len(factors) + 1).clamp_(0, 1).contiguous()
