"""Maps and pictures of the images that the report shows."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.schema import CLEAN
from camrobust.core.channels import as_photo
from camrobust.core.perturb import Variant
from camrobust.core.scaling import min_max
from camrobust.measure.image import Explained
from camrobust.measure.model import Model
from camrobust.measure.settings import Sample

GALLERY_VARIANTS = 12
"""Most variants of a gallery image whose maps are kept."""


def map_rows(
    model: Model, sample: Sample, variants: Sequence[Variant], explained: Explained, *, first: bool, cams: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of `schema.MAPS`: the clean variant and at most `GALLERY_VARIANTS` of the others, evenly chosen.

    Args:
        model: the classifier.
        sample: the image.
        variants: its V perturbed variants.
        explained: their maps and predictions.
        first: whether this is the run's first model, with which the outlines of the segments are kept.
        cams: names of the K CAMs.
    """
    chosen = np.unique(np.linspace(1, len(variants), min(GALLERY_VARIANTS, len(variants))).round().astype(int))
    # Maps are drawn in [0, 1], which half precision holds whatever their magnitude.
    maps = min_max(explained.maps, (-2, -1)).cpu().numpy().astype("<f2")
    has_classes = model.network.readout.has_classes
    rows = []
    for place in (0, *chosen.tolist()):
        variant = variants[place - 1] if place else None
        rows.append(
            {
                "dataset": sample.dataset,
                "image_id": sample.image_id,
                "model": model.name,
                "perturbation": variant.perturbation if variant else CLEAN,
                "severity": variant.severity if variant else None,
                "strength": variant.strength if variant else "",
                "replicate": variant.replicate if variant else 0,
                "predicted": int(explained.predictions[place]) if has_classes else None,
                "confidence": float(explained.confidences[place]) if has_classes else None,
                "value": None if has_classes else float(explained.values[place]),
                "photo": _jpeg(as_photo(explained.pixels[place]).numpy()),
                "outlines": _outlines(sample.segments.numpy()) if first and not place else None,
                "cams": ",".join(cams),
                "height": maps.shape[2],
                "width": maps.shape[3],
                "maps": maps[place].tobytes(),
            }
        )
    return rows


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    sink = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def _outlines(segments: NDArray[np.integer]) -> bytes:
    """A one-bit PNG that is white on the border between two segments."""
    border = np.zeros(segments.shape, bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    sink = BytesIO()
    Image.fromarray(border).save(sink, "PNG", optimize=True)
    return sink.getvalue()
