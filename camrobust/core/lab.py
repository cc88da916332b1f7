"""CIE L*a*b* colours."""

import torch
from torch import Tensor

FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
"""Linear sRGB to XYZ, rounded as in scikit-image."""
WHITE = (0.95047, 1.0, 1.08883)
"""D65 for the 2° observer, in XYZ."""


def lab(images: Tensor) -> Tensor:
    """CIE L*a*b* of sRGB pixels under D65.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.

    Returns:
        (B, 3, H, W) float64: L* in [0, 100], a* and b* about ±100.

    References:
        IEC 61966-2-1 (sRGB); CIE 15:2004 (L*a*b*). Constants rounded as in `skimage.color.rgb2lab`.
    """
    if images.dtype == torch.uint8:
        levels = torch.arange(256, dtype=torch.float64, device=images.device) / 255
        linear = _linear(levels)[images.long()]
    else:
        linear = _linear(images.double())
    red, green, blue = linear.unbind(1)
    # Not a matrix product: equal pixels must get equal bits wherever they lie.
    x, y, z = (
        _lightness((r * red + g * green + b * blue) / white) for (r, g, b), white in zip(FROM_RGB, WHITE, strict=True)
    )
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def _linear(values: Tensor) -> Tensor:
    """Share of full light from an sRGB value in [0, 1]."""
    return torch.where(values > 0.04045, ((values + 0.055) / 1.055).pow(2.4), values / 12.92)


def _lightness(share: Tensor) -> Tensor:
    """Cube root of a share of white, linear near black."""
    return torch.where(share > 0.008856, share.pow(1 / 3), 7.787 * share + 16 / 116)
