"""The parent of every pixel in quickshift: the nearest pixel of higher density in its window.

Places are indices into the flat tensor of a `PaddedBatch`; a step is the difference between two places.
"""

import math

import torch
from torch import Tensor

from camrobust.core.segments.padded import PaddedBatch

SPARSE = 0.4
"""Below this share of pixels without a final parent, only those pixels are gathered and compared."""
MIN_OFFSETS = 8
"""Fewest offsets that gathered pixels are compared at before the finished ones are dropped."""

Offset = tuple[int, int]
"""Rows down and columns to the right."""


def _offsets(reach: int, max_dist: float) -> list[Offset]:
    """All offsets of the window up to the distance `max_dist`: nearest first, equally near ones in reading order."""
    side = range(-reach, reach + 1)
    every = [(down, right) for down in side for right in side if (down, right) != (0, 0)]
    return sorted((offset for offset in every if math.sqrt(_square(offset)) <= max_dist), key=_square)


def _square(offset: Offset) -> int:
    """Squared distance of an offset in position, px²."""
    return offset[0] ** 2 + offset[1] ** 2


def steps_to_parents(padded: PaddedBatch, colours: Tensor, densities: Tensor, max_dist: float, block: int) -> Tensor:
    """The step from every pixel to its parent, the nearest pixel of higher density.

    The search goes from the middle of the window outwards. A pixel is finished as soon as its best parent, in colour
    and position, is no farther than the next offset is in position alone. While most pixels are unfinished, all are
    compared in place; later only the unfinished ones are gathered.

    Args:
        padded: the arrangement of the pixels.
        colours: (C, n) float64, flat, to the scale of positions in px.
        densities: (n,) float64, flat, -∞ in the margins.
        max_dist: largest distance of a parent, px.
        block: largest number of elements of a temporary tensor.

    Returns:
        (`padded.length`,) int64, 0 for a pixel without a parent.
    """
    here = slice(padded.start, padded.start + padded.length)
    best = torch.full_like(densities[here], math.inf).masked_fill_(densities[here] == -math.inf, 0)
    steps = torch.zeros_like(best, dtype=torch.int64)
    offsets = _offsets(padded.reach, max_dist)
    many, done = SPARSE * padded.count * padded.height * padded.width, 0
    unfinished = best.nonzero().squeeze(1)
    while done < len(offsets) and len(unfinished) > many:
        ring = [offset for offset in offsets[done:] if _square(offset) == _square(offsets[done])]
        _compare_all(padded, colours, densities, best, steps, ring, max(1, block // 8))
        done += len(ring)
        unfinished = _still_unfinished(best, unfinished, offsets, done)
    while done < len(offsets) and len(unfinished):
        chunk = offsets[done : done + max(MIN_OFFSETS, block // (4 * len(unfinished)))]
        _compare_some(padded, colours, densities, best, steps, chunk, unfinished)
        done += len(chunk)
        unfinished = _still_unfinished(best, unfinished, offsets, done)
    return steps.masked_fill_(best.sqrt() > max_dist, 0)


def _still_unfinished(best: Tensor, unfinished: Tensor, offsets: list[Offset], done: int) -> Tensor:
    """The pixels that may have a nearer parent among the remaining offsets."""
    return unfinished[best[unfinished] > _square(offsets[done])] if done < len(offsets) else unfinished[:0]


def _compare_all(
    padded: PaddedBatch,
    colours: Tensor,
    densities: Tensor,
    best: Tensor,
    steps: Tensor,
    offsets: list[Offset],
    tile: int,
) -> None:
    """Update `best` (squared distance) and `steps` of all pixels with their neighbours at some offsets."""
    difference, distance = best.new_empty(2, min(tile, len(best)))
    for first in range(0, len(best), tile):
        nearest, step = best[first : first + tile], steps[first : first + tile]
        n, place = len(nearest), padded.start + first
        for down, right in offsets:
            shift = down * padded.stride + right
            for channel, values in enumerate(colours):
                own, neighbour = values[place : place + n], values[place + shift : place + shift + n]
                # Not addcmul, which may fuse the operations: rounding decides between parents at the same distance.
                torch.sub(own, neighbour, out=difference[:n])
                square = torch.mul(difference[:n], difference[:n], out=difference[:n] if channel else distance[:n])
                if channel:
                    distance[:n].add_(square)
            candidate = distance[:n].add_(down**2).add_(right**2)
            higher = densities[place + shift : place + shift + n] > densities[place : place + n]
            closer = (candidate < nearest).logical_and_(higher)
            torch.where(closer, candidate, nearest, out=nearest)
            step.masked_fill_(closer, shift)


def _compare_some(
    padded: PaddedBatch,
    colours: Tensor,
    densities: Tensor,
    best: Tensor,
    steps: Tensor,
    offsets: list[Offset],
    unfinished: Tensor,
) -> None:
    """The same for some pixels, whose neighbours are gathered as (offsets, unfinished)."""
    squares = torch.tensor(offsets, device=best.device).square().double().unbind(1)
    shifts = torch.tensor([down * padded.stride + right for down, right in offsets], device=best.device)
    places = unfinished + padded.start
    around = places + shifts[:, None]
    flat = around.flatten()
    distance = torch.zeros_like(around, dtype=torch.float64)
    for values in colours:
        difference = values[places] - values.index_select(0, flat).view_as(around)
        distance += difference.mul_(difference)
    for square in squares:
        distance += square[:, None]
    distance.masked_fill_(densities.index_select(0, flat).view_as(around) <= densities[places], math.inf)
    nearest = distance.amin(dim=0)
    order = torch.arange(len(offsets), device=best.device)[:, None]
    first = torch.where(distance == nearest, order, len(offsets) - 1).amin(dim=0)
    closer = nearest < best[unfinished]
    best[unfinished[closer]] = nearest[closer]
    steps[unfinished[closer]] = shifts[first[closer]]
