"""Agreement of maps with those of their clean images, for all rows of a pass at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.core.ranks import agreement
from camrobust.core.segments import segment_scores
from camrobust.core.similarity import flat, measured
from camrobust.core.similarity.sensitivity import InputChange
from camrobust.measure.image_batch import ImageBatch
from camrobust.measure.passes import PassResult
from camrobust.measure.settings import MeasureSettings


@dataclass(frozen=True)
class Pairs:
    """R pairs of maps, K CAMs each.

    Attributes:
        clean: (R, K, h, w), the maps of the clean images.
        noisy: (R, K, h, w), those of their variants.
        matrices: (B, M, h·w), from maps to scores of segments, from `core.segments.segment_matrices`.
        sizes: (B,) int64, how many of the M segments every image has.
        owner: (R,) int64, the image of every pair.
        image_size: H and W, px.
        change: how far the images and the model's outputs are apart, (R, 1) each; None where that is unknown.
        explained: (R,) bool, whether both maps explain a class; logits that are not numbers leave none.
    """

    clean: Tensor
    noisy: Tensor
    matrices: Tensor
    sizes: Tensor
    owner: Tensor
    image_size: tuple[int, int]
    change: InputChange | None
    explained: Tensor


def pairs_of(batch: ImageBatch, result: PassResult) -> Pairs:
    """Every map of a pass with that of its clean image; clean rows are paired with themselves."""
    matrices, sizes = batch.segments(result.rows, result.maps.device, *result.maps.shape[-2:])
    return Pairs(
        result.clean_maps,
        result.maps,
        matrices,
        sizes,
        result.owner,
        batch.image_size,
        result.change,
        result.explained,
    )


def map_agreement(pairs: Pairs, settings: MeasureSettings) -> dict[str, Tensor]:
    """Agreement of the two maps of every pair.

    Returns:
        One tensor (R, K) for rank-biased overlap, raw and adjusted, and for every measure of the settings, NaN where
        undefined; and the bool tensors `flat` and `finite`.
    """
    maps = torch.stack([pairs.clean, pairs.noisy])
    flattened = maps.flatten(3)
    counts = pairs.sizes[pairs.owner][:, None]
    scores = torch.stack([segment_scores(side, pairs.matrices, pairs.owner) for side in flattened])
    # Images with fewer segments than others are filled up with their first one, which leaves a constant list constant.
    filling = torch.arange(scores.shape[-1], device=scores.device) >= counts[..., None]
    scores = torch.where(filling, scores[..., :1], scores)
    rbo, adjusted = agreement(scores[0], scores[1], settings.rbo_p, settings.ties, counts)
    measures = [one for one in settings.measures() if one.takes != "change" or pairs.change is not None]
    values = {"rbo": rbo, "rbo_adjusted": adjusted} | measured(
        measures,
        positions=(flattened[0], flattened[1]),
        grid=(pairs.clean, pairs.noisy, pairs.image_size),
        segments=(scores[0], scores[1], counts),
        change=(flattened[0], flattened[1], pairs.change),
    )
    finite = torch.isfinite(flattened).all(dim=-1).all(dim=0) & pairs.explained[:, None]
    constant = (flat(flattened) | flat(scores)).any(dim=0)
    numbers = torch.stack([value.float() for value in values.values()])
    numbers = torch.where(finite & ~constant, numbers, torch.nan)
    return dict(zip(values, numbers, strict=True)) | {"flat": constant, "finite": finite}
