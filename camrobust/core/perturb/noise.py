"""Random perturbations of single pixels and values."""

from functools import lru_cache
from math import inf
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.registry import imagenet_c, perturbation

LEVELS = 256


@imagenet_c(family="noise", severities=(0.08, 0.12, 0.18, 0.26, 0.38))
def gaussian_noise(
    images: Tensor,
    sigma: Annotated[float, Parameter(0, inf, "share of the pixel range", "standard deviation")],
    draws: Draws,
) -> Tensor:
    """Independent normal noise on every channel, clipped to the valid range."""
    return (images + sigma * draws.normal(images.shape[1:]).to(images.device)).clamp(0, 1)


@imagenet_c(family="noise", severities=(0.15, 0.2, 0.35, 0.45, 0.6))
def speckle_noise(
    images: Tensor,
    sigma: Annotated[float, Parameter(0, inf, "share of the pixel's value", "standard deviation")],
    draws: Draws,
) -> Tensor:
    """Normal noise in proportion to the value: x + x·σ·N(0, 1), clipped."""
    return (images + images * (sigma * draws.normal(images.shape[1:]).to(images.device))).clamp(0, 1)


@perturbation(family="noise", severities=(0.1, 0.15, 0.25, 0.35, 0.5), source="camrobust", channels=None)
def uniform_noise(
    images: Tensor,
    half_width: Annotated[float, Parameter(0, inf, "share of the pixel range", "largest change")],
    draws: Draws,
) -> Tensor:
    """Independent uniform noise in ±half_width on every channel, clipped."""
    noise = draws.uniform(images.shape[1:]).to(images.device) * 2 - 1
    return (images + half_width * noise).clamp(0, 1)


@imagenet_c(family="noise", severities=(0.03, 0.06, 0.09, 0.17, 0.27))
def impulse_noise(
    images: Tensor,
    amount: Annotated[float, Parameter(0, 1, "share of the values", "expected share that is replaced")],
    draws: Draws,
) -> Tensor:
    """Salt and pepper on each channel separately: half of the chosen values become 0, half become 1."""
    return _salt_and_pepper(images, draws.uniform(images.shape[1:]), amount)


@perturbation(family="noise", severities=(0.01, 0.02, 0.05, 0.1, 0.2), source="camrobust", channels=None)
def salt_pepper(
    images: Tensor,
    amount: Annotated[float, Parameter(0, 1, "share of the pixels", "expected share that is replaced")],
    draws: Draws,
) -> Tensor:
    """Salt and pepper on whole pixels: half of the chosen pixels become black, half become white."""
    return _salt_and_pepper(images, draws.uniform((1, *images.shape[2:])), amount)


def _salt_and_pepper(images: Tensor, uniform: Tensor, amount: float) -> Tensor:
    """Black where u < amount/2, white where amount/2 <= u < amount."""
    uniform = uniform.to(images.device)
    salted = torch.where(uniform < amount, torch.ones_like(images), images)
    return torch.where(uniform < amount / 2, torch.zeros_like(images), salted)


@imagenet_c(family="noise", severities=(60, 25, 12, 5, 3))
def shot_noise(
    images: Tensor,
    rate: Annotated[float, Parameter(0.01, 10_000, "photons at full brightness", "fewer photons are noisier")],
    draws: Draws,
) -> Tensor:
    """Poisson noise: N/rate with N ~ Poisson(x·rate), by exact inversion of one uniform number per value.

    Deviation: x is first rounded to its 8-bit level, since photographs are 8-bit, also where an image has 65,536
    levels. A table of 256 distributions then serves every value.
    """
    levels = (images * (LEVELS - 1)).round().long()
    uniform = draws.uniform(images.shape[1:]).to(images.device)
    counts = _poisson(levels.flatten(), uniform.flatten(), rate).reshape(images.shape)
    return (counts.float() / rate).clamp(0, 1)


BUCKETS = 2048
"""Intervals into which a uniform number is sorted before its count is looked up."""


@lru_cache(maxsize=16)
def _poisson_guide(rate: float, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """The table of `_poisson_table`, and a shortcut: the count for each level and interval of the uniform number.

    Returns:
        The table; (256·2048,) int16 counts, -1 where the count changes within the interval; columns of the table.
    """
    table = _poisson_table(rate)
    columns = table.shape[1]
    last = (torch.arange(1, BUCKETS + 1, dtype=torch.float64) / BUCKETS - 2.0**-24) + torch.arange(LEVELS)[:, None]
    first = torch.arange(BUCKETS, dtype=torch.float64) / BUCKETS + torch.arange(LEVELS)[:, None]
    low, high = (torch.searchsorted(table.flatten(), edge, right=True) for edge in (first, last))
    counts = torch.where(low == high, low - torch.arange(LEVELS)[:, None] * columns, -1)
    return table.flatten().to(device), counts.flatten().to(torch.int16).to(device), columns


def _poisson(levels: Tensor, uniform: Tensor, rate: float) -> Tensor:
    """Counts N with mean level/255·rate, by inversion of 24-bit uniform numbers; flat tensors, int64."""
    table, guide, columns = _poisson_guide(rate, levels.device)
    counts = guide[levels * BUCKETS + (uniform * BUCKETS).long()].long()
    (unsure,) = torch.nonzero(counts < 0, as_tuple=True)
    level = levels[unsure]
    places = torch.searchsorted(table, uniform[unsure].double() + level, right=True)
    counts[unsure] = places - level * columns
    return counts.clamp_(0, columns - 1)


def _poisson_table(rate: float) -> Tensor:
    """Cumulative Poisson probabilities of every 8-bit level, (256, columns) float64, sorted when flattened.

    Row l holds l + P(N <= k | mean l/255 · rate) for k = 0, 1, …. So l + u, for a uniform number u, belongs at place
    l·columns + N of the flattened table.
    """
    means = np.arange(LEVELS, dtype=np.float64) / (LEVELS - 1) * rate
    columns = int(rate + 12 * rate**0.5 + 20)
    table = np.empty((LEVELS, columns))
    # Logarithms, since exp(-mean) alone would underflow for large rates.
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, columns)))))
    with np.errstate(divide="ignore", invalid="ignore"):
        chances = np.exp(np.arange(columns) * np.log(means)[:, None] - means[:, None] - logs)
    chances[0] = 0.0
    chances[0, 0] = 1.0
    np.cumsum(chances, axis=1, out=table)
    table[:, -1] = 1.0
    return torch.from_numpy(np.minimum(table, 1.0) + np.arange(LEVELS)[:, None])
