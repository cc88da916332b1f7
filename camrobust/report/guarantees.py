"""Certificates on the page: a figure, two sentences, and some maps with what is certain about them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl

from camrobust.contract.certify_config import MOST_SIGMAS
from camrobust.contract.schema import CLEAN
from camrobust.contract.units import at_least, counted, percent
from camrobust.report.colours import in_colour, in_dashes, in_markers
from camrobust.report.figure import Figure, choice, choices, heading, picked, plain, source
from camrobust.report.pictures import data_uri, decoded, membership
from camrobust.summary.certified import class_is_certain

ONLY = "certified_only"
SHOWN = {
    "certified_consistency": "all images (0 if the class is not certain)",
    ONLY: "certain classes only",
}
NOTHING = (
    "Here nothing beyond chance is certain at any radius, for any CAM and any image whose class is certain, which says "
    "that the guarantee is weak and not that the maps are; smaller radii or more samples may show more."
)
"""Where no CAM is above 0, though some images have a certain class."""
NO_CLASS = (
    "Here the class of no image is certain at any radius, so every image counts as 0, whatever is certain about its "
    "map, which says that the guarantee is weak and not that the maps are; a smaller sigma, smaller radii or more "
    "samples may show more."
)
"""Where no image has a certain class."""
SEEN = {"agreement_attacked": "at an attacked image", "agreement_random": "at random images"}
"""Where the order was looked at; the columns' names, and with `_only` those over certain classes."""
CERTIFIED = ["certified consistency", "(0 = nothing guaranteed)"]
IMAGES = 4
"""Images whose certain segments are shown."""
AVERAGED = {"rank": "the ranks of segments", "top": "whether segments are in the top"}
"""What is averaged over the noise, by the kind of item."""


def certified_curves(table: pl.DataFrame, cams: Sequence[str], controls: Sequence[str]) -> Figure | None:
    """Certified consistency against the radius: a line with its 95 % interval per CAM, a panel per sigma.

    Above it, in thin lines, stands how well the orders agree at images within the radius, if that was looked at.

    Args:
        table: `certificates.CERTIFIED`.
        cams: names in the order of the colours.
        controls: CAMs that are a floor; drawn dashed.

    Returns:
        None where there is no certificate.
    """
    if table.is_empty():
        return None
    means = [name for name in SHOWN if table[name].count()]
    chosen = [choice("counted", means, [SHOWN[name] for name in means]), *choices(table, "model", "dataset")]
    seen = [name for name in SEEN if table[name].count()]
    looked = [choice("seen", seen, [SEEN[name] for name in seen])] if seen else []
    drawn = [cam for cam in cams if cam in table["cam"]]
    base = alt.Chart(source()).encode(
        x=alt.X("radius:Q", title="l2 radius (pixels from 0 to 1)", axis=alt.Axis(format=".2~g", tickCount=4)),
        color=in_colour(drawn, controls),
    )
    dashes = in_dashes(drawn, controls)
    axis = alt.Y("value:Q", title=CERTIFIED, scale=alt.Scale(domain=[0, 1], nice=False))
    band = base.mark_area(opacity=0.12, clip=True).encode(
        y=alt.Y("lower:Q", title=CERTIFIED), y2="upper:Q", tooltip=alt.value(None)
    )
    line = base.mark_line(clip=True).encode(y=axis, strokeDash=dashes)
    points = base.mark_point(size=34, opacity=1).encode(
        y=axis,
        shape=in_markers(drawn, controls),
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("radius:Q", format=".4g"),
            alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("lower:Q", format=".3f"),
            alt.Tooltip("upper:Q", format=".3f"), alt.Tooltip("n_certified:Q", title="images with a certain class"),
            alt.Tooltip("n_images:Q", title="images"),
        ],
    )  # fmt: skip
    above = base.mark_line(clip=True, strokeWidth=1, opacity=0.6).encode(
        y=alt.Y("seen:Q", title=CERTIFIED), strokeDash=dashes
    )
    faceted = (
        alt.layer(band, *([above] if seen else []), line, points)
        .properties(width=250, height=170)
        .facet(facet=alt.Facet("panel:N", title=None, sort=alt.EncodingSortField("sigma", op="min")), columns=3)
        .resolve_scale(x="independent")
        .transform_filter(picked(chosen[1:]))
        .transform_calculate(
            panel="'sigma ' + datum.sigma",
            value="datum[pick_counted]",
            lower="datum[pick_counted + '_lower']",
            upper="datum[pick_counted + '_upper']",
            **({"seen": f"datum[pick_seen + (pick_counted == '{ONLY}' ? '_only' : '')]"} if seen else {}),
        )
        .transform_filter("isValid(datum.value)")
        .properties(title=_title(table, seen))
        .add_params(*chosen, *looked)
    )
    keys = ("dataset", "model", "cam", "sigma", "radius_share", "radius", "n_images", "n_certified", "samples", "alpha",
            "item")  # fmt: skip
    bounds = [f"{name}{end}" for name in SHOWN for end in ("", "_lower", "_upper")]
    bounds += [f"{name}{end}" for name in seen for end in ("", "_only")]
    return Figure("certified", plain(faceted), table.select(*keys, *(pl.col(name).round(4) for name in bounds)))


