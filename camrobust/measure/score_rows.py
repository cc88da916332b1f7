"""Score rows of many images under one model, column by column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from camrobust.core.similarity import SIMILARITIES
from camrobust.measure.image_batch import ImageBatch

Columns = dict[str, np.ndarray]
PER_ROW = ("class", "confidence", "entropy", "kept", "value")
"""What a pass gives for every row, beside the numbers of its maps."""
MARKS = ("finite", "flat", "ambiguous")
"""What a comparison gives beside numbers; the status says it."""


def score_rows(
    model: str, batch: ImageBatch, cams: Sequence[str], per_row: np.ndarray, compared: Mapping[str, np.ndarray]
) -> Columns:
    """The score rows of a batch: image by image, variant by variant, CAM by CAM.

    Args:
        model: name of the model.
        batch: the images, N rows in all, of which V are perturbed.
        cams: names of the K CAMs.
        per_row: (5, N) float32, as in `PER_ROW`.
        compared: (N, K) each, from `comparison.Comparison`.

    Returns:
        Columns by name, each of V·K values, undefined numbers as NaN. Measures that were not made are NaN.
    """
    K, noisy = len(cams), batch.is_noisy
    owner, clean = batch.owner[noisy], batch.clean[noisy]
    classes, confidences, entropies, kept, values = per_row
    variants = [variant for image in batch.images for variant in image.variants]
    samples = [image.sample for image in batch.images]

    def each(values: Any, dtype: type = object) -> np.ndarray:
        """One value per perturbed row, each repeated for the row's K CAMs."""
        return np.repeat(np.array(values, dtype), K)

    def of_image(values: Any, dtype: type = object) -> np.ndarray:
        """One value per image."""
        return np.repeat(np.array(values, dtype)[owner], K)

    count = len(owner)
    nowhere = np.zeros((count, K), bool)
    columns: Columns = {
        "dataset": of_image([sample.dataset for sample in samples]),
        "model": np.full(count * K, model, object),
        "image_id": of_image([sample.image_id for sample in samples]),
        "cam": np.tile(np.array([*cams], object), count),
        "perturbation": each([variant.perturbation for variant in variants]),
        "severity": each([variant.severity for variant in variants]),
        "strength": each([variant.strength for variant in variants]),
        "replicate": each([variant.replicate for variant in variants], int),
        "attacked_cam": each([variant.attacked_cam for variant in variants]),
        "predicted_clean": each(classes[clean], float),
        "predicted_perturbed": each(classes[noisy], float),
        "confidence_clean": each(confidences[clean], float),
        "entropy_clean": each(entropies[clean], float),
        "confidence_perturbed": each(confidences[noisy], float),
        "label": of_image([sample.label for sample in samples]),
        "value_clean": each(values[clean], float),
        "value_perturbed": each(values[noisy], float),
        "kept_class": each(kept[noisy], bool),
        "n_segments": of_image(batch.sizes, int),
        "status": _status(*(compared[name][noisy] > 0 if name in compared else nowhere for name in MARKS)),
    }
    undefined = np.full(count * K, np.nan, np.float32)
    names = [name for name in compared if name not in MARKS]
    columns |= dict.fromkeys(SIMILARITIES.names(), undefined)
    return columns | {name: compared[name][noisy].reshape(-1) for name in names}


def _status(finite: np.ndarray, flat_maps: np.ndarray, ambiguous: np.ndarray) -> np.ndarray:
    status = np.where(ambiguous, "ambiguous", "ok").astype(object)
    status[flat_maps] = "flat_map"
    status[~finite] = "not_finite"
    return status.reshape(-1)
