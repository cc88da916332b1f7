"""The gallery of the report: the images whose maps are most stable, least stable, or do not follow the prediction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.schema import CLEAN
from camrobust.contract.units import percent
from camrobust.report.pictures import MOST_SIDE_PX, data_uri, decoded, outlined, overlay

EXTREMES = 3
"""Most images of each kind: most stable, least stable, flipped."""
HALF = 0.5
"""Confidence above which a label counts as there."""
Kind = Literal["most", "least", "flipped"]
Row = dict[str, Any]
PAIR = ("perturbation", "strength", "replicate")
KEPT = pl.col("kept_class") & (pl.col("status") == "ok")


@dataclass(frozen=True)
class Cell:
    """One variant of an image: its photo and map, and the texts beside them."""

    title: str
    photo: str
    map: str
    label: str
    confidence: str
    agreement: str


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery, clean and under some of its variants; `flip` names the classes before and after."""

    image_id: str
    dataset: str
    remark: str
    cells: list[Cell]
    flip: tuple[str, str] | None = None


def spoken(number: int | None, names: Sequence[str]) -> str:
    """What a class is called: its name, with its number if another class has that name; its number if it has none."""
    name = names[number] if number is not None and 0 <= number < len(names) else ""
    if not name:
        return f"class {number}"
    return name if names.count(name) == 1 else f"{name} ({number})"


@dataclass(frozen=True)
class _Drawn:
    """The maps of one model, of which one CAM is drawn.

    Attributes:
        maps: the gallery table.
        cam: which method.
        names: of the model's classes.
    """

    maps: pl.DataFrame
    cam: str
    names: Sequence[str]

    def cells(self, image: Row, pairs: Sequence[Row]) -> list[Cell]:
        """The clean image, then the perturbed one of every pair."""
        variants = self.maps.filter(_of(image))
        clean = _only(variants.filter(pl.col("perturbation") == CLEAN))
        cells = [self._cell(clean, "clean, with segments", "reference")]
        for pair in pairs:
            same = pl.all_horizontal(pl.col(key) == pair[key] for key in PAIR)
            level = pair["strength"] if pair["severity"] is None else pair["severity"]
            variant = _only(variants.filter(same))
            cells.append(
                self._cell(variant, f"{pair['perturbation']} {level}", f"agreement {pair['rbo_adjusted']:.2f}")
            )
        return cells

    def _cell(self, variant: Row, title: str, agreement: str) -> Cell:
        photo = decoded(variant["photo"], "JPEG", "RGB")
        values = self._map(variant)
        clean = variant["perturbation"] == CLEAN
        return Cell(
            title=title,
            photo=data_uri(outlined(photo, variant["outlines"] if clean else None)),
            map=data_uri(overlay(photo, values)),
            label=spoken(variant["predicted"], self.names) if variant["value"] is None else f"{variant['value']:.4g}",
            confidence="" if variant["confidence"] is None else percent(variant["confidence"]),
            agreement=agreement,
        )

    def _map(self, variant: Row) -> NDArray[np.float16]:
        cams: Sequence[str] = variant["cams"].split(",")
        grid = (len(cams), variant["height"], variant["width"])
        fits = min(grid) > 0 and max(grid[1:]) <= MOST_SIDE_PX and len(variant["maps"]) == 2 * math.prod(grid)
        if not fits or self.cam not in cams:
            raise UserError(
                f"report: maps/ holds no map of {short(self.cam)} for {short(variant['image_id'])} of the size that it "
                "says; get a sound copy of the run"
            )
        values: NDArray[np.float16] = np.frombuffer(variant["maps"], "<f2").reshape(grid)[cams.index(self.cam)]
        return values


def _only(rows: pl.DataFrame) -> Row:
    """The only row.

    Raises:
        UserError: there is not exactly one.
    """
    if rows.height != 1:
        raise UserError(
            "report: maps/ does not hold every variant of an image of the gallery once; get a sound copy of the run"
        )
    return rows.row(0, named=True)


