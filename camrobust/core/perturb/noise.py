"""Random perturbations of single pixels and values.

All take images (B, 3, H, W) float32 in [0, 1], before the model's normalisation, and one random stream per image, and
return a new tensor of the same shape in [0, 1].
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.perturb.registry import check_streams, imagenet_c, perturbation, within

INFINITE = float("inf")
LEVELS = 256


@imagenet_c(
    "gaussian_noise", parameter="sigma", unit="share of the pixel range", severities=(0.08, 0.12, 0.18, 0.26, 0.38),
    family="noise", random=True, check=within("gaussian_noise", "sigma", 0, INFINITE, "share of the pixel range"),
)  # fmt: skip
def gaussian_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Independent normal noise on every channel, clipped to the valid range.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        sigma: standard deviation, share of the full pixel range.
        draws: one random stream per image; the only randomness.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Gaussian noise".
    """
    check_streams("gaussian_noise", images, draws)
    return (images + sigma * draws.normal(images.shape[1:]).to(images.device)).clamp(0, 1)


BUCKETS = 2048


@lru_cache(maxsize=16)
def _poisson_guide(rate: float, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """The table of `_poisson_table`, and for each level and 2048th of a uniform number the count, where certain.

    Returns:
        The table; (256·2048,) int16 counts, -1 where the count changes within the 2048th; columns of the table.
    """
    table = _poisson_table(rate)
    columns = table.shape[1]
    last = (torch.arange(1, BUCKETS + 1, dtype=torch.float64) / BUCKETS - 2.0**-24) + torch.arange(LEVELS)[:, None]
    first = torch.arange(BUCKETS, dtype=torch.float64) / BUCKETS + torch.arange(LEVELS)[:, None]
    low, high = (torch.searchsorted(table.flatten(), edge, right=True) for edge in (first, last))
    counts = torch.where(low == high, low - torch.arange(LEVELS)[:, None] * columns, -1)
    return table.flatten().to(device), counts.flatten().to(torch.int16).to(device), columns


def _poisson(levels: Tensor, uniform: Tensor, rate: float) -> Tensor:
    """Counts N with mean level/255·rate by inversion of uniform numbers of 24 bits; flat tensors, int64."""
    table, guide, columns = _poisson_guide(rate, levels.device)
    counts = guide[levels * BUCKETS + (uniform * BUCKETS).long()].long()
    (unsure,) = torch.nonzero(counts < 0, as_tuple=True)
    level = levels[unsure]
    places = torch.searchsorted(table, uniform[unsure].double() + level, right=True)
    counts[unsure] = places - level * columns
    return counts.clamp_(0, columns - 1)


def _poisson_table(rate: float) -> Tensor:
    """Cumulative Poisson probabilities of every 8-bit level, offset by the level, flat and sorted, float64.

    Row l holds l + P(N <= k | mean l/255 · rate) for k = 0, 1, …; a uniform number u then falls, as l + u, at position
    l·columns + N of the flat table.
    """
    means = np.arange(LEVELS, dtype=np.float64) / (LEVELS - 1) * rate
    columns = int(rate + 12 * rate**0.5 + 20)
    table = np.empty((LEVELS, columns))
    # The probability of N = k by its logarithm: exp(-mean) alone would underflow for large rates.
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, columns)))))
    with np.errstate(divide="ignore", invalid="ignore"):
        chances = np.exp(np.arange(columns) * np.log(means)[:, None] - means[:, None] - logs)
    chances[0] = 0.0
    chances[0, 0] = 1.0
    np.cumsum(chances, axis=1, out=table)
    table[:, -1] = 1.0
    return torch.from_numpy(np.minimum(table, 1.0) + np.arange(LEVELS)[:, None])


@imagenet_c(
    "shot_noise", parameter="rate", unit="photons at full brightness", severities=(60, 25, 12, 5, 3), family="noise",
    random=True, check=within("shot_noise", "rate", 0.01, 10_000, "photons at full brightness"),
)  # fmt: skip
def shot_noise(images: Tensor, rate: float, draws: Draws) -> Tensor:
    """Poisson noise: N/rate with N ~ Poisson(x·rate), by exact inversion of one uniform number per value.

    Deviation: x is rounded to its 8-bit level first, as photographs are 8-bit; a table of 256 distributions then serves
    every value.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        rate: photons counted at full brightness; fewer photons are noisier.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Shot noise".
    """
    check_streams("shot_noise", images, draws)
    levels = (images * (LEVELS - 1)).round().long()
    uniform = draws.uniform(images.shape[1:]).to(images.device)
    counts = _poisson(levels.flatten(), uniform.flatten(), float(rate)).reshape(images.shape)
    return (counts.float() / rate).clamp(0, 1)


def _salt_and_pepper(images: Tensor, uniform: Tensor, amount: float) -> Tensor:
    """Black where u < amount/2, white where u < amount."""
    uniform = uniform.to(images.device)
    salted = torch.where(uniform < amount, torch.ones_like(images), images)
    return torch.where(uniform < amount / 2, torch.zeros_like(images), salted)


@imagenet_c(
    "impulse_noise", parameter="amount", unit="share of the values", severities=(0.03, 0.06, 0.09, 0.17, 0.27),
    family="noise", random=True, check=within("impulse_noise", "amount", 0, 1, "share of the values"),
)  # fmt: skip
def impulse_noise(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """Salt and pepper on every channel by itself: half of the chosen values become 0, half 1.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        amount: expected share of values that are replaced.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Impulse noise".
    """
    check_streams("impulse_noise", images, draws)
    return _salt_and_pepper(images, draws.uniform(images.shape[1:]), amount)


@perturbation(
    "salt_pepper", parameter="amount", unit="share of the pixels", severities=(0.01, 0.02, 0.05, 0.1, 0.2),
    family="noise", random=True, source="camrobust", check=within("salt_pepper", "amount", 0, 1, "share of the pixels"),
)  # fmt: skip
def salt_pepper(images: Tensor, amount: float, draws: Draws) -> Tensor:
    """Salt and pepper on whole pixels: half of the chosen ones become black, half white.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        amount: expected share of pixels that are replaced.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.
    """
    check_streams("salt_pepper", images, draws)
    return _salt_and_pepper(images, draws.uniform((1, *images.shape[2:])), amount)


@imagenet_c(
    "speckle_noise", parameter="sigma", unit="share of the pixel's value", severities=(0.15, 0.2, 0.35, 0.45, 0.6),
    family="noise", random=True, check=within("speckle_noise", "sigma", 0, INFINITE, "share of the pixel's value"),
)  # fmt: skip
def speckle_noise(images: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Normal noise in proportion to the value: x + x·σ·N(0, 1), clipped.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        sigma: standard deviation, share of the value.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Speckle noise".
    """
    check_streams("speckle_noise", images, draws)
    return (images + images * (sigma * draws.normal(images.shape[1:]).to(images.device))).clamp(0, 1)


@perturbation(
    "uniform_noise", parameter="half_width", unit="share of the pixel range", severities=(0.1, 0.15, 0.25, 0.35, 0.5),
    family="noise", random=True, source="camrobust",
    check=within("uniform_noise", "half_width", 0, INFINITE, "share of the pixel range"),
)  # fmt: skip
def uniform_noise(images: Tensor, half_width: float, draws: Draws) -> Tensor:
    """Independent uniform noise in ±half_width on every channel, clipped.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        half_width: largest change, share of the full pixel range.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.
    """
    check_streams("uniform_noise", images, draws)
    noise = draws.uniform(images.shape[1:]).to(images.device) * 2 - 1
    return (images + half_width * noise).clamp(0, 1)
