"""The science on one page: images with their variants in, columns of score rows out."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camrobust.core.similarity.sensitivity import InputChange
from camrobust.measure.image_batch import ImageBatch
from camrobust.measure.model import Model
from camrobust.measure.passes import PassResult, passes
from camrobust.measure.score_rows import PER_ROW, Columns, score_rows
from camrobust.measure.settings import ImageVariants, MeasureSettings
from camrobust.measure.transfer import to_host


@dataclass(frozen=True)
class Explained:
    """Maps and predictions of an image's variants, on the model's device; variant 0 is the clean one.

    Attributes:
        pixels: (V+1, C, H, W) on the CPU, the explained images, attacks on this model included.
        maps: (V+1, K, h, w) float32.
        predictions: (V+1,) int64; of a multi-label network the explained label.
        confidences: (V+1,) float32, probability of the prediction; NaN for values.
        kept: (V+1,) bool, whether the decision is that on the clean image.
        values: (V+1,) float32, the explained values; NaN where there are classes.
        change: how far every variant is from the clean one, (V+1, 1) each.
    """

    pixels: Tensor
    maps: Tensor
    predictions: Tensor
    confidences: Tensor
    kept: Tensor
    values: Tensor
    change: InputChange


def explain_variants(model: Model, images: Sequence[ImageVariants], settings: MeasureSettings) -> list[Explained]:
    """The maps of all variants of some images, without comparing them.

    Args:
        model: the classifier.
        images: the images and their variants, of one size in pixels.
        settings: the CAMs, and which class they explain.
    """
    batch = ImageBatch(images)
    results = list(passes(model, batch, settings, compare=False))
    return [_explained(batch, results, image) for image in range(len(images))]


def measure(
    model: Model,
    images: Sequence[ImageVariants],
    settings: MeasureSettings,
    renew: Callable[[], None] = lambda: None,
    keep: Set[int] = frozenset(),
) -> tuple[Columns, dict[int, Explained]]:
    """Score rows of some images under one model: image by image, variant by variant, CAM by CAM.

    The rows of an image do not depend on the other images, nor on their order.

    Args:
        model: the classifier.
        images: the images and their variants, of one size in pixels.
        settings: the CAMs, and how to compare their maps.
        renew: called before each pass.
        keep: numbers of the images whose maps are returned, too.

    Returns:
        Columns by name, at least those of `MeasureSettings.columns`, undefined numbers as NaN; and the maps by the
        number of their image.
    """
    batch = ImageBatch(images)
    names: list[str] = []
    coming: list[Callable[[], Tensor]] = []
    arrived: list[np.ndarray] = []
    kept: list[PassResult] = []
    for result in passes(model, batch, settings, renew):
        names = list(result.agreement)
        # The host takes the numbers of a pass when the next pass is on its way to the device.
        arrived += [wait().numpy() for wait in coming]
        coming = [to_host(_packed(result))]
        if not keep.isdisjoint(batch.owner[result.rows.start : result.rows.stop].tolist()):
            kept.append(result)
    arrived += [wait().numpy() for wait in coming]
    numbers = np.concatenate(arrived, axis=1)
    if not model.network.readout.has_classes:
        numbers[PER_ROW.index("class")] = np.nan
    K = len(settings.cams)
    per_row, per_map = numbers[: len(PER_ROW)], numbers[len(PER_ROW) :].reshape(len(names), K, -1)
    by_name = {name: values.T for name, values in zip(names, per_map, strict=True)}
    columns = score_rows(model.name, batch, settings.cams, per_row, by_name)
    return columns, {image: _explained(batch, kept, image) for image in sorted(keep)}


def _packed(result: PassResult) -> Tensor:
    """All numbers of a pass in one tensor: `PER_ROW`, then each measure's K rows, of one number per row each.

    A float32 holds every class number below 2**24 exactly.
    """
    per_row = torch.stack(
        [result.classes.float(), result.confidences, result.entropies, result.kept.float(), result.values]
    )
    per_map = torch.stack([values.float() for values in result.agreement.values()]).transpose(1, 2).flatten(0, 1)
    return torch.cat([per_row, per_map])[:, : len(result.rows)]


def _explained(batch: ImageBatch, results: Sequence[PassResult], image: int) -> Explained:
    """What the passes gave for one image."""
    found = []
    for result in results:
        first = max(batch.starts[image], result.rows.start) - result.rows.start
        stop = min(batch.starts[image + 1], result.rows.stop) - result.rows.start
        if first < stop:
            found.append((result, slice(first, stop)))
    return Explained(
        pixels=torch.cat([result.pixels[rows] for result, rows in found]).cpu(),
        maps=torch.cat([result.maps[rows] for result, rows in found]),
        predictions=torch.cat([result.classes[rows] for result, rows in found]),
        confidences=torch.cat([result.confidences[rows] for result, rows in found]),
        kept=torch.cat([result.kept[rows] for result, rows in found]),
        values=torch.cat([result.values[rows] for result, rows in found]),
        change=InputChange.cat([result.change.rows(rows) for result, rows in found]),
    )
