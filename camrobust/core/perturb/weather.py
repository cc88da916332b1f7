"""Snow and fog."""

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.perturb.blur import clipped_zoom, zoom_crop
from camrobust.core.perturb.motion import angles, smeared, taps
from camrobust.core.perturb.registry import check_streams, each, imagenet_c, whole, within

LUMA = (0.299, 0.587, 0.114)
FIRST_WIBBLE = 100.0


def grey(images: Tensor) -> Tensor:
    """(B, 1, H, W): brightness as television weighs it (BT.601)."""
    red, green, blue = images.split(1, dim=1)
    brightness: Tensor = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return brightness


@imagenet_c(
    "snow", parameter=("loc", "scale", "zoom", "threshold", "radius", "sigma", "mix"),
    unit="brightness, brightness, ×, brightness, px, px, share",
    severities=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    family="weather", random=True,
    check=each(
        within("snow", "loc", -10, 10, "brightness"), within("snow", "scale", 0, 10, "brightness"),
        within("snow", "zoom", 1, 50, "×"), within("snow", "threshold", 0, 1, "brightness"),
        whole("snow", "radius", 1, 200, "px"), within("snow", "sigma", 0.01, 1000, "px"),
        within("snow", "mix", 0, 1, "share"),
    ),
)  # fmt: skip
def snow(
    images: Tensor, loc: float, scale: float, zoom: float, threshold: float, radius: float, sigma: float, mix: float,
    draws: Draws,
) -> Tensor:  # fmt: skip
    """Falling flakes: enlarged noise above a threshold, smeared downwards, and the picture whitened.

    The flakes have 8 bits before and after they are smeared, as in the original ImageNet-C, where they went through
    image files; imagecorruptions cuts them to 8 bits only after. The smearing's sums are exact.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        loc: mean of the noise.
        scale: its standard deviation.
        zoom: its enlargement, so the size of flakes.
        threshold: noise below it is no flake.
        radius: flakes are smeared over 2·radius + 1 px.
        sigma: standard deviation of the weights along that line, px.
        mix: share of the picture that is not whitened.
        draws: one random stream per image; gives the flakes and the angle, -135° to -45°.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Snow".
    """
    check_streams("snow", images, draws)
    H, W = images.shape[2:]
    noise = draws.normal((1, zoom_crop(H, zoom), zoom_crop(W, zoom))).to(images.device).double() * scale + loc
    flakes = clipped_zoom(noise, zoom, (H, W)).contiguous()
    flakes = (torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1) * 255).floor()
    smear = smeared(flakes, taps(int(radius), sigma, exact=True), angles(draws, -135, -45))
    layer = ((smear + 0.5).floor() / 255).float()
    whitened = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return (images * mix + whitened * (1 - mix) + layer + layer.flip(2, 3)).clamp(0, 1)


def plasma(decay: float, size: int, draws: Draws) -> Tensor:
    """Clouds by the diamond-square algorithm, wrapped around at the edges.

    Args:
        decay: by which the roughness is divided at every halving of the grid.
        size: side of the map, a power of two, px.
        draws: B random streams; every point takes one number.

    Returns:
        (B, size, size) float64 from 0 to 1. Sums, products and quotients only: the same bits on every device.
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
    """(B, 1, H, W) float32 in [0, 1]: the corner of a plasma whose side is the next power of two."""
    H, W = images.shape[2:]
    size = max(2, 1 << (max(H, W) - 1).bit_length())
    return plasma(decay, size, draws)[:, None, :H, :W].float().to(images.device)


@imagenet_c(
    "fog", parameter=("amount", "decay"), unit="× the brightest value, × per octave",
    severities=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)), family="weather", random=True,
    check=each(
        within("fog", "amount", 0, 1000, "× the brightest value"), within("fog", "decay", 1, 100, "× per octave")
    ),
)  # fmt: skip
def fog(images: Tensor, amount: float, decay: float, draws: Draws) -> Tensor:
    """Clouds added to the picture, and the sum scaled back to its brightest value.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        amount: of cloud.
        decay: smoothness of the clouds: by which the roughness is divided at every halving of their grid.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Fog"; Fournier, Fussell, Carpenter 1982 (diamond-square).
    """
    check_streams("fog", images, draws)
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return ((images + cloud_map(images, decay, draws) * amount) * (brightest / (brightest + amount))).clamp(0, 1)
