"""Rows of certificates: what cannot change within a distance of an image, see docs/certificates.md."""

from collections.abc import Callable, Sequence, Set
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from camrobust.core.certify.certificate import MapCertificate, map_certificate
from camrobust.core.certify.classes import certified_class
from camrobust.core.certify.membership import IN, OUT, UNDECIDED
from camrobust.measure.model import Model
from camrobust.measure.nearby import ATTACKED, RANDOM
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample
from camrobust.measure.smoothed import Smoothed, smoothed

PARTS = 2
"""The probability of an error is divided evenly between the class and the maps."""
SHADES = {IN: 255, UNDECIDED: 128, OUT: 0}
"""Grey levels of a membership mask."""


def certificates(
    model: Model,
    images: Sequence[ImageVariants],
    settings: MeasureSettings,
    asked: CertifySettings,
    renew: Callable[[], None] = lambda: None,
    drawn: Set[int] = frozenset(),
) -> list[list[dict[str, Any]]]:
    """Rows of `certificates.CERTIFICATES` for some images under one model, image by image.

    Args:
        model: the classifier.
        images: only the clean pixels are used.
        settings: the CAMs, the persistence of rank-biased overlap, and how many images a pass holds.
        asked: what is certified.
        renew: called before each pass.
        drawn: numbers of the images whose rows get a membership mask.
    """
    return [
        [
            row
            for sigma, sums in zip(
                asked.sigma, smoothed(model, image.sample, image.pixels[:1], settings, asked, renew), strict=True
            )
            for row in _rows(model, image.sample, settings, asked, sigma, sums, drawn=place in drawn)
        ]
        for place, image in enumerate(images)
    ]


def _rows(
    model: Model, sample: Sample, settings: MeasureSettings, asked: CertifySettings, sigma: float, sums: Smoothed, *,
    drawn: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of one image at one sigma, CAM by CAM and radius by radius."""
    shares = torch.tensor(asked.radii, dtype=torch.float64)
    alpha = asked.alpha / PARTS
    maps = map_certificate(sums.items, shares, alpha, asked.top, settings.rbo_p)
    decision = certified_class(torch.tensor(sums.hits), asked.samples, alpha)
    members = {name: maps.share(value) for name, value in _SHARES.items()}
    common = {
        "dataset": sample.dataset,
        "model": model.name,
        "image_id": sample.image_id,
        "sigma": sigma,
        "item": asked.item,
        "n": asked.samples,
        "alpha": asked.alpha,
        "predicted": sums.explained if model.network.readout.has_classes else None,
        "class_radius": None if decision.abstained else sigma * float(decision.radius),
        "abstained": bool(decision.abstained),
        "n_segments": sample.count,
    }
    return [
        common
        | {
            "cam": cam,
            "radius_share": share,
            "radius": share * sigma,
            "flat_share": float(maps.flat_share[place]),
            "certified_overlap": _number(maps.overlap[place, number]),
            "certified_rbo": _number(maps.rbo[place, number]),
            "certified_rbo_adjusted": _number(maps.rbo_adjusted[place, number]),
            "agreement_random": _number(sums.nearby[number, RANDOM, place]),
            "agreement_attacked": _number(sums.nearby[number, ATTACKED, place]),
            **{name: float(values[place, number]) for name, values in members.items()},
            "membership": membership_mask(sample, maps, place, number) if drawn else None,
        }
        for place, cam in enumerate(settings.cams)
        for number, share in enumerate(asked.radii)
    ]


_SHARES = {"certainly_in": IN, "certainly_out": OUT, "undecided": UNDECIDED}


def _number(value: Tensor) -> float | None:
    """A number; None where it is undefined."""
    return None if bool(value.isnan()) else float(value)


def membership_mask(sample: Sample, maps: MapCertificate, cam: int, radius: int) -> bytes:
    """A PNG of the image's size with the grey levels of `SHADES`."""
    members = maps.membership[cam, radius].numpy()
    shades = np.vectorize(SHADES.__getitem__, otypes=[np.uint8])(members)
    pixels: NDArray[np.uint8] = shades[sample.segments.cpu().numpy()]
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", optimize=True)
    return sink.getvalue()
