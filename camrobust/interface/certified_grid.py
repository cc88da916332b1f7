"""What is certain about the maps of one photo: a row per CAM, a column per sigma and radius."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.units import at_least
from camrobust.interface.picture_grid import WARNING, Cell, picture_grid
from camrobust.report.gallery import spoken
from camrobust.report.pictures import decoded, membership
from camrobust.summary.certified import class_is_certain


def certified_grid(rows: Sequence[Mapping[str, Any]], photo: NDArray[np.uint8], names: Sequence[str]) -> Image.Image:
    """The photo with what is certain about each segment.

    Certainly in the top: in colour. Certainly not: dark. Undecided: grey, with stripes. Below each picture stands the
    least adjusted rank-biased overlap, and what was seen at other images of that distance; below the photo whether the
    class is certain.

    Args:
        rows: all of one image under one model, with masks; columns as `certificates.CERTIFICATES`.
        photo: (H, W, 3), of the masks' size.
        names: of the classes.
    """
    cams = list(dict.fromkeys(row["cam"] for row in rows))
    columns = []
    ordered = sorted(rows, key=lambda row: (row["sigma"], row["radius"]))
    for (sigma, radius), of_cams in groupby(ordered, key=lambda row: (row["sigma"], row["radius"])):
        cells = {row["cam"]: row for row in of_cams}
        first = cells[cams[0]]
        sure = class_is_certain(first)
        above = (f"within {radius:.3g} (sigma {sigma:g})", _decision(first, names, sure=sure))
        columns.append([Cell(Image.fromarray(photo), above, "black" if sure else WARNING)])
        for cam in cams:
            row = cells[cam]
            columns[-1].append(Cell(certain_segments(row, photo), (_ranks(row), _shares(row), *_seen(row))))
    return picture_grid([f"certain, p {1 - rows[0]['alpha']:g}", *cams], columns)


def certain_segments(row: Mapping[str, Any], photo: NDArray[np.uint8]) -> Image.Image:
    """The photo with what one certificate says of each segment."""
    return membership(photo, decoded(row["membership"], "PNG", "L"))


def _decision(row: Mapping[str, Any], names: Sequence[str], *, sure: bool) -> str:
    what = "value" if row["predicted"] is None else spoken(row["predicted"], names)
    return f"{'certain' if sure else 'not certain'}: {what}"


def _ranks(row: Mapping[str, Any]) -> str:
    if row["certified_rbo_adjusted"] is None:
        return "no ranking (flat map)"
    return f"adjusted RBO at least {at_least(row['certified_rbo_adjusted'])}"


def _shares(row: Mapping[str, Any]) -> str:
    return f"in {row['certainly_in']:.0%}, out {row['certainly_out']:.0%}, undecided {row['undecided']:.0%}"


def _seen(row: Mapping[str, Any]) -> list[str]:
    """A line about what was seen at that distance; none where nothing was tried."""
    places = {"agreement_attacked": "attacked", "agreement_random": "random" if row["radius"] else "drawn again"}
    seen = [f"{where} {row[name]:.2f}" for name, where in places.items() if row[name] is not None]
    return [f"seen: {', '.join(seen)}"] if seen else []
