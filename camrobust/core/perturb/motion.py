"""Motion blur: a one-sided Gaussian along a line, after ImageMagick."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import quantised
from camrobust.core.perturb.registry import check_streams, each, imagenet_c, whole, within

ANGLE_DEGREES = 45.0


def taps(radius: int, sigma: float, *, exact: bool = False) -> list[float]:
    """The weights along the line, 2·radius + 1 of them with sum 1: a normal curve from its top downwards."""
    weights = torch.exp(-0.5 * (torch.arange(2 * radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights /= math.fsum(weights.tolist())
    found: list[float] = (quantised(weights.numpy()) if exact else weights.numpy()).tolist()
    return found


def steps(count: int, degrees: float) -> list[tuple[int, int]]:
    """(down, right) of each tap, px: the line at an angle, rounded to whole pixels with halves towards zero."""
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return [(math.ceil(place * down - 0.5), math.ceil(place * right - 0.5)) for place in range(count)]


def smeared(images: Tensor, weights: list[float], degrees: list[float]) -> Tensor:
    """Each image averaged along its own line, edges continued by their last pixel.

    Image by image and tap by tap in a fixed order: no batch changes a bit.

    Args:
        images: (B, C, H, W).
        weights: of the taps.
        degrees: B angles.

    Returns:
        (B, C, H, W), a new tensor.
    """
    H, W = images.shape[2:]
    reach = len(weights)
    framed = pad(images, (reach, reach, reach, reach), mode="replicate")
    lines = [steps(reach, angle) for angle in degrees]
    if images.is_cuda and reach <= min(H, W):
        return all_smeared(framed, weights, lines)
    blurred = torch.zeros_like(images)
    for image, target, line in zip(framed, blurred, lines, strict=True):
        for weight, (down, right) in zip(weights, line, strict=True):
            if abs(down) >= H or abs(right) >= W:
                break
            target.add_(image[:, reach + down : reach + down + H, reach + right : reach + right + W], alpha=weight)
    return blurred


def all_smeared(framed: Tensor, weights: list[float], lines: list[list[tuple[int, int]]]) -> Tensor:
    """The same tap by tap over all images at once, for a GPU, which else is asked for every image and tap.

    Args:
        framed: (B, C, H + 2n, W + 2n), images continued on every side by as many pixels as there are taps.
        weights: of the n taps, n at most H and W.
        lines: (down, right) of the taps of each image, px.
    """
    reach, (height, width) = len(weights), framed.shape[2:]
    rows, columns = (torch.arange(reach, side - reach, device=framed.device) for side in (height, width))
    inside = (rows[:, None] * width + columns).flatten()
    shifts = torch.tensor([[down * width + right for down, right in line] for line in lines], device=framed.device)
    blurred = torch.zeros(*framed.shape[:2], len(inside), dtype=framed.dtype, device=framed.device)
    pixels = framed.flatten(2)
    for weight, shift in zip(weights, shifts.unbind(dim=1), strict=True):
        places = (inside + shift[:, None])[:, None].expand_as(blurred)
        blurred.add_(pixels.gather(2, places), alpha=weight)
    return blurred.reshape(*blurred.shape[:2], len(rows), len(columns))


@imagenet_c(
    "motion_blur", parameter=("radius", "sigma"), unit="px, px",
    severities=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), family="blur", random=True,
    check=each(whole("motion_blur", "radius", 1, 200, "px"), within("motion_blur", "sigma", 0.01, 1000, "px")),
)  # fmt: skip
def motion_blur(images: Tensor, radius: float, sigma: float, draws: Draws) -> Tensor:
    """Moved during the exposure, in a direction drawn within ±45° of the horizontal.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        radius: the line has 2·radius + 1 pixels.
        sigma: standard deviation of the weights along it, px.
        draws: one random stream per image; gives the angle.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Motion blur"; ImageMagick's MotionBlurImage.
    """
    check_streams("motion_blur", images, draws)
    return smeared(images, taps(int(radius), sigma), angles(draws, -ANGLE_DEGREES, ANGLE_DEGREES)).clamp(0, 1)


def angles(draws: Draws, low: float, high: float) -> list[float]:
    """One angle per image, uniform in [low, high)."""
    return [low + (high - low) * share for share in draws.uniform(()).tolist()]
