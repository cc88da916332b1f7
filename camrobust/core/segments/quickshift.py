"""Quickshift of whole batches, as shifts of flat tensors: no loop over pixels, the same code on CPU and GPU.

An image lies row after row in a flat stream with margins, so that a step to a neighbour is a step along the stream and
no pixel asks whether it is at an edge. In float64 throughout: the order of two densities decides a label, and the noise
that breaks their ties has a deviation of 1e-5.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.segments.colour import lab

BLOCK = {"cpu": 2**17, "cuda": 2**25}
"""Most elements of one temporary tensor: 1 MiB, about what a core's caches hold; 256 MiB."""
FAR = 1e4
"""Colour of the margins, where the density kernel is exactly 0."""
TIE_SEED, TIE_SCALE = 42, 1e-5
SPARSE = 0.4
"""Share of the pixels below which those that still look for a parent are gathered."""
FEWEST_OFFSETS = 8
"""That a gathered pixel looks at before it is asked again whether it may stop."""

Offset = tuple[int, int]
"""Rows down, columns right."""


@dataclass(frozen=True)
class _Stream:
    """How images of one size lie in a flat tensor.

    Attributes:
        count: images.
        height: rows of an image.
        width: pixels of a row.
        reach: pixels from the middle of the window to its edge, and the width of every margin.
    """

    count: int
    height: int
    width: int
    reach: int

    @property
    def stride(self) -> int:
        """Steps from a pixel to the one below."""
        return self.width + self.reach

    @property
    def start(self) -> int:
        """Place of the first pixel."""
        return self.reach * self.stride + self.reach

    @property
    def length(self) -> int:
        """Steps from the first pixel to the end of the margin below the last image."""
        return self.count * (self.height + self.reach) * self.stride

    def lay(self, values: Tensor, margin: float) -> Tensor:
        """(B, …, H, W) to (…, n), the margins filled with one value."""
        rows = pad(values, (0, self.reach, 0, self.reach), value=margin).movedim(0, -3).flatten(-3)
        return pad(rows, (self.start, self.start), value=margin)

    def lift(self, values: Tensor) -> Tensor:
        """(`length`,), from the first pixel on, to (B, H, W)."""
        return values.view(self.count, self.height + self.reach, self.stride)[:, : self.height, : self.width]