def _title(table: pl.DataFrame, seen: Sequence[str]) -> alt.Title:
    """What the figure shows, so that its file needs no page around it."""
    what = f"Certified consistency (adjusted for chance) against the radius; {_alphas(table)}"
    more = f"'counting ' + ({json.dumps(SHOWN)})[pick_counted]"
    if seen:
        more += f" + '; thin lines: seen ' + ({json.dumps(SEEN)})[pick_seen]"
    return heading(what, table, "model", "dataset", more=[more])


def guarantee_sentences(table: pl.DataFrame | None, controls: Sequence[str]) -> list[str]:
    """What the figure says and does not say, in two sentences.

    Args:
        table: `certificates.CERTIFIED`; without rows there are no sentences.
        controls: CAMs that are a floor.
    """
    if table is None or table.is_empty():
        return []
    alpha, samples = _float(table["alpha"].max()), int(_float(table["samples"].min()))
    averaged = " or ".join(AVERAGED.get(str(item), "") for item in table["item"].unique().sort())
    first = (
        f"This is not about the map of one photo but about {averaged}, averaged over noise of deviation sigma: for "
        f"each image, CAM and sigma, with probability {1 - alpha:g} at least, the order of these averages over "
        f"{samples:,} samples agrees (adjusted RBO) with that of the true averages at every image within that l2 "
        "radius, whoever or whatever found it, at least as well as the value that counts here."
    )
    away = table.filter(pl.col("radius") > 0)
    tried = away if away.height else table
    cams = tried.filter(~pl.col("cam").is_in(controls))
    best = cams.sort("certified_consistency", "radius", descending=[True, False], nulls_last=True).head(1)
    if best.is_empty() or not best["certified_consistency"][0]:
        return [first, NOTHING if tried["n_certified"].sum() else NO_CLASS]
    row = best.row(0, named=True)
    floor = table.filter(
        pl.col("cam").is_in(controls)
        & pl.all_horizontal(pl.col(key) == row[key] for key in ("dataset", "model", "sigma", "radius_share"))
    )["certified_consistency"].max()
    beside = "" if floor is None else f" (a random map: {at_least(_float(floor))})"
    where = f" on {row['dataset']}" if table["dataset"].n_unique() > 1 else ""
    return [
        first,
        f"The highest guarantee is {at_least(row['certified_consistency'])}{beside}, for {row['cam']} of "
        f"{row['model']}{where} at radius {row['radius']:.3g} and sigma {row['sigma']:g}; of "
        f"{counted(row['n_images'], 'image')} tried, {_left_out(row['n_images'] - row['n_certified'])}, and 0 means "
        "that nothing is guaranteed, not that the map changes.",
    ]


def _left_out(many: int) -> str:
    return counted(many, "counts as 0 there because its class is not certain",
                   "count as 0 there because their class is not certain")  # fmt: skip


def seen_sentence(table: pl.DataFrame | None) -> str:
    """What the thin lines of the figure are; empty where there are none."""
    seen = [] if table is None else [where for name, where in SEEN.items() if table[name].count()]
    if not seen:
        return ""
    return (
        f"Thin lines: what was seen {' or '.join(seen)} at the same distance, where as many samples were drawn again; "
        "at distance 0 they show the error of the samples alone. The least agreement at that distance lies between the "
        "guarantee and what was seen, and where between is not known."
    )


def _alphas(table: pl.DataFrame) -> str:
    return "alpha = " + ", ".join(f"{alpha:g}" for alpha in table["alpha"].unique().sort())


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


@dataclass(frozen=True)
class CertainMap:
    """One image, and at each sigma its segments that are certain at the smallest radius: titles and pictures."""

    image_id: str
    dataset: str
    cells: list[tuple[str, str, str]]


def certain_maps(certificates: pl.DataFrame, maps: pl.DataFrame, model: str, cam: str) -> list[CertainMap]:
    """Images of the gallery with what is certain about the top segments of one CAM.

    Args:
        certificates: rows with a mask, `certificates.CERTIFICATES`.
        maps: the gallery, `schema.MAPS`; it has the photos.
        model: whose maps.
        cam: which method.
    """
    rows = certificates.filter((pl.col("model") == model) & (pl.col("cam") == cam)).drop_nulls("membership")
    photos = maps.filter((pl.col("model") == model) & (pl.col("perturbation") == CLEAN))
    rows = rows.join(photos.select("dataset", "image_id", "photo"), on=["dataset", "image_id"], how="inner")
    shown: list[CertainMap] = []
    for (dataset, image_id), of_image in rows.sort("dataset", "image_id", "sigma", "radius").group_by(
        "dataset", "image_id", maintain_order=True
    ):
        if len(shown) == IMAGES:
            break
        cells = []
        for row in of_image.unique("sigma", keep="first", maintain_order=True).head(MOST_SIGMAS).iter_rows(named=True):
            photo = decoded(row["photo"], "JPEG", "RGB")
            drawn = data_uri(membership(photo, decoded(row["membership"], "PNG", "L")))
            cells.append((f"sigma {row['sigma']:g}, radius {row['radius']:.3g}", drawn, _told(row)))
        shown.append(CertainMap(str(image_id), str(dataset), cells))
    return shown


def _told(row: Mapping[str, Any]) -> str:
    shares = ", ".join(
        f"{word} {percent(row[name])}"
        for word, name in (("in", "certainly_in"), ("out", "certainly_out"), ("undecided", "undecided"))
        if row[name] is not None
    )
    return f"{shares}; class {'certain' if class_is_certain(row) else 'not certain'}"
