"""Pictures of maps: from the gallery table alone, with numpy and Pillow."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from camrobust.schema import CLEAN

RAMP = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
     (252, 255, 164)],
    dtype=np.float64,
)  # fmt: skip
"""Eight points of the perceptually uniform ramp "inferno"."""
EXTREMES = 4
SHOWN = 4
OUTLINE = (255, 255, 255)


def colour(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [0, 1], (H, W), to RGB, (H, W, 3)."""
    places = np.clip(values, 0, 1) * (len(RAMP) - 1)
    low = np.minimum(places.astype(int), len(RAMP) - 2)
    share = (places - low)[..., None]
    mixed: NDArray[np.uint8] = (RAMP[low] * (1 - share) + RAMP[low + 1] * share).round().astype(np.uint8)
    return mixed


def overlay(photo: NDArray[np.uint8], values: NDArray[Any], strength: float = 0.55) -> Image.Image:
    """A map over its photo.

    Args:
        photo: (H, W, 3) uint8.
        values: (h, w) of any range; drawn min-max scaled, NaN and constant maps as the least value.
        strength: opacity of the map, [0, 1].
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    scaled = (finite - low) / (high - low) if high > low else np.zeros_like(finite)
    size = (photo.shape[1], photo.shape[0])
    upsampled = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
    mixed = grey * (1 - strength) + colour(upsampled.astype(np.float64)) * strength
    return Image.fromarray(mixed.round().astype(np.uint8))


def outlined(photo: NDArray[np.uint8], outlines: bytes | None) -> Image.Image:
    """A photo with its segments' borders drawn."""
    if outlines is None:
        return Image.fromarray(photo)
    with Image.open(BytesIO(outlines)) as mask:
        border = np.asarray(mask.convert("L"))[..., None] > 0
    half = (photo.astype(np.uint16) + np.array(OUTLINE, np.uint16)) // 2
    return Image.fromarray(np.where(border, half, photo).astype(np.uint8))


def data_uri(picture: Image.Image) -> str:
    """A picture as a data: address, JPEG."""
    sink = BytesIO()
    picture.save(sink, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


@dataclass(frozen=True)
class Cell:
    """One variant of an image: photo, map, and what to say of them."""

    title: str
    photo: str
    map: str
    prediction: str
    agreement: str


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery."""

    image_id: str
    dataset: str
    stability: str
    cells: list[Cell]


def exhibits(maps: pl.DataFrame, scores: pl.LazyFrame, model: str, cam: str) -> dict[str, list[Exhibit]]:
    """The most and the least stable images of the gallery, for one model and CAM.

    Stability of an image is its mean adjusted agreement over pairs that kept their class.

    Args:
        maps: the gallery table.
        scores: all score rows.
        model: whose maps.
        cam: which method.

    Returns:
        "most" and "least", each at most four images, an image in one of them only.
    """
    maps = maps.filter(pl.col("model") == model)
    rows = scores.filter((pl.col("model") == model) & (pl.col("cam") == cam)).join(
        maps.lazy().select("dataset", "image_id").unique(), on=["dataset", "image_id"], how="semi"
    )
    known = rows.collect(engine="streaming")
    ranked = (
        known.filter(pl.col("same") & (pl.col("status") == "ok"))
        .group_by("dataset", "image_id")
        .agg(pl.col("rbo_adjusted").mean().alias("stability"))
        .drop_nulls()
        .sort("stability", "image_id", descending=[True, False])
    )
    count = min(EXTREMES, (ranked.height + 1) // 2)
    most, least = ranked.head(count), ranked.slice(max(count, ranked.height - count)).reverse()
    return {
        name: [_exhibit(row, maps, known, cam) for row in part.iter_rows(named=True)]
        for name, part in (("most", most), ("least", least))
    }


def _exhibit(image: dict[str, Any], maps: pl.DataFrame, scores: pl.DataFrame, cam: str) -> Exhibit:
    here = (pl.col("dataset") == image["dataset"]) & (pl.col("image_id") == image["image_id"])
    variants = maps.filter(here)
    clean = variants.filter(pl.col("perturbation") == CLEAN).row(0, named=True)
    perturbed = variants.filter(pl.col("perturbation") != CLEAN).to_dicts()
    places = np.unique(np.linspace(0, len(perturbed) - 1, min(SHOWN, len(perturbed))).round().astype(int))
    chosen = [perturbed[place] for place in places]
    cells = [_cell(clean, cam, None), *(_cell(row, cam, _agreement(row, scores.filter(here))) for row in chosen)]
    return Exhibit(image["image_id"], image["dataset"], f"{image['stability']:.2f}", cells)


def _agreement(variant: dict[str, Any], scores: pl.DataFrame) -> float | None:
    found = scores.filter(
        (pl.col("perturbation") == variant["perturbation"])
        & (pl.col("parameter") == variant["parameter"])
        & (pl.col("replicate") == variant["replicate"])
    )
    value: float | None = found["rbo_adjusted"][0] if found.height else None
    return value


def _cell(variant: dict[str, Any], cam: str, agreement: float | None) -> Cell:
    with Image.open(BytesIO(variant["photo"])) as image:
        photo = np.asarray(image.convert("RGB"))
    names: Sequence[str] = variant["cams"].split(",")
    grid = (len(names), variant["height"], variant["width"])
    values = np.frombuffer(variant["maps"], "<f2").reshape(grid)[names.index(cam)]
    clean = variant["perturbation"] == CLEAN
    level = variant["severity"] if variant["severity"] is not None else variant["parameter"]
    text = "reference" if clean else "no ranking" if agreement is None else f"agreement {agreement:.2f}"
    return Cell(
        title="clean, with segments" if clean else f"{variant['perturbation']} {level}",
        photo=data_uri(outlined(photo, variant["outlines"])),
        map=data_uri(overlay(photo, values)),
        prediction=f"class {variant['predicted']}, {variant['confidence']:.0%}",
        agreement=text,
    )
