"""Accuracy: how often the predicted class is the label, on the clean and on the perturbed images.

Every pair of an image with a label has two answers, that for the clean image and that for the perturbed one. Accuracies
are shares of pairs, as the share of flips is, flat maps included. Their intervals are Wilson's, with the effective
number of images in the place of the number of trials: pairs of one image are not independent, and Student's t would
give an accuracy of 1 an interval without width.

References:
    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    Dean & Pagano 2015, "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered Surveys".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
COLUMNS = ("label", "predicted_clean", "predicted_perturbed", "confidence_clean", "confidence_perturbed")
"""The columns of a score row that tell whether its two predictions are right."""
VARIANTS = ("clean", "perturbed")
MOMENTS = (
    "images",
    "pairs",
    "pairs_squared",
    *(f"{name}_{variant}" for variant in VARIANTS for name in ("a", "aa", "ab")),
)
"""Of a group: its images with labelled pairs, Σ b and Σ b² of their numbers of pairs b, and Σ a, Σ a² and Σ ab of the
numbers a of right answers among them. All are whole numbers, so that no order of addition changes them."""


@dataclass(frozen=True)
class Answers:
    """Whether the predictions of N score rows are their labels.

    Attributes:
        labelled: (N,) bool, there is a label to compare with.
        right: (2, N) bool, the class of the clean and of the perturbed image is the label.
    """

    labelled: NDArray[np.bool_]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, columns: dict[str, NDArray[np.floating[Any]]]) -> "Answers":
        """From the columns `COLUMNS` of score rows, (N,) float, NaN for null; logits without numbers are wrong."""
        label = columns["label"]
        predicted = np.stack([columns[f"predicted_{variant}"] for variant in VARIANTS])
        certain = np.isfinite([columns[f"confidence_{variant}"] for variant in VARIANTS])
        labelled = np.isfinite(label) & np.isfinite(predicted).all(axis=0)
        return cls(labelled, (predicted == label) & certain & labelled)

    def where(self, rows: NDArray[np.bool_]) -> "Answers":
        """Those of some rows."""
        return Answers(self.labelled[rows], self.right[:, rows])

    def counted(self, places: NDArray[np.int64], size: int) -> Array:
        """(3, size): labelled rows, and rows whose clean and whose perturbed prediction is right, by their place."""
        return np.stack([np.bincount(places[chosen], minlength=size) for chosen in self._each()]).astype(np.float64)

    def _each(self) -> Iterator[NDArray[np.bool_]]:
        yield self.labelled
        yield from self.right


def moments_of(counts: Array) -> Array:
    """(G, 9), the moments of the images of a block.

    Args:
        counts: (3, I, G), as `Answers.counted` gives them for every image and group.
    """
    b, *right = counts
    sums = [(b > 0).sum(0), b.sum(0), (b * b).sum(0)]
    for a in right:
        sums += [a.sum(0), (a * a).sum(0), (a * b).sum(0)]
    return np.stack(sums, axis=1)


def accuracy_table(moments: Array, level: float) -> pl.DataFrame:
    """The columns `schema.SUMMARY_ACCURACY` from the moments (G, 9) of G groups."""
    images, pairs, squared, *rest = moments.T
    columns: dict[str, Array] = {}
    for place, variant in enumerate(VARIANTS):
        right, aa, ab = rest[3 * place : 3 * place + 3]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = right / pairs
            variance = (aa - 2 * share * ab + share**2 * squared) / pairs**2
        low, high = wilson(share, variance, images, pairs, level)
        columns |= {
            f"accuracy_{variant}{end}": values for end, values in (("", share), ("_lower", low), ("_upper", high))
        }
    return pl.DataFrame({**columns, "n_labelled": pairs.astype(np.int64)}).fill_nan(None)


def wilson(share: Array, variance: Array, images: Array, pairs: Array, level: float) -> tuple[Array, Array]:
    """Wilson's interval around shares of pairs that are clustered by image.

    Args:
        share: (G,) in [0, 1].
        variance: (G,), of the share, from the residuals of the images.
        images: (G,), number of images; with one pair each, it is the number of trials.
        pairs: (G,), number of pairs, which is the largest effective number.
        level: confidence, (0, 1).

    Examples:
        >>> import numpy as np
        >>> from camrobust.summary.answers import wilson
        >>> images = np.array([250.0])
        >>> low, high = wilson(np.ones(1), np.zeros(1), images, images, 0.95)
        >>> round(float(low[0]), 3), float(high[0])
        (0.985, 1.0)
    """
    z2 = float(ndtri((1 + level) / 2)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = share * (1 - share)
        # A share of 0 or 1, or one that all images have alike, shows no spread between images.
        n = np.where((spread > 0) & (variance > 0), np.minimum(spread / variance, pairs), images)
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = np.sqrt(z2 * (spread / n + z2 / (4 * n * n))) / (1 + z2 / n)
    known = images > 1
    return (
        np.where(known, np.clip(middle - half, 0, share), np.nan),
        np.where(known, np.clip(middle + half, share, 1), np.nan),
    )
