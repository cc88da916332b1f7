"""Perturbations by image processing and compression; deterministic."""

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.core.perturb.registry import each, imagenet_c, whole, within


@imagenet_c(
    "brightness", parameter="shift", unit="added to V of HSV", severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="weather",
    check=within("brightness", "shift", -1, 1, "added to V of HSV"),
)  # fmt: skip
def brightness(images: Tensor, shift: float) -> Tensor:
    """Add to the value channel of HSV, hue and saturation kept.

    In closed form, without the conversion: V is the largest channel, and every channel scales by V'/V; black becomes
    the grey V'.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        shift: added to V.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Brightness".
    """
    value = images.amax(dim=1, keepdim=True)
    wanted = (value + shift).clamp(0, 1)
    scale = wanted / torch.where(value == 0, torch.ones_like(value), value)
    return torch.where(value == 0, wanted.expand_as(images), images * scale).clamp(0, 1)


@imagenet_c(
    "contrast", parameter="factor", unit="times the distance from the mean", severities=(0.4, 0.3, 0.2, 0.1, 0.05),
    family="digital", check=within("contrast", "factor", 0, 100),
)  # fmt: skip
def contrast(images: Tensor, factor: float) -> Tensor:
    """Scale the distance from each channel's mean over the image.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        factor: below 1 flattens.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Contrast".
    """
    means = images.mean(dim=(2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    return ((images - means) * factor + means).clamp(0, 1)


@imagenet_c(
    "saturate", parameter=("factor", "shift"), unit="times S of HSV, added to it",
    severities=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)), family="digital",
    check=each(
        within("saturate", "factor", 0, 1000, "times S of HSV"), within("saturate", "shift", -1, 1, "added to S of HSV")
    ),
)  # fmt: skip
def saturate(images: Tensor, factor: float, shift: float) -> Tensor:
    """Scale and shift the saturation of HSV, hue and value kept; a grey pixel has the hue red, as in scikit-image.

    In closed form: a channel lies V·S·d below the value V, where d in [0, 1] depends on the hue only.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        factor: times the saturation.
        shift: added to it.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Saturate".
    """
    value = images.amax(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    grey = spread == 0
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device)[:, None, None]
    depth = torch.where(grey, red, (value - images) / torch.where(grey, torch.ones_like(spread), spread))
    saturation = spread / torch.where(value == 0, torch.ones_like(value), value)
    wanted = (saturation * factor + shift).clamp(0, 1)
    return (value * (1 - wanted * depth)).clamp(0, 1)


PILLOW_BITS = 22
"""Pillow's resampling works in whole numbers with weights of 22 bits."""


@lru_cache(maxsize=32)
def _box(size: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pillow's box filter: (size, wanted) float32, 1 inside a box; (wanted,) float64, the weight there times 2**22."""
    scale = size / wanted
    support = 0.5 * max(scale, 1)
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        centre = (row + 0.5) * scale
        first, last = max(0, int(centre - support + 0.5)), min(size, int(centre + support + 0.5))
        offsets = (np.arange(first, last) - centre + 0.5) / max(scale, 1)
        inside = ((offsets > -0.5) & (offsets <= 0.5)).astype(np.float64)
        matrix[row, first:last] = inside
    weights = np.floor(2**PILLOW_BITS / matrix.sum(axis=1) + 0.5)
    return torch.from_numpy(matrix.T).float().contiguous().to(device), torch.from_numpy(weights).to(device)


@imagenet_c(
    "pixelate", parameter="scale", unit="share of the side", severities=(0.6, 0.5, 0.4, 0.3, 0.25), family="digital",
    check=within("pixelate", "scale", 0.01, 1, "share of the side"),
)  # fmt: skip
def pixelate(images: Tensor, scale: float) -> Tensor:
    """Shrunk by averaging over boxes and enlarged again, on 8-bit values, as Pillow does, to the bit.

    The original ImageNet-C enlarges by Pillow's BOX filter, as this does; imagecorruptions by NEAREST.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        scale: of the small picture's sides.

    Returns:
        (B, 3, H, W) float32 in [0, 1], multiples of 1/255, a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Pixelate".
    """
    H, W = images.shape[2:]
    h, w = max(1, int(H * scale)), max(1, int(W * scale))
    levels = (images * 255).round()
    for side, small in ((W, w), (H, h)):
        inside, weights = _box(side, small, images.device)
        # Sums of 8-bit levels are exact in float32; their products with 22-bit weights are in float64.
        levels = _levels((levels @ inside).double() * weights).float().transpose(2, 3)
    rows, columns = (_box(small, side, images.device)[0] for side, small in ((H, h), (W, w)))
    return (rows.T @ levels @ columns) / 255


def _levels(sums: Tensor) -> Tensor:
    whole: Tensor = ((sums + 2 ** (PILLOW_BITS - 1)) * 2.0**-PILLOW_BITS).floor()
    return whole.clamp(0, 255)


@imagenet_c(
    "jpeg_compression", parameter="quality", unit="JPEG quality", severities=(25, 18, 15, 10, 7), family="digital",
    check=whole("jpeg_compression", "quality", 1, 100, "JPEG quality"),
)  # fmt: skip
def jpeg_compression(images: Tensor, quality: float) -> Tensor:
    """Through a JPEG file and back, by Pillow, on 8-bit values.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        quality: as Pillow's, 1 to 100.

    Returns:
        (B, 3, H, W) float32 in [0, 1], multiples of 1/255, a new tensor.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "JPEG compression".
    """
    return through_jpeg((images * 255).round().to(torch.uint8), int(quality)).float() / 255


def through_jpeg(pixels: Tensor, quality: int) -> Tensor:
    """8-bit images through JPEG files and back, by Pillow.

    Args:
        pixels: (B, 3, H, W) uint8.
        quality: as Pillow's, 1 to 100.

    Returns:
        (B, 3, H, W) uint8, on the same device.
    """
    decoded = [_coded(image, quality) for image in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    return torch.from_numpy(np.stack(decoded)).to(pixels.device).permute(0, 3, 1, 2).contiguous()


def _coded(image: np.ndarray, quality: int) -> np.ndarray:
    sink = BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=quality)
    return np.asarray(Image.open(sink).convert("RGB"))
