"""Charts as Vega-Lite specifications, drawn by Altair."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

MEASURES = {
    "consistency_adjusted": "consistency (adjusted)",
    "responsiveness_adjusted": "responsiveness (adjusted)",
    "robustness_adjusted": "robustness RM (adjusted)",
    "consistency": "consistency (raw)",
    "responsiveness": "responsiveness (raw)",
    "robustness": "robustness RM (raw)",
    "flip_rate": "share of predictions that flipped",
}
TEXT = "currentColor"
"""Charts take the page's text colour, so that they read in light and dark."""
COLUMNS = 3
VISIBLE = [-0.25, 1.1]
"""Range of every panel: intervals from two or three images reach far beyond what a measure can mean."""
BAND_IMAGES = 10
"""Fewest images from which an interval is drawn."""


def severity_curves(by_level: pl.DataFrame, cams: Sequence[str], controls: Sequence[str]) -> dict[str, Any] | None:
    """Every measure against severity: a line with its 95 % interval per CAM, a panel per perturbation.

    Args:
        by_level: the summary table.
        cams: names in the order of the colours.
        controls: CAMs that are a floor; drawn dashed.

    Returns:
        A Vega-Lite specification; None where no strength was given as a severity.
    """
    data = _long(by_level.drop_nulls("severity"))
    if data.is_empty():
        return None
    drawn = set(data["cam"])
    chosen = [choice("measure", list(MEASURES.values()))]
    chosen += [
        choice(key, data[key].unique().sort().to_list()) for key in ("model", "dataset") if data[key].n_unique() > 1
    ]
    base = alt.Chart(alt.Data(values=data.to_dicts())).encode(
        x=alt.X("severity:O", title="severity", axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "cam:N", title="CAM", scale=alt.Scale(domain=[cam for cam in cams if cam in drawn], scheme="tableau10")
        ),
    )
    scale = alt.Scale(domain=VISIBLE, nice=False)
    band = base.mark_area(opacity=0.12, clip=True).encode(
        y=alt.Y("lower:Q", title=None, scale=scale), y2="upper:Q", tooltip=alt.value(None)
    )
    line = base.mark_line(point=alt.OverlayMarkDef(size=26), clip=True).encode(
        y=alt.Y("value:Q", title=None, scale=scale),
        strokeDash=alt.condition(
            alt.FieldOneOfPredicate(field="cam", oneOf=list(controls)), alt.value([5, 4]), alt.value([1, 0])
        ),
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("severity:O"), alt.Tooltip("parameter:N", title="strength"),
            alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("lower:Q", format=".3f"),
            alt.Tooltip("upper:Q", format=".3f"), alt.Tooltip("images:Q", title="images"),
        ],
    )  # fmt: skip
    layered = alt.layer(band, line).properties(width=250, height=170).transform_filter(picked(chosen))
    chart = layered.facet(facet=alt.Facet("perturbation:N", title=None), columns=COLUMNS).add_params(*chosen)
    return plain(chart)


def choice(key: str, options: list[str]) -> alt.Parameter:
    """A list to pick one value of a key from."""
    bind = alt.binding_select(options=options, name=f"{key} ")
    return alt.param(name=f"pick_{key}", value=options[0], bind=bind)


def picked(chosen: Sequence[alt.Parameter]) -> str:
    """The filter that keeps the rows of what was picked."""
    return " && ".join(f"datum.{param.name.removeprefix('pick_')} == {param.name}" for param in chosen)


def _long(by_level: pl.DataFrame) -> pl.DataFrame:
    """One row per group and measure, where it is defined."""
    keys = [*map(pl.col, ("dataset", "model", "cam", "perturbation", "severity", "parameter"))]
    keys.append(pl.col("n_images").alias("images"))
    parts, enough = [], pl.col("n_images") >= BAND_IMAGES
    for name, title in MEASURES.items():
        bounds = [f"{name}_lower", f"{name}_upper"]
        known = [pl.col(one) if one in by_level.columns else pl.lit(None, pl.Float64) for one in bounds]
        parts.append(
            by_level.select(
                *keys,
                pl.lit(title).alias("measure"),
                pl.col(name).round(4).alias("value"),
                pl.when(enough).then(known[0].round(4)).alias("lower"),
                pl.when(enough).then(known[1].round(4)).alias("upper"),
            )
        )
    return pl.concat(parts).drop_nulls("value")


def plain(chart: alt.FacetChart | alt.LayerChart) -> dict[str, Any]:
    """The specification of a chart in the page's colours."""
    configured = (
        chart.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=TEXT,
            titleColor=TEXT,
            domainColor="#8886",
            tickColor="#8886",
            gridColor="#8883",
            labelFontSize=11,
        )
        .configure_header(labelColor=TEXT, labelFontSize=13, labelFontWeight="bold")
        .configure_legend(labelColor=TEXT, titleColor=TEXT, labelFontSize=12, symbolStrokeWidth=3, symbolOpacity=1)
    )
    specification: dict[str, Any] = configured.to_dict()
    return specification
