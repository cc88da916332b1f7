"""Glass blur: a blur, a random displacement of pixels one after the other, and a second blur."""

from typing import Annotated

import torch
from torch import Tensor

from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import smooth_exactly, smooth_in_order
from camrobust.core.perturb.registry import imagenet_c

RANGE = 64.0
"""Levels 0 … 255 divided by this are below 8, as `smooth_exactly` requires."""


@imagenet_c(family="blur", severities=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)))
def glass_blur(
    images: Tensor,
    sigma: Annotated[float, Parameter(0, 100, "px", "standard deviation of both blurs")],
    delta: Annotated[int, Parameter(1, 50, "px", "neighbours lie -delta … delta - 1 away on each axis")],
    iterations: Annotated[int, Parameter(1, 20, "times", "passes over the picture")],
    draws: Draws,
) -> Tensor:
    """Seen through frosted glass: blurred, cut to 8 bits whatever the image's depth, pixels displaced, blurred again.

    The published code was meant to swap a pixel with a random neighbour. Both sides of its swap are views of one
    array, so the neighbour overwrites the pixel and stays. The published images were made so, and this does the same.
    """
    _, _, H, W = images.shape
    levels = (smooth_exactly(images.double() * (255 / RANGE), sigma) * RANGE).floor().float()
    source = torch.arange(H * W, device=images.device).expand(len(images), -1)
    for _ in range(iterations):
        source = source.gather(1, overwritten(delta, H, W, draws))
    moved = levels.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).reshape(images.shape)
    return smooth_in_order(moved / 255, sigma).clamp(0, 1)


def overwritten(delta: int, H: int, W: int, draws: Draws) -> Tensor:
    """The place from which each pixel takes its value in one pass of overwriting by random neighbours.

    The pass runs from the last pixel to the first. If the neighbour was visited earlier in the pass, the pixel takes
    the value that the neighbour has taken, and so on: a chain of pointers. All chains are followed at once by
    doubling, in log2(longest chain) steps; the result equals the pixel-by-pixel loop exactly.

    Args:
        delta: farthest displacement, px; a margin of this width stays as it is.
        H: height, px.
        W: width, px.
        draws: B random streams; each gives two 16-bit halves per pixel.

    Returns:
        (B, H·W) int64, places in the flattened picture.
    """
    top, bottom, right = delta + 1, H - delta + 1, W - delta + 1
    every = torch.arange(H * W, device=draws.device)
    if bottom <= top or right <= top:
        return every.expand(len(draws), -1)
    words = draws.bits((bottom - top, right - top))
    across = ((words & 0xFFFF) * (2 * delta) >> 16) - delta
    down = ((words >> 16) * (2 * delta) >> 16) - delta
    here = every.reshape(H, W)
    neighbour = here.expand(len(draws), H, W).clone()
    neighbour[:, top:bottom, top:right] += down * W + across
    neighbour = neighbour.flatten(1)
    visited = torch.zeros(H, W, dtype=torch.bool, device=draws.device)
    visited[top:bottom, top:right] = True
    follows = visited.flatten()[neighbour] & (neighbour > every)
    pointer = torch.where(follows, neighbour, every)
    while True:
        further = pointer.gather(1, pointer)
        if torch.equal(further, pointer):
            return neighbour.gather(1, pointer)
        pointer = further
