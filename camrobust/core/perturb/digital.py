"""Perturbations by image processing and compression; deterministic."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.core.perturb.catalogue import perturbation, within


@perturbation(
    "brightness", parameter="shift", unit="added to V of HSV", severities=(0.1, 0.2, 0.3, 0.4, 0.5), family="digital",
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


@perturbation(
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


@perturbation(
    "jpeg_compression", parameter="quality", unit="JPEG quality", severities=(25, 18, 15, 10, 7), family="digital",
    check=within("jpeg_compression", "quality", 1, 100, "JPEG quality"),
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
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = [np.asarray(_through_jpeg(image, int(quality))) for image in pixels]
    stacked = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(images.device).float() / 255


def _through_jpeg(image: np.ndarray, quality: int) -> Image.Image:
    sink = BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=quality)
    return Image.open(sink).convert("RGB")