def quickshift(images: Tensor, kernel_size: float = 4, max_dist: float = 200, ratio: float = 0.2) -> Tensor:
    """Quickshift segments of every image, the labels those of scikit-image.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        kernel_size: width of the density kernel, px, at least 1.
        max_dist: cut-off of the tree; larger gives fewer segments.
        ratio: weight of colour against position, [0, 1].

    Returns:
        (B, H, W) int64 on the images' device, each image's labels 0 … m-1 in the order of their roots. They depend on
        the image alone, not on its batch. On a GPU the last bit of a colour may be another one, and then, in a few of
        a hundred photos, some pixels between equally near parents take the other one.

    Raises:
        ValueError: images of another shape.
        UserError: a parameter out of its range.

    References:
        Vedaldi & Soatto 2008, "Quick shift and kernel methods for mode seeking", ECCV. What the paper leaves open is
        decided as in scikit-image 0.26 (`rng=42`): Lab colours times ratio, a square window of ⌈3·kernel_size⌉ px to
        every side, noise of 1e-5 on the densities, of equally near parents the first in reading order.

    Examples:
        >>> import torch
        >>> from camrobust.core.segments import quickshift
        >>> photo = torch.zeros(1, 3, 24, 24)
        >>> photo[..., 12:] = 1
        >>> labels = quickshift(photo, max_dist=20)
        >>> labels.shape, labels.unique().tolist()
        (torch.Size([1, 24, 24]), [0, 1])
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"quickshift: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    SEGMENTERS["quickshift"].resolve({"kernel_size": kernel_size, "max_dist": max_dist, "ratio": ratio})
    if images.numel() == 0:
        return torch.zeros(len(images), *images.shape[-2:], dtype=torch.int64, device=images.device)
    block = BLOCK.get(images.device.type, BLOCK["cpu"])
    together = max(1, block // _stream(images, kernel_size).length // (2 * math.ceil(3 * kernel_size) + 1))
    parts = images.detach().split(together)
    return torch.cat(_spread(lambda part: trees(lab(part) * ratio, kernel_size, max_dist), parts))


def _spread(cut: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """Parts of a batch on as many threads as torch has, one each.

    Torch's own threads would meet at the end of every one of thousands of small operations, and spin there for a core
    that another process uses: measured at eight times the time on a busy machine.
    """
    threads = torch.get_num_threads()
    if parts[0].device.type != "cpu" or threads == 1:
        return [cut(part) for part in parts]
    try:
        with ThreadPoolExecutor(min(threads, len(parts)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(cut, parts))
    finally:
        torch.set_num_threads(threads)


def _stream(images: Tensor, kernel_size: float) -> _Stream:
    """How these images, (B, C, H, W), lie in a stream."""
    height, width = images.shape[-2:]
    return _Stream(len(images), height, width, math.ceil(3 * kernel_size))


def trees(colours: Tensor, kernel_size: float, max_dist: float) -> Tensor:
    """Quickshift of any colours.

    Args:
        colours: (B, C, H, W) float64, to the scale of positions in px.
        kernel_size: width of the density kernel, px.
        max_dist: cut-off of the tree.

    Returns:
        (B, H, W) int64 on the colours' device, each image's labels 0 … m-1 in the order of their roots.
    """
    stream = _stream(colours, kernel_size)
    block = BLOCK.get(colours.device.type, BLOCK["cpu"])
    noise = np.random.default_rng(TIE_SEED).normal(scale=TIE_SCALE, size=colours.shape[-2:])
    ties = torch.from_numpy(noise).to(colours.device)
    densities = stream.lift(_densities(stream, stream.lay(colours, FAR), kernel_size, block)) + ties
    steps = _steps(stream, stream.lay(colours, 0.0), stream.lay(densities, -math.inf), max_dist, block)
    return _labels(stream, steps)


def _densities(stream: _Stream, colours: Tensor, kernel_size: float, block: int) -> Tensor:
    """Sum of the Gaussian kernel over every pixel's window, (`length`,) float64.

    The kernel is symmetric: each pair of pixels is computed once, for the one above or to the left, and given to both.
    All offsets of one window row are a matrix (offsets, pixels) without copies, and the two sums over it are products
    with a vector: along its columns for one pixel of a pair, along its diagonals for the other.
    """
    reach = stream.reach
    widest = 2 * reach + 1
    most = min(stream.length, max(widest, block // widest))
    colours = colours * (math.sqrt(math.log2(math.e)) / kernel_size)
    norms = colours.square().sum(dim=0) / -2
    near = torch.arange(-reach, reach + 1, dtype=torch.float64, device=colours.device)
    kernel = torch.exp(-near.square() / (2 * kernel_size**2))
    densities = torch.ones_like(norms)
    # Zeros to the right of the weights are what the diagonals meet outside the matrix.
    room = colours.new_zeros(widest, most + widest)
    end = stream.start + stream.length
    for first in range(stream.start, end, most):
        n = min(most, end - first)
        here = slice(first, first + n)
        room[:, n:] = 0
        for down in range(reach + 1):
            left = -reach if down else 1
            m = reach + 1 - left
            there = first + down * stream.stride + left
            weights = room[:m, :n]
            torch.add(_around(norms, there, m, n), norms[here], out=weights)
            for values in colours:
                weights.addcmul_(_around(values, there, m, n), values[here])
            share = kernel[left + reach :] * kernel[reach + down]
            densities[here] += weights.exp2_().t().mv(share)
            diagonals = torch.as_strided(room, (m, n + m - 1), (room.shape[1] - 1, 1))
            densities[there : there + n + m - 1] += diagonals.t().mv(share)
    return densities[stream.start : end]


def _around(values: Tensor, first: int, m: int, n: int) -> Tensor:
    """(m, n) view whose row k begins at place first + k."""
    return values[first:].as_strided((m, n), (1, 1))


def _offsets(reach: int, max_dist: float) -> list[Offset]:
    """Of the window, nearest first, equally near ones in reading order; none farther than a parent may be."""
    side = range(-reach, reach + 1)
    every = [(down, right) for down in side for right in side if (down, right) != (0, 0)]
    return sorted((one for one in every if math.sqrt(_square(one)) <= max_dist), key=_square)


def _square(offset: Offset) -> int:
    return offset[0] ** 2 + offset[1] ** 2


def _steps(stream: _Stream, colours: Tensor, densities: Tensor, max_dist: float, block: int) -> Tensor:
    """From every pixel to its parent, the nearest of higher density; 0 where there is none. (`length`,) int64.

    From the middle of the window outwards: a pixel stops as soon as its parent, in colour and position, is no farther
    than the next offset is in position alone. While most pixels look, all are compared in place.
    """
    here = slice(stream.start, stream.start + stream.length)
    best = torch.full_like(densities[here], math.inf).masked_fill_(densities[here] == -math.inf, 0)
    steps = torch.zeros_like(best, dtype=torch.int64)
    offsets = _offsets(stream.reach, max_dist)
    many, done = SPARSE * stream.count * stream.height * stream.width, 0
    seekers = best.nonzero().squeeze(1)
    while done < len(offsets) and len(seekers) > many:
        ring = [one for one in offsets[done:] if _square(one) == _square(offsets[done])]
        _compare_all(stream, colours, densities, best, steps, ring, max(1, block // 8))
        done += len(ring)
        seekers = _unsettled(best, seekers, offsets, done)
    while done < len(offsets) and len(seekers):
        some = offsets[done : done + max(FEWEST_OFFSETS, block // (4 * len(seekers)))]
        _compare_some(stream, colours, densities, best, steps, some, seekers)
        done += len(some)
        seekers = _unsettled(best, seekers, offsets, done)
    return steps.masked_fill_(best.sqrt() > max_dist, 0)


def _unsettled(best: Tensor, seekers: Tensor, offsets: list[Offset], done: int) -> Tensor:
    """Those of the places whose parent may still be among the offsets that are left."""
    return seekers[best[seekers] > _square(offsets[done])] if done < len(offsets) else seekers[:0]


def _compare_all(
    stream: _Stream, colours: Tensor, densities: Tensor, best: Tensor, steps: Tensor, offsets: list[Offset], tile: int
) -> None:
    """Take into `best` and `steps` what every pixel finds at some offsets."""
    difference, distance = best.new_empty(2, min(tile, len(best)))
    for first in range(0, len(best), tile):
        nearest, step = best[first : first + tile], steps[first : first + tile]
        n, place = len(nearest), stream.start + first
        for down, right in offsets:
            shift = down * stream.stride + right
            for channel, values in enumerate(colours):
                one, other = values[place : place + n], values[place + shift : place + shift + n]
                # Not addcmul, which may fuse: of two parents at the same distance, rounding decides.
                torch.sub(one, other, out=difference[:n])
                square = torch.mul(difference[:n], difference[:n], out=difference[:n] if channel else distance[:n])
                if channel:
                    distance[:n].add_(square)
            found = distance[:n].add_(down**2).add_(right**2)
            higher = densities[place + shift : place + shift + n] > densities[place : place + n]
            closer = (found < nearest).logical_and_(higher)
            torch.where(closer, found, nearest, out=nearest)
            step.masked_fill_(closer, shift)


def _compare_some(
    stream: _Stream,
    colours: Tensor,
    densities: Tensor,
    best: Tensor,
    steps: Tensor,
    offsets: list[Offset],
    seekers: Tensor,
) -> None:
    """Take into `best` and `steps` what some pixels find at some offsets, gathered as (offsets, seekers)."""
    squares = torch.tensor(offsets, device=best.device).square().double().unbind(1)
    shifts = torch.tensor([down * stream.stride + right for down, right in offsets], device=best.device)
    places = seekers + stream.start
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
    closer = nearest < best[seekers]
    best[seekers[closer]] = nearest[closer]
    steps[seekers[closer]] = shifts[first[closer]]


def _labels(stream: _Stream, steps: Tensor) -> Tensor:
    """Follow every pixel to the root of its tree and number the roots of an image in reading order."""
    own = torch.arange(stream.length, device=steps.device)
    parents = own + steps
    grandparents = parents[parents]
    while not torch.equal(parents, grandparents):
        parents, grandparents = grandparents, grandparents[grandparents]
    roots = stream.lay(stream.lift(steps) == 0, 0.0)[stream.start : stream.start + stream.length]
    numbers = stream.lift(roots.cumsum(0)[parents])
    return numbers - numbers.amin(dim=(1, 2), keepdim=True)
