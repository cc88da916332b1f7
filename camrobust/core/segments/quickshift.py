"""Quickshift of whole batches as shifts of flat tensors: no loop over pixels, the same code on CPU and GPU.

All is computed in float64, because the order of two densities decides a label and the noise that breaks their ties has
a standard deviation of only 1e-5.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.channels import check_channels
from camrobust.core.segments.colour import colours as colours_of
from camrobust.core.segments.padded import PaddedBatch
from camrobust.core.segments.parents import steps_to_parents

BLOCK = {"cpu": 2**17, "cuda": 2**25}
"""Largest number of elements of a temporary tensor: 1 MiB, about a CPU core's cache, and 256 MiB on a GPU."""
FAR = 1e4
"""Colour of the margins, so far from all colours that the density kernel is exactly 0 there."""
TIE_SEED, TIE_SCALE = 42, 1e-5
"""Seed and standard deviation of the noise that breaks ties of densities, as in scikit-image."""


def quickshift(images: Tensor, kernel_size: float = 4, max_dist: float = 200, ratio: float = 0.2) -> Tensor:
    """Quickshift segments of every image, with the same labels as scikit-image.

    The density of a pixel is Σ exp(-d²/(2·kernel_size²)) over its window, d the distance in Lab colour (times `ratio`)
    and position (px). The parent of a pixel is the nearest pixel of higher density in the window, unless it is farther
    than `max_dist`. Every tree of pixels and parents is a segment. One channel is cut like a grey photo; other numbers
    of channels are compared as they are, with 100 from black to white, as in Lab.

    Args:
        images: (B, C, H, W), float in [0, 1] or uint8.
        kernel_size: standard deviation of the density kernel, px, at least 1.
        max_dist: largest distance of a parent; a larger value gives fewer segments.
        ratio: weight of colour against position, [0, 1].

    Returns:
        (B, H, W) int64 on the images' device; each image's labels are 0 … m-1 in the order of their roots and depend
        on that image alone, not on the batch. On a GPU the last bit of a colour can differ; in a few of a hundred
        photos, some pixels with two equally near parents then get the other label.

    Raises:
        ValueError: images have another shape.
        UserError: a parameter is out of its range.

    References:
        Vedaldi & Soatto 2008, "Quick shift and kernel methods for mode seeking", ECCV. Details that the paper leaves
        open are those of scikit-image 0.26 (`rng=42`): a square window that reaches ⌈3·kernel_size⌉ px to every side,
        noise of 1e-5 on the densities, and of equally near parents the first in reading order.

    Examples:
        >>> import torch
        >>> from camrobust.core.segments import quickshift
        >>> photo = torch.zeros(1, 3, 24, 24)
        >>> photo[..., 12:] = 1
        >>> labels = quickshift(photo, max_dist=20)
        >>> labels.shape, labels.unique().tolist()
        (torch.Size([1, 24, 24]), [0, 1])
    """
    check_channels("quickshift", images)
    SEGMENTERS["quickshift"].resolve({"kernel_size": kernel_size, "max_dist": max_dist, "ratio": ratio})
    if images.numel() == 0:
        return torch.zeros(len(images), *images.shape[-2:], dtype=torch.int64, device=images.device)
    block = BLOCK.get(images.device.type, BLOCK["cpu"])
    batch = max(1, block // _padded(images, kernel_size).length // (2 * math.ceil(3 * kernel_size) + 1))
    batches = images.detach().split(batch)
    return torch.cat(_in_threads(lambda part: trees(colours_of(part) * ratio, kernel_size, max_dist), batches))


def _in_threads(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """Apply a function to batches, each in one thread, in as many threads as torch uses.

    Torch's own threads would wait for one another after each of thousands of small operations. On a busy machine that
    took eight times as long.
    """
    threads = torch.get_num_threads()
    if batches[0].device.type != "cpu" or threads == 1:
        return [function(batch) for batch in batches]
    try:
        with ThreadPoolExecutor(min(threads, len(batches)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, batches))
    finally:
        torch.set_num_threads(threads)


def _padded(images: Tensor, kernel_size: float) -> PaddedBatch:
    """The flat arrangement of images (B, C, H, W)."""
    height, width = images.shape[-2:]
    return PaddedBatch(len(images), height, width, math.ceil(3 * kernel_size))


def trees(colours: Tensor, kernel_size: float, max_dist: float) -> Tensor:
    """Quickshift of images in any colour space.

    Args:
        colours: (B, C, H, W) float64, to the scale of positions in px.
        kernel_size: standard deviation of the density kernel, px.
        max_dist: largest distance of a parent, px.

    Returns:
        (B, H, W) int64 on the colours' device; each image's labels are 0 … m-1 in the order of their roots.
    """
    padded = _padded(colours, kernel_size)
    block = BLOCK.get(colours.device.type, BLOCK["cpu"])
    noise = np.random.default_rng(TIE_SEED).normal(scale=TIE_SCALE, size=colours.shape[-2:])
    ties = torch.from_numpy(noise).to(colours.device)
    densities = padded.unflatten(_densities(padded, padded.flatten(colours, FAR), kernel_size, block)) + ties
    steps = steps_to_parents(
        padded, padded.flatten(colours, 0.0), padded.flatten(densities, -math.inf), max_dist, block
    )
    return _labels(padded, steps)


def _densities(padded: PaddedBatch, colours: Tensor, kernel_size: float, block: int) -> Tensor:
    """Sum of the Gaussian kernel over every pixel's window, (`length`,) float64.

    The kernel is symmetric, so each pair of pixels is computed once and added to both. The offsets of one window row
    form a matrix (offsets, pixels) without copies. Both sums over it are products with a vector: over its columns for
    the first pixel of the pairs, over its diagonals for the second.
    """
    reach = padded.reach
    widest = 2 * reach + 1
    most = min(padded.length, max(widest, block // widest))
    colours = colours * (math.sqrt(math.log2(math.e)) / kernel_size)
    norms = colours.square().sum(dim=0) / -2
    near = torch.arange(-reach, reach + 1, dtype=torch.float64, device=colours.device)
    kernel = torch.exp(-near.square() / (2 * kernel_size**2))
    densities = torch.ones_like(norms)
    # The diagonals leave the matrix on the right, so there must be zeros there.
    room = colours.new_zeros(widest, most + widest)
    end = padded.start + padded.length
    for first in range(padded.start, end, most):
        n = min(most, end - first)
        here = slice(first, first + n)
        room[:, n:] = 0
        for down in range(reach + 1):
            left = -reach if down else 1
            m = reach + 1 - left
            there = first + down * padded.stride + left
            weights = room[:m, :n]
            torch.add(_around(norms, there, m, n), norms[here], out=weights)
            for values in colours:
                weights.addcmul_(_around(values, there, m, n), values[here])
            share = kernel[left + reach :] * kernel[reach + down]
            densities[here] += weights.exp2_().t().mv(share)
            diagonals = torch.as_strided(room, (m, n + m - 1), (room.shape[1] - 1, 1))
            densities[there : there + n + m - 1] += diagonals.t().mv(share)
    return densities[padded.start : end]


def _around(values: Tensor, first: int, m: int, n: int) -> Tensor:
    """(m, n) view whose row k begins at index first + k."""
    return values[first:].as_strided((m, n), (1, 1))


def _labels(padded: PaddedBatch, steps: Tensor) -> Tensor:
    """Follow every pixel to the root of its tree, and number the roots of each image in reading order."""
    own = torch.arange(padded.length, device=steps.device)
    parents = own + steps
    grandparents = parents[parents]
    while not torch.equal(parents, grandparents):
        parents, grandparents = grandparents, grandparents[grandparents]
    roots = padded.flatten(padded.unflatten(steps) == 0, 0.0)[padded.start : padded.start + padded.length]
    numbers = padded.unflatten(roots.cumsum(0)[parents])
    return numbers - numbers.amin(dim=(1, 2), keepdim=True)
