"""Motion blur: a one-sided Gaussian along a line, as in ImageMagick."""

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import pad

from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import quantised
from camrobust.core.perturb.registry import imagenet_c

ANGLE_DEGREES = 45.0


def taps(radius: int, sigma: float, *, exact: bool = False) -> list[float]:
    """The 2·radius + 1 weights along the line, of sum 1: the falling half of a normal curve."""
    weights = torch.exp(-0.5 * (torch.arange(2 * radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights /= math.fsum(weights.tolist())
    line: list[float] = (quantised(weights.numpy()) if exact else weights.numpy()).tolist()
    return line


def steps(count: int, degrees: float) -> list[tuple[int, int]]:
    """(down, right) of each tap on a line at an angle, px, rounded to whole pixels, halves towards zero."""
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return [(math.ceil(place * down - 0.5), math.ceil(place * right - 0.5)) for place in range(count)]


def smeared(images: Tensor, weights: list[float], degrees: list[float]) -> Tensor:
    """Average each image along its own line; the last pixel continues beyond the edges.

    The order of sums is fixed, image by image and tap by tap, so that the batch cannot change a bit.

    Args:
        images: (B, C, H, W).
        weights: one per tap.
        degrees: one angle per image.

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
    """The same for all images at once, tap by tap: a GPU would otherwise be called for every image and tap.

    Args:
        framed: (B, C, H + 2n, W + 2n), images continued by n pixels on every side.
        weights: of the n taps; n is at most H and W.
        lines: per image, (down, right) of its taps, px.
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


@imagenet_c(family="blur", severities=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)))
def motion_blur(
    images: Tensor,
    radius: Annotated[int, Parameter(1, 200, "px", "the line has 2·radius + 1 pixels")],
    sigma: Annotated[float, Parameter(0.01, 1000, "px", "standard deviation of the weights along the line")],
    draws: Draws,
) -> Tensor:
    """Moved during the exposure, in a direction drawn within ±45° of the horizontal, as in ImageMagick."""
    return smeared(images, taps(radius, sigma), angles(draws, -ANGLE_DEGREES, ANGLE_DEGREES)).clamp(0, 1)


def angles(draws: Draws, low: float, high: float) -> list[float]:
    """One angle per image, uniform in [low, high)."""
    return [low + (high - low) * share for share in draws.uniform(()).tolist()]
