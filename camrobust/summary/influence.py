"""Estimates over images with the influence of each image, for the difference of two estimates over the same images.

The estimates are those of the leaderboard with average macro. The interval of a difference comes from the delta method,
clustered by image: an image influences both estimates, and the common part of its influence cancels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrobust.summary.intervals import t_interval
from camrobust.summary.moments import SIDES
from camrobust.summary.profiles import Profile

Array = NDArray[np.float64]


class Side:
    """The values of one CAM, image by image, and their estimates.

    Attributes:
        values: (N,) by measure, NaN for an image that has none.
    """

    def __init__(self, profile: Profile, cam: str, rows: Any, measures: Sequence[str]) -> None:
        self.values = {name: profile.of_cam(name, cam).astype(np.float64)[rows] for name in measures}

    def estimate(self, name: str) -> tuple[float, Array]:
        """The mean over images (for RM the product of both means), and the influence of each image on it."""
        if not _factors(name):
            return _mean(self.values[name])
        (C, influence_c), (R, influence_r) = (_mean(self.values[factor]) for factor in _factors(name))
        return C * R, R * influence_c + C * influence_r

    def images(self, name: str) -> int:
        """How many images are behind the estimate; for RM behind its smaller factor."""
        return min(int((~np.isnan(self.values[factor])).sum()) for factor in _factors(name) or (name,))


def factors_of(name: str) -> tuple[str, ...]:
    """The measures from which an estimate is made."""
    return (*_factors(name), name)


def _factors(name: str) -> tuple[str, ...]:
    _, product, suffix = name.partition("robustness")
    return tuple(f"{side}{suffix}" for side in SIDES) if product else ()


def _mean(values: Array) -> tuple[float, Array]:
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.full(len(values), np.nan)
    mean = float(values[known].mean())
    return mean, np.where(known, values - mean, 0) / known.mean()


def paired_difference(first: Side, second: Side, name: str) -> tuple[float, float, float]:
    """First minus second over the same images, and the bounds of its 95 % interval.

    The degrees of freedom are those of the estimate with fewer images. The bounds are NaN below two images.
    """
    (one, influence), (other, influence_other) = first.estimate(name), second.estimate(name)
    images = min(first.images(name), second.images(name))
    both = influence - influence_other
    if images < 2:
        return one - other, np.nan, np.nan
    lower, upper = t_interval(one - other, np.sqrt(both.var(ddof=1) / len(both)), images - 1)
    return one - other, float(lower), float(upper)
