"""Glass blur: pixels fetched from random neighbours, one after the other, between two blurs."""

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.perturb.filters import smooth_exactly, smooth_in_order
from camrobust.core.perturb.registry import check_streams, each, imagenet_c, whole, within

RANGE = 64.0
"""Levels 0 … 255 over this are below 8 and multiples of 2**-24, as `smooth_exactly` asks."""


@imagenet_c(
    "glass_blur", parameter=("sigma", "delta", "iterations"), unit="px, px, times",
    severities=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)), family="blur", random=True,
    check=each(
        within("glass_blur", "sigma", 0, 100, "px"), whole("glass_blur", "delta", 1, 50, "px"),
        whole("glass_blur", "iterations", 1, 20, "times"),
    ),
)  # fmt: skip
def glass_blur(images: Tensor, sigma: float, delta: float, iterations: float, draws: Draws) -> Tensor:
    """Seen through frosted glass: blurred, cut to 8 bits, pixels displaced, blurred again.

    The published code means to swap a pixel with a random neighbour; its two sides are views of one array, so the pixel
    is overwritten by the neighbour and the neighbour stays. The published images hold that, and so does this.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        sigma: standard deviation of both blurs, px.
        delta: neighbours lie -delta … delta - 1 px away on each axis.
        iterations: passes over the picture.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Glass blur".
    """
    check_streams("glass_blur", images, draws)
    _, _, H, W = images.shape
    levels = (smooth_exactly(images.double() * (255 / RANGE), sigma) * RANGE).floor().float()
    source = torch.arange(H * W, device=images.device).expand(len(images), -1)
    for _ in range(int(iterations)):
        source = source.gather(1, overwritten(int(delta), H, W, draws))
    moved = levels.flatten(2).gather(2, source[:, None].expand(-1, 3, -1)).reshape(images.shape)
    return smooth_in_order(moved / 255, sigma).clamp(0, 1)


def overwritten(delta: int, H: int, W: int, draws: Draws) -> Tensor:
    """Where every pixel's value comes from after one pass of overwriting by random neighbours.

    The pass goes from the last pixel to the first. A pixel whose neighbour was visited before takes what that one has
    taken: a chain of pointers. Chains are followed all at once by doubling, so that log2 of the longest chain is the
    number of steps; the result is what the pixel-by-pixel loop gives, exactly.

    Args:
        delta: farthest displacement, px; a margin of so many pixels is left alone.
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