def exhibits(
    maps: pl.DataFrame, scores: pl.LazyFrame, model: str, cam: str, names: Sequence[str] = ()
) -> dict[Kind, list[Exhibit]]:
    """The images of the gallery that show most about one model and CAM.

    Stability of an image is its mean adjusted agreement over pairs that kept their class. Of the most and the least
    stable images the variants with the highest, the median and the lowest agreement are shown; of the images whose
    prediction flipped, the flipped variant whose map agrees most with the clean one.

    Args:
        maps: the gallery table.
        scores: all score rows.
        model: whose maps.
        cam: which method.
        names: of the model's classes, in the order of the logits; empty if they are not known.

    Returns:
        "most", "least" and "flipped", each at most EXTREMES images; an image is in one of "most" and "least" only.
    """
    borders = maps.drop_nulls("outlines").select("dataset", "image_id", "outlines").unique(["dataset", "image_id"])
    maps = maps.filter(pl.col("model") == model).drop("outlines").join(borders, on=["dataset", "image_id"], how="left")
    keys = ["dataset", "image_id", *PAIR]
    rows = scores.filter((pl.col("model") == model) & (pl.col("cam") == cam))
    known = rows.join(maps.lazy().select(keys), on=keys, how="semi").collect(engine="streaming")
    known = known.drop_nulls("rbo_adjusted")
    ranked = (
        known.filter(KEPT)
        .group_by("dataset", "image_id")
        .agg(pl.col("rbo_adjusted").mean().alias("stability"))
        .sort("stability", "image_id", descending=[True, False])
    )
    count = min(EXTREMES, (ranked.height + 1) // 2)
    most, least = ranked.head(count), ranked.slice(max(count, ranked.height - count)).reverse()
    drawn = _Drawn(maps, cam, names)
    return {
        "most": [_stable(row, drawn, known) for row in most.iter_rows(named=True)],
        "least": [_stable(row, drawn, known) for row in least.iter_rows(named=True)],
        "flipped": [_flipped(row, drawn) for row in _unmoved(known).iter_rows(named=True)],
    }


def _unmoved(known: pl.DataFrame) -> pl.DataFrame:
    """Of each image, the flipped pair whose maps agree most; images with the highest agreement come first."""
    flipped = known.filter(~pl.col("kept_class") & (pl.col("status") == "ok"))
    ordered = flipped.sort("rbo_adjusted", "image_id", *PAIR, descending=[True, False, False, False, False])
    return ordered.unique(["dataset", "image_id"], keep="first", maintain_order=True).head(EXTREMES)


def _stable(image: Row, drawn: _Drawn, known: pl.DataFrame) -> Exhibit:
    kept = known.filter(KEPT & _of(image)).sort("rbo_adjusted", *PAIR, descending=[True, False, False, False])
    places = dict.fromkeys((0, kept.height // 2, kept.height - 1))
    cells = drawn.cells(image, [kept.row(place, named=True) for place in places])
    return Exhibit(image["image_id"], image["dataset"], f"mean agreement {image['stability']:.2f}", cells)


def _flipped(pair: Row, drawn: _Drawn) -> Exhibit:
    before, after = (_decided(pair, which, drawn.names) for which in ("clean", "perturbed"))
    return Exhibit(pair["image_id"], pair["dataset"], "", drawn.cells(pair, [pair]), (before, after))


def _decided(pair: Row, which: str, names: Sequence[str]) -> str:
    """The decision on one image of a flipped pair: its value, its class, or whether it has the explained label."""
    if pair[f"value_{which}"] is not None:
        return f"{pair[f'value_{which}']:.4g}"
    name = spoken(pair[f"predicted_{which}"], names)
    there = pair["predicted_clean"] != pair["predicted_perturbed"] or (pair[f"confidence_{which}"] or 0) > HALF
    return name if there else f"not {name}"


def _of(image: Row) -> pl.Expr:
    return pl.col("dataset").eq(image["dataset"]) & pl.col("image_id").eq(image["image_id"])
