"""Estimates and intervals that treat the image as the block, because rows of one image are not independent."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
LEVEL = 0.95
"""Confidence of the intervals of tests, characteristics and differences."""


@dataclass(frozen=True)
class RatioSums:
    """Sums over the images of a group for one ratio estimate Σa/Σb; every field has one value per group.

    Attributes:
        images: G, number of images that contribute (b > 0).
        a: Σ a_i.
        b: Σ b_i.
        aa: Σ a_i².
        ab: Σ a_i·b_i.
        bb: Σ b_i².
    """

    images: Array
    a: Array
    b: Array
    aa: Array
    ab: Array
    bb: Array

    @property
    def estimate(self) -> Array:
        """Σa/Σb, NaN if no image contributes."""
        return _divide(self.a, self.b)

    def variance(self) -> Array:
        """Variance of the estimate, clustered by image: G/(G-1)·Σ e², e_i = (a_i - C·b_i)/Σb.

        NaN if fewer than two images contribute.

        References:
            Cochran 1977, "Sampling Techniques", §2.11, the linearised ratio estimate.
        """
        C = self.estimate
        squares = self.aa - 2 * C * self.ab + C**2 * self.bb
        return np.maximum(squares, 0) / np.square(_positive(self.b)) * _correction(self.images)


def _positive(values: Array) -> Array:
    return np.where(values > 0, values, np.nan)


def _divide(a: Array, b: Array) -> Array:
    return a / _positive(b)


def _correction(images: Array) -> Array:
    """G/(G-1), NaN below two images."""
    return np.where(images > 1, images / np.where(images > 1, images - 1, 1), np.nan)


def covariance(first: RatioSums, second: RatioSums, cross: tuple[Array, Array, Array, Array], images: Array) -> Array:
    """Covariance of two ratio estimates over the same images.

    Args:
        first: sums of C = Σa/Σb.
        second: sums of R = Σc/Σd.
        cross: Σ a·c, Σ a·d, Σ b·c, Σ b·d.
        images: number of images in the group.
    """
    ac, ad, bc, bd = cross
    C, R = first.estimate, second.estimate
    return (ac - R * ad - C * bc + C * R * bd) / (_positive(first.b) * _positive(second.b)) * _correction(images)


def product_variance(C: Array, R: Array, var_c: Array, var_r: Array, cov: Array) -> Array:
    """Variance of C·R by the delta method: R²·Var C + C²·Var R + 2·C·R·Cov."""
    return np.maximum(R**2 * var_c + C**2 * var_r + 2 * C * R * cov, 0)


def t_interval(estimate: Any, error: Any, freedom: Any, level: float = LEVEL) -> tuple[Any, Any]:
    """Bounds of an estimate by Student's t.

    Args:
        estimate: a number or an array.
        error: its standard error.
        freedom: degrees of freedom.
        level: confidence, (0, 1).
    """
    half = stdtrit(freedom, (1 + level) / 2) * error
    return estimate - half, estimate + half


def interval(
    estimate: Array, variance: Array, images: Array, level: float = LEVEL, low: float = -np.inf, high: float = np.inf
) -> tuple[Array, Array]:
    """Bounds by Student's t with G - 1 degrees of freedom, clipped to the range of the measure.

    Args:
        estimate: one value per group.
        variance: variance of the estimate; NaN gives NaN bounds.
        images: G, number of images behind the estimate.
        level: confidence, (0, 1).
        low: smallest possible value.
        high: largest possible value.
    """
    lower, upper = t_interval(estimate, np.sqrt(variance), np.maximum(images - 1, 1), level)
    return np.clip(lower, low, high), np.clip(upper, low, high)


def image_weights(dataset: str, images: Sequence[str], seed: int, resamples: int) -> Array:
    """How often each image is drawn in each resample of the bootstrap.

    The counts are Poisson(1) from a random stream of the image's own, so that they do not depend on which images are
    read together. This is drawing N of N images with replacement, except that the number drawn varies.

    Args:
        dataset: name of the dataset.
        images: I image ids.
        seed: seed of the run.
        resamples: R, number of resamples.

    Returns:
        (R, I).

    References:
        Chamandy, Muralidharan, Najmi & Naidu 2012, "Estimating Uncertainty for Massive Data Streams".
    """
    weights = np.empty((len(images), resamples))
    for place, image in enumerate(images):
        key = blake2b(f"{seed}\0{dataset}\0{image}".encode(), digest_size=16).digest()
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        weights[place] = stream.poisson(1.0, resamples)
    return weights.T


def percentiles(resampled: Array, images: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Bounds around the middle of the resampled estimates; NaN for fewer than two images.

    Args:
        resampled: (G, R) estimates, NaN for a resample that drew no image with such a pair.
        images: (G,) number of images behind the estimate.
        level: confidence, (0, 1).
    """
    low, high = np.full(len(resampled), np.nan), np.full(len(resampled), np.nan)
    for place in np.flatnonzero(images > 1):
        known = resampled[place][~np.isnan(resampled[place])]
        if known.size:
            low[place], high[place] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return low, high
