"""Spatter: drops of water or splashes of mud on the lens."""

from typing import Annotated

import torch
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import smooth_exactly
from camrobust.core.perturb.opencv import UNIT, canny, distance, equalised, filtered
from camrobust.core.perturb.registry import imagenet_c

WATER = (175 / 255, 238 / 255, 238 / 255)
MUD = (63 / 255, 42 / 255, 20 / 255)
OPAQUE = 0.8
"""Mud is left out where it covers less than this share."""
LOW, HIGH = 50, 150
FARTHEST_PX = 20
BOX = ((1, 1, 1), (1, 1, 1), (1, 1, 1))
EMBOSS = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))


@imagenet_c(
    family="weather",
    severities=(
        (0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1), (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    channels=(RGB,),
)  # fmt: skip
def spatter(
    images: Tensor,
    loc: Annotated[float, Parameter(0, 1, "level", "mean of the noise")],
    scale: Annotated[float, Parameter(0, 10, "level", "standard deviation of the noise before smoothing")],
    sigma: Annotated[float, Parameter(0, 100, "px", "standard deviation of the smoothing")],
    threshold: Annotated[float, Parameter(0, 1, "level", "noise above it is a drop")],
    strength: Annotated[float, Parameter(0, 20, "share (water) or px (mud)", "brightest light, or width of the rim")],
    mud: Annotated[int, Parameter(0, 1, "0 water 1 mud")],
    draws: Draws,
) -> Tensor:
    """Drops on the lens where smoothed noise exceeds a threshold: water lit from one side, or mud.

    Smoothing, edges, distances and shading are computed in exact sums and whole numbers.
    """
    noise = smooth_exactly(draws.normal(images.shape[2:]).to(images.device), sigma) * scale + loc
    liquid = torch.where(noise < threshold, 0.0, noise)
    if mud:
        cover = smooth_exactly((liquid > threshold).double(), strength, rounded=True)[:, None]
        cover = torch.where(cover < OPAQUE, 0.0, cover).float()
        return (images * (1 - cover) + cover * _colour(MUD, images)).clamp(0, 1)
    return (images + water(liquid, strength)[:, None] * _colour(WATER, images)).clamp(0, 1)


def _colour(values: tuple[float, float, float], images: Tensor) -> Tensor:
    return torch.tensor(values, device=images.device)[:, None, None]


def water(liquid: Tensor, strength: float) -> Tensor:
    """The light on drops: their thickness times a relief of the distance to their outline.

    Args:
        liquid: (B, H, W) thickness in [0, 1], 0 where there is no drop.
        strength: brightest light.

    Returns:
        (B, H, W) float32.
    """
    levels = (liquid * 255).floor().clamp(0, 255).int()
    nearest = distance(canny(levels, LOW, HIGH), FARTHEST_PX)
    even = filtered(nearest, BOX).div(9 * UNIT, rounding_mode="floor")
    relief = filtered(equalised(even), EMBOSS).clamp(0, 255)
    light = levels * (filtered(relief, BOX) * 2 + 9).div(18, rounding_mode="floor")
    return light.float() / light.amax(dim=(1, 2), keepdim=True).clamp(min=1).float() * strength
