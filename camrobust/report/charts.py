"""Charts of the summary tables: curves against severity, and CAM × perturbation."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from camrobust.report.figure import Figure, choices, measure_choice, measured, picked, plain, source

COLUMNS = 3
VISIBLE = [-0.25, 1.1]
"""Range of every panel; an interval from two or three images is much wider than any value can be."""
BAND_IMAGES = 10
"""Fewest images for which an interval is drawn."""
FEW_COLOURS = 10
CELL_PX = (46, 26)
BRIGHT = 0.45
"""Cells with a higher value are so light that their numbers are dark."""


def colours(cams: Sequence[str], drawn: Sequence[str]) -> alt.Color:
    """One colour per CAM, in the order in which they were asked for."""
    domain = [cam for cam in cams if cam in drawn]
    scale = alt.Scale(domain=domain, scheme="tableau10" if len(domain) <= FEW_COLOURS else "tableau20")
    return alt.Color("cam:N", title="CAM", scale=scale)


def severity_curves(by_level: pl.DataFrame, cams: Sequence[str], controls: Sequence[str]) -> Figure | None:
    """Every measure against severity: a line with its 95 % interval per CAM, a panel per perturbation.

    Args:
        by_level: the summary table.
        cams: names in the order of the colours.
        controls: CAMs that are a floor; drawn dashed.

    Returns:
        None where no strength was given as a severity.
    """
    keys = ("dataset", "model", "cam", "perturbation", "severity", "strength", "n_images")
    table = measured(by_level.drop_nulls("severity"), keys)
    if table.is_empty():
        return None
    chosen = [measure_choice(table), *choices(table, "model", "dataset")]
    base = alt.Chart(source()).encode(
        x=alt.X("severity:O", title="severity", axis=alt.Axis(labelAngle=0)),
        color=colours(cams, table["cam"].unique().to_list()),
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
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("severity:O"), alt.Tooltip("strength:N"),
            alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("lower:Q", format=".3f"),
            alt.Tooltip("upper:Q", format=".3f"), alt.Tooltip("n_images:Q", title="images"),
        ],
    )  # fmt: skip
    faceted = (
        alt.layer(band, line)
        .properties(width=250, height=170)
        .facet(facet=alt.Facet("perturbation:N", title=None), columns=COLUMNS)
        .transform_filter(picked(chosen[1:]))
        .transform_calculate(
            value="datum[pick_measure]",
            lower=f"datum.n_images >= {BAND_IMAGES} ? datum[pick_measure + '_lower'] : null",
            upper=f"datum.n_images >= {BAND_IMAGES} ? datum[pick_measure + '_upper'] : null",
        )
        .transform_filter("isValid(datum.value)")
        .add_params(*chosen)
    )
    return Figure("curves", plain(faceted), table)


def heat_map(by_perturbation: pl.DataFrame, cams: Sequence[str]) -> Figure | None:
    """Every measure of every CAM under every perturbation, of one model on one dataset.

    Args:
        by_perturbation: the summary table.
        cams: names from top to bottom.

    Returns:
        None where nothing was scored.
    """
    table = measured(by_perturbation, ("dataset", "model", "cam", "perturbation", "n_images", "n_pairs"))
    if table.is_empty():
        return None
    chosen = [measure_choice(table), *choices(table, "model", "dataset")]
    base = alt.Chart(source()).encode(
        x=alt.X("perturbation:N", title=None, axis=alt.Axis(orient="top", labelAngle=-45, domain=False, ticks=False)),
        y=alt.Y("cam:N", title=None, sort=list(cams), axis=alt.Axis(domain=False, ticks=False)),
    )
    tile = base.mark_rect(cornerRadius=2, strokeWidth=1, stroke="#8882").encode(
        color=alt.Color(
            "value:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True), legend=None, title="value"
        ),
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("perturbation:N"), alt.Tooltip("value:Q", format=".3f"),
            alt.Tooltip("lower:Q", format=".3f"), alt.Tooltip("upper:Q", format=".3f"),
            alt.Tooltip("n_images:Q", title="images"), alt.Tooltip("n_pairs:Q", title="pairs"),
        ],
    )  # fmt: skip
    figure = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(f"datum.value > {BRIGHT}", alt.value("#000000"), alt.value("#ffffff")),
    )
    layered = (
        alt.layer(tile, figure)
        .properties(width=alt.Step(CELL_PX[0]), height=alt.Step(CELL_PX[1]))
        .transform_filter(picked(chosen[1:]))
        .transform_calculate(
            value="datum[pick_measure]", lower="datum[pick_measure + '_lower']", upper="datum[pick_measure + '_upper']"
        )
        .transform_filter("isValid(datum.value)")
        .add_params(*chosen)
    )
    return Figure("heatmap", plain(layered), table)
