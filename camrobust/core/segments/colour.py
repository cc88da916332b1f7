"""The colours by which pixels are compared: CIE L*a*b* of sRGB pixels and greys; other channels as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.core.channels import DEEP

FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Matrix from linear sRGB to XYZ, rounded as in scikit-image."""
WHITE = (0.95047, 1.0, 1.08883)
"""XYZ of the white point D65 for the 2° observer."""


BLACK_TO_WHITE = 100.0
"""The distance from black to white in L*a*b*, and so in any number of channels."""


def in_unit(images: Tensor) -> Tensor:
    """Images (B, C, H, W) as float64 in [0, 1]; one channel as three equal ones.

    Three channels keep their value. Other numbers are rounded to 65,536 levels, so that an 8-bit grey has the bits that
    it has in a photo.
    """
    if images.dtype == torch.uint8:
        scaled = images.double() / 255
    elif images.shape[1] == RGB:
        scaled = images.double()
    else:
        scaled = (images.double() * DEEP).round() / DEEP
    return scaled.expand(-1, RGB, -1, -1) if images.shape[1] == 1 else scaled


def colours(images: Tensor) -> Tensor:
    """What Quickshift compares: L*a*b* of photos and greys; other channels so that black to white is 100, too.

    Args:
        images: (B, C, H, W), float in [0, 1] or uint8.

    Returns:
        (B, C, H, W) float64, or (B, 3, H, W) if C is 1.
    """
    if images.shape[1] == RGB:
        return lab(images)
    scaled = in_unit(images)
    return lab(scaled) if images.shape[1] == 1 else scaled * (BLACK_TO_WHITE / scaled.shape[1] ** 0.5)


def lab(images: Tensor) -> Tensor:
    """CIE L*a*b* colours of sRGB pixels under D65.

    On a CPU, numpy computes powers, roots and the matrix product, so that every bit equals `skimage.color.rgb2lab` on
    the same machine. The last bit of a colour can decide which of two equally near pixels becomes the parent. On
    another device the results are within 1e-12.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.

    Returns:
        (B, 3, H, W) float64 on the images' device: L* in [0, 100], a* and b* about ±100.

    References:
        IEC 61966-2-1 (sRGB); CIE 15:2004 (L*a*b*).
    """
    if images.dtype == torch.uint8:
        linear = _linear(torch.arange(256, dtype=torch.float64) / 255).to(images.device)[images.long()]
    else:
        linear = _linear(images.double())
    shares = _xyz(linear) / torch.tensor(WHITE, dtype=torch.float64, device=images.device)
    roots = _apply(np.cbrt, lambda values: values.pow(1 / 3), shares)
    x, y, z = torch.where(shares > 0.008856, roots, 7.787 * shares + 16 / 116).unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def _linear(values: Tensor) -> Tensor:
    """Linear light in [0, 1] of sRGB values in [0, 1]."""
    powers = _apply(lambda x: np.power(x, 2.4), lambda x: x.pow(2.4), (values + 0.055) / 1.055)
    return torch.where(values > 0.04045, powers, values / 12.92)


def _xyz(linear: Tensor) -> Tensor:
    """Linear light (B, 3, H, W) to XYZ (B, H, W, 3)."""
    pixels = linear.movedim(1, -1).contiguous()
    matrix = np.array(FROM_RGB).T
    # No matrix product on a GPU, where equal pixels could get different bits in different places.
    return _apply(
        lambda x: x @ matrix,
        lambda x: sum(x[..., c, None] * x.new_tensor(matrix[c]) for c in range(3)),
        pixels,
    )


def _apply(on_cpu: Callable[[Any], Any], elsewhere: Callable[[Tensor], Any], values: Tensor) -> Tensor:
    """The result of a numpy function on the CPU, of a torch function on another device."""
    result: Tensor = torch.from_numpy(on_cpu(values.numpy())) if values.device.type == "cpu" else elsewhere(values)
    return result
