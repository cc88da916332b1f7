"""What is certain about the maps of one photo: a row per CAM, a column per sigma and radius."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from camrobust.contract.units import at_least
from camrobust.core.channels import as_photo
from camrobust.interface.picture_grid import WARNING, Cell, picture_grid
from camrobust.measure.certificates import certificates
from camrobust.measure.model import Model
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings
from camrobust.report.gallery import spoken
from camrobust.report.pictures import decoded, membership
from camrobust.summary.certified import class_is_certain


def certified_grid(
    model: Model, image: ImageVariants, settings: MeasureSettings, asked: CertifySettings, names: Sequence[str]
) -> Image.Image:
    """The photo with what is certain about each segment.

    Certainly in the top: in colour. Certainly not: dark. Undecided: grey, with stripes. Below each picture stands the
    least adjusted rank-biased overlap, below the photo whether the class is certain.

    Args:
        model: the classifier.
        image: only its clean pixels are used.
        settings: the CAMs.
        asked: what is certified.
        names: of the classes.
    """
    (rows,) = certificates(model, [image], settings, asked, drawn={0})
    photo = np.ascontiguousarray(as_photo(image.pixels)[0].numpy().transpose(1, 2, 0))
    columns = []
    ordered = sorted(rows, key=lambda row: (row["sigma"], row["radius"]))
    for (sigma, radius), of_cams in groupby(ordered, key=lambda row: (row["sigma"], row["radius"])):
        cells = {row["cam"]: row for row in of_cams}
        first = cells[settings.cams[0]]
        sure = class_is_certain(first)
        above = (f"within {radius:.3g} (sigma {sigma:g})", _decision(first, names, sure=sure))
        columns.append([Cell(Image.fromarray(photo), above, "black" if sure else WARNING)])
        for cam in settings.cams:
            row = cells[cam]
            drawn = membership(photo, decoded(row["membership"], "PNG", "L"))
            columns[-1].append(Cell(drawn, (_ranks(row), _shares(row))))
    return picture_grid([f"certain, p {1 - asked.alpha:g}", *settings.cams], columns)


def _decision(row: Mapping[str, Any], names: Sequence[str], *, sure: bool) -> str:
    what = "value" if row["predicted"] is None else spoken(row["predicted"], names)
    return f"{'certain' if sure else 'not certain'}: {what}"


def _ranks(row: Mapping[str, Any]) -> str:
    if row["certified_rbo_adjusted"] is None:
        return "no ranking (flat map)"
    return f"adjusted RBO at least {at_least(row['certified_rbo_adjusted'])}"


def _shares(row: Mapping[str, Any]) -> str:
    return f"in {row['certainly_in']:.0%}, out {row['certainly_out']:.0%}, undecided {row['undecided']:.0%}"
