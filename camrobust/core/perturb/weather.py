"""Snow and fog."""

from typing import Annotated

import torch
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.blur import clipped_zoom, zoom_crop
from camrobust.core.perturb.motion import angles, smeared, taps
from camrobust.core.perturb.registry import imagenet_c

LUMA = (0.299, 0.587, 0.114)
FIRST_WIBBLE = 100.0


def grey(images: Tensor) -> Tensor:
    """(B, 1, H, W): brightness with the weights of BT.601; one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    brightness: Tensor = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return brightness


@imagenet_c(
    family="weather",
    severities=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    channels=(1, RGB),
)  # fmt: skip
def snow(
    images: Tensor,
    loc: Annotated[float, Parameter(-10, 10, "brightness", "mean of the noise")],
    scale: Annotated[float, Parameter(0, 10, "brightness", "standard deviation of the noise")],
    zoom: Annotated[float, Parameter(1, 50, "×", "enlargement of the noise, so the size of flakes")],
    threshold: Annotated[float, Parameter(0, 1, "brightness", "noise above it is a flake")],
    radius: Annotated[int, Parameter(1, 200, "px", "flakes are smeared over 2·radius + 1 pixels")],
    sigma: Annotated[float, Parameter(0.01, 1000, "px", "standard deviation of the weights along that line")],
    mix: Annotated[float, Parameter(0, 1, "share", "share of the picture that is not whitened")],
    draws: Draws,
) -> Tensor:
    """Falling flakes: enlarged noise above a threshold, smeared downwards at -135° to -45°, over a whitened picture.

    Flakes have 8 bits before and after they are smeared, as in the original ImageNet-C, which passed them through
    image files; imagecorruptions cuts them to 8 bits only afterwards. The smearing's sums are exact.
    """
    H, W = images.shape[2:]
    noise = draws.normal((1, zoom_crop(H, zoom), zoom_crop(W, zoom))).to(images.device).double() * scale + loc
    flakes = clipped_zoom(noise, zoom, (H, W)).contiguous()
    flakes = (torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1) * 255).floor()
    smear = smeared(flakes, taps(radius, sigma, exact=True), angles(draws, -135, -45))
    layer = ((smear + 0.5).floor() / 255).float()
    whitened = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return (images * mix + whitened * (1 - mix) + layer + layer.flip(2, 3)).clamp(0, 1)


def plasma(decay: float, size: int, draws: Draws) -> Tensor:
    """Clouds by the diamond-square algorithm, wrapped around at the edges.

    Args:
        decay: divides the roughness at every halving of the grid.
        size: side of the map, a power of two, px.
        draws: B random streams; every point takes one number.

    Returns:
        (B, size, size) float64 from 0 to 1; only sums, products and quotients, so the same bits on every device.
    """
    steps = draws.uniform((size, size)).double() * 2 - 1
    clouds = torch.zeros_like(steps)
    stride, wibble = size, FIRST_WIBBLE
    while stride >= 2:
        half = stride // 2
        corners = clouds[:, ::stride, ::stride]
        pairs = corners + corners.roll(-1, 1)
        squares = steps[:, half::stride, half::stride]
        reach = wibble * wibble
        clouds[:, half::stride, half::stride] = (pairs + pairs.roll(-1, 2)) / 4 + squares * reach
        centres = clouds[:, half::stride, half::stride]
        beside = (centres + centres.roll(1, 1)) + (corners + corners.roll(-1, 2))
        clouds[:, ::stride, half::stride] = beside / 4 + steps[:, ::stride, half::stride] * reach
        beside = (centres + centres.roll(1, 2)) + (corners + corners.roll(-1, 1))
        clouds[:, half::stride, ::stride] = beside / 4 + steps[:, half::stride, ::stride] * reach
        stride, wibble = half, wibble / decay
    clouds -= clouds.amin(dim=(1, 2), keepdim=True)
    return clouds / clouds.amax(dim=(1, 2), keepdim=True)


def cloud_map(images: Tensor, decay: float, draws: Draws) -> Tensor:
    """(B, 1, H, W) float32 in [0, 1]: the corner of a plasma with the next power of two as its side."""
    H, W = images.shape[2:]
    size = max(2, 1 << (max(H, W) - 1).bit_length())
    return plasma(decay, size, draws)[:, None, :H, :W].float().to(images.device)


@imagenet_c(family="weather", severities=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)))
def fog(
    images: Tensor,
    amount: Annotated[float, Parameter(0, 1000, "× the brightest value", "brightness of the clouds")],
    decay: Annotated[float, Parameter(1, 100, "× per octave", "smoothness of the clouds")],
    draws: Draws,
) -> Tensor:
    """Add clouds to the picture, then scale the sum back to the picture's brightest value.

    References:
        Fournier, Fussell, Carpenter 1982 (diamond-square).
    """
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return ((images + cloud_map(images, decay, draws) * amount) * (brightest / (brightest + amount))).clamp(0, 1)
