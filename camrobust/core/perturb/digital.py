"""Deterministic perturbations by image processing and compression."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from io import BytesIO
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.parameters import Parameter
from camrobust.core.perturb.registry import imagenet_c

JPEG_CHANNELS = (1, RGB)
"""Channels of the images that a JPEG file holds: grey or colour."""
CODING_THREADS = 8
"""Most threads that code JPEG files of images that lie on a GPU."""


@imagenet_c(family="weather", severities=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(images: Tensor, shift: Annotated[float, Parameter(-1, 1, "added to V of HSV")]) -> Tensor:
    """Add to the value channel of HSV; hue and saturation stay.

    In closed form, without the conversion: V is the largest channel, and every channel scales by V'/V. Black becomes
    the grey V'. The same form serves any number of channels; with one, it adds to the pixel.
    """
    value = images.amax(dim=1, keepdim=True)
    wanted = (value + shift).clamp(0, 1)
    scale = wanted / torch.where(value == 0, torch.ones_like(value), value)
    return torch.where(value == 0, wanted.expand_as(images), images * scale).clamp(0, 1)


@imagenet_c(family="digital", severities=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(
    images: Tensor, factor: Annotated[float, Parameter(0, 100, "times the distance from the mean", "below 1 flattens")]
) -> Tensor:
    """Scale the distance from each channel's mean over the image."""
    means = images.mean(dim=(2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    return ((images - means) * factor + means).clamp(0, 1)


@imagenet_c(family="digital", severities=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)), channels=(RGB,))
def saturate(
    images: Tensor,
    factor: Annotated[float, Parameter(0, 1000, "times S of HSV")],
    shift: Annotated[float, Parameter(-1, 1, "added to S of HSV")],
) -> Tensor:
    """Scale and shift the saturation of HSV; hue and value stay. As in scikit-image, a grey pixel has the hue red.

    In closed form: a channel lies V·S·d below the value V, where d in [0, 1] depends on the hue only.
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
"""Pillow resamples in whole numbers; its weights have 22 bits."""


@lru_cache(maxsize=32)
def _box(size: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pillow's box filter: (size, wanted) float32, 1 inside a box; (wanted,) float64, each box's weight · 2**22."""
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


@imagenet_c(family="digital", severities=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(
    images: Tensor, scale: Annotated[float, Parameter(0.01, 1, "share of the side", "size of the small picture")]
) -> Tensor:
    """Shrink by averaging over boxes and enlarge again, on 8-bit values; equal to Pillow bit for bit.

    The values have 8 bits also where the image has 65,536 levels. Like the original ImageNet-C, this enlarges by
    Pillow's BOX filter; imagecorruptions uses NEAREST.
    """
    H, W = images.shape[2:]
    h, w = max(1, int(H * scale)), max(1, int(W * scale))
    levels = (images * 255).round()
    for side, small in ((W, w), (H, h)):
        inside, weights = _box(side, small, images.device)
        # float32 holds sums of 8-bit levels exactly; their products with 22-bit weights need float64.
        levels = _levels((levels @ inside).double() * weights).float().transpose(2, 3)
    rows, columns = (_box(small, side, images.device)[0] for side, small in ((H, h), (W, w)))
    return (rows.T @ levels @ columns) / 255


def _levels(sums: Tensor) -> Tensor:
    """Weighted sums, rounded to 8-bit levels as Pillow rounds them."""
    levels: Tensor = ((sums + 2 ** (PILLOW_BITS - 1)) * 2.0**-PILLOW_BITS).floor()
    return levels.clamp(0, 255)


@imagenet_c(family="digital", severities=(25, 18, 15, 10, 7), channels=JPEG_CHANNELS)
def jpeg_compression(images: Tensor, quality: Annotated[int, Parameter(1, 100, "JPEG quality")]) -> Tensor:
    """Encode 8-bit values as JPEG by Pillow, colour or grey, and decode them."""
    return through_jpeg((images * 255).round().to(torch.uint8), quality).float() / 255


def through_jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Encode 8-bit images as JPEG by Pillow, and decode them.

    Args:
        pixels: (B, C, H, W) uint8, C in `JPEG_CHANNELS`.
        quality: Pillow's, 1 to 100.

    Returns:
        (B, C, H, W) uint8, on the same device.
    """
    images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    # A GPU waits for these; workers on cores have one each, and share no others.
    threads = min(CODING_THREADS, os.cpu_count() or 1) if pixels.is_cuda else 1
    with ThreadPoolExecutor(threads) as pool:
        decoded = np.stack([*pool.map(partial(_through_jpeg, quality=quality), images)])
    return torch.from_numpy(decoded).to(pixels.device).permute(0, 3, 1, 2).contiguous()


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    sink = BytesIO()
    picture = Image.fromarray(image if image.shape[2] == RGB else image[..., 0])
    picture.save(sink, "JPEG", quality=quality)
    return np.asarray(Image.open(sink).convert(picture.mode)).reshape(image.shape)
