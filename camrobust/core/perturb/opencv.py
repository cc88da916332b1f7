"""OpenCV's operations on 8-bit planes (B, H, W): Canny edges, distances, histogram equalisation and small filters.

They compute in whole numbers. Nothing is rounded, so every device and every batch has the same bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

TANGENT_22 = 13573
"""tan 22.5° in 1/32768."""
UNIT = 65536
"""One pixel in the fixed-point numbers of a distance."""
STEPS = (
    *(((dy, dx), 65536) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))),
    *(((dy, dx), 91750) for dy in (-1, 1) for dx in (-1, 1)),
    *(((dy, dx), 143976) for dy in (-1, 1) for dx in (-2, 2)),
    *(((dy, dx), 143976) for dy in (-2, 2) for dx in (-1, 1)),
)
"""The moves of the 5 × 5 chamfer distance and their lengths 1, 1.4 and 2.1969 px."""


def framed(planes: Tensor, mode: str) -> Tensor:
    """Add one pixel on every side: "replicate", "reflect" (about the last pixel) or zeros ("constant").

    Args:
        planes: (B, H, W) whole numbers below 2**24.
        mode: the value of the added pixels.

    Returns:
        (B, H + 2, W + 2) int32.
    """
    if mode == "constant":
        return pad(planes, (1, 1, 1, 1))
    return pad(planes[:, None].float(), (1, 1, 1, 1), mode=mode)[:, 0].to(torch.int32)


def filtered(planes: Tensor, kernel: Sequence[Sequence[int]], mode: str = "reflect") -> Tensor:
    """Correlation with a 3 × 3 kernel of whole numbers, int32."""
    H, W = planes.shape[1:]
    wide = framed(planes, mode)
    total = torch.zeros(planes.shape, dtype=torch.int32, device=planes.device)
    for down, row in enumerate(kernel):
        for right, weight in enumerate(row):
            if weight:
                total.add_(wide[:, down : down + H, right : right + W], alpha=weight)
    return total


def canny(planes: Tensor, low: int, high: int) -> Tensor:
    """Edges: places where the gradient (3 × 3 Sobel, |x| + |y|) is a peak along its own direction.

    The gradient must exceed `high`, or exceed `low` and be joined to a place above `high`.

    Args:
        planes: (B, H, W) whole numbers 0 … 255.
        low: every edge has a larger gradient.
        high: every connected edge has a larger gradient somewhere.

    Returns:
        (B, H, W) bool.

    References:
        Canny 1986; equals OpenCV's `Canny(image, low, high)`.
    """
    across = filtered(planes, ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), "replicate")
    down = filtered(planes, ((-1, -2, -1), (0, 0, 0), (1, 2, 1)), "replicate")
    size = across.abs() + down.abs()
    peaks = (size > low) & _peaks(size, across, down)
    strong = peaks & (size > high)
    while True:
        grown = peaks & _dilated(strong)
        if torch.equal(grown, strong):
            return strong
        strong = grown


def _dilated(mask: Tensor) -> Tensor:
    """True where any place of the 3 × 3 neighbourhood is true."""
    tall = pad(mask, (0, 0, 1, 1))
    tall = tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:]
    wide = pad(tall, (1, 1))
    return wide[:, :, :-2] | wide[:, :, 1:-1] | wide[:, :, 2:]


def _peaks(size: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Places whose gradient is larger than the one before and at least the one behind, in one of four directions."""
    H, W = size.shape[1:]
    wide = framed(size, "constant")

    def at(y: int, x: int) -> Tensor:
        return wide[:, 1 + y : 1 + y + H, 1 + x : 1 + x + W]

    x, y = across.abs(), down.abs() << 15  # at most 1020 · 2**15, and x · 2**16 + …: both below 2**31
    flat, steep = y < x * TANGENT_22, y > x * TANGENT_22 + (x << 16)
    falling = (across ^ down) < 0
    level = (size > at(0, -1)) & (size >= at(0, 1))
    upright = (size > at(-1, 0)) & (size >= at(1, 0))
    slanted = torch.where(falling, (size > at(-1, 1)) & (size > at(1, -1)), (size > at(-1, -1)) & (size > at(1, 1)))
    return torch.where(flat, level, torch.where(steep, upright, slanted))


def distance(edges: Tensor, farthest: int) -> Tensor:
    """Chamfer distance to the nearest edge, at most `farthest`.

    A shortest path uses at most two of the sixteen moves, each any number of times. So each move is tried in turn,
    1, 2, 4, … times at once.

    Args:
        edges: (B, H, W) bool.
        farthest: largest distance, px.

    Returns:
        (B, H, W) int32, in 1/65536 px.

    References:
        Borgefors 1986; equals OpenCV's `distanceTransform(…, DIST_L2, 5)`.
    """
    distances = torch.where(edges, 0, farthest * UNIT).to(torch.int32)
    for (dy, dx), length in STEPS:
        times = 1
        while times * length < farthest * UNIT:
            here, there = _overlap(distances, dy * times, dx * times)
            torch.minimum(here, there + length * times, out=here)
            times *= 2
    return distances


def _overlap(planes: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Two views of the planes: the places with a neighbour (dy, dx) away, and these neighbours."""
    H, W = planes.shape[1:]
    rows, columns = max(0, H - abs(dy)), max(0, W - abs(dx))
    y, x = max(0, -dy), max(0, -dx)
    there_y, there_x = max(0, dy), max(0, dx)
    here = planes[:, y : y + rows, x : x + columns]
    return here, planes[:, there_y : there_y + rows, there_x : there_x + columns]


def equalised(planes: Tensor) -> Tensor:
    """Histogram equalisation; a constant plane stays as it is.

    Args:
        planes: (B, H, W) int32, 0 … 255.

    Returns:
        (B, H, W) int32, 0 … 255; equals OpenCV's `equalizeHist`.
    """
    flat = planes.flatten(1).long()
    counts = torch.zeros(len(planes), 256, dtype=torch.int64, device=planes.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    lowest = flat.amin(dim=1, keepdim=True)
    rest = flat.shape[1] - counts.gather(1, lowest)
    scale = torch.tensor(255.0, device=planes.device) / rest.clamp(min=1).float()
    above = counts.scatter(1, lowest, 0).cumsum(dim=1)
    table = (above.float() * scale).round().long()
    spread = table.gather(1, flat)
    return torch.where(rest == 0, flat, spread).reshape(planes.shape).int()
