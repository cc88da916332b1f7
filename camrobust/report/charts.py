"""Charts of the summary tables: curves against severity, CAM × perturbation, models or datasets side by side."""

import json
import re
from collections.abc import Sequence

import altair as alt
import polars as pl

from camrobust.report.colours import in_colour, in_dashes, in_markers
from camrobust.report.figure import (
    MEASURED,
    PAIRS,
    TEXT,
    Figure,
    choice,
    choices,
    heading,
    measure_choice,
    measured,
    picked,
    plain,
    source,
)

COLUMNS = 3
BAND_IMAGES = 10
"""Fewest images for which an interval is drawn: one from two or three images is much wider than any value can be."""
FEW_PAIRS = 10
"""A point with fewer pairs behind it is hollow."""
MOST_BANDS = 2
"""So many CAMs have their bands drawn at once; of more, bands would hide the lines, and one is picked."""
ALL = "all CAMs"
MOST_LABELS = 12
"""So many CAMs are named beside their lines; more are named in a legend."""
CURVES = (
    f"Agreement of maps against severity; along the bottom the fewest pairs behind a point (hollow: below {FEW_PAIRS})"
)
CELL_PX = (46, 26)
BRIGHT = 0.45
"""Cells with a higher value are so light that their numbers are dark."""
VALUES = {
    "value": "datum[pick_measure]",
    "pairs": PAIRS,
    "lower": "datum[pick_measure + '_lower']",
    "upper": "datum[pick_measure + '_upper']",
}
TIPS = [
    alt.Tooltip("value:Q", format=".3f"),
    alt.Tooltip("lower:Q", format=".3f"),
    alt.Tooltip("upper:Q", format=".3f"),
    alt.Tooltip("n_images:Q", title="images"),
    alt.Tooltip("pairs:Q", title="pairs behind it"),
]


def severity_curves(
    by_level: pl.DataFrame, cams: Sequence[str], controls: Sequence[str], measure: str | None = None
) -> Figure | None:
    """Every measure against severity: a line with its 95 % interval per CAM, a panel per perturbation.

    Args:
        by_level: the summary table.
        cams: names in the order of the legend.
        controls: CAMs that are a floor; drawn grey and dotted.
        measure: the one that is shown first.

    Returns:
        None where no strength was given as a severity.
    """
    keys = ("dataset", "model", "cam", "perturbation", "severity", "strength")
    more: list[str] = []
    table = measured(by_level.drop_nulls("severity"), keys)
    if table.is_empty():
        return None
    chosen = [measure_choice(table, measure, "model", "dataset"), *choices(table, "model", "dataset")]
    drawn = [cam for cam in cams if cam in table["cam"]]
    levels = table["severity"].unique().sort().to_list()
    step = max(1.0, (levels[-1] - levels[0]) / 4)
    named = len(drawn) <= MOST_LABELS
    right = levels[-1] + (3.4 * step if named else 0.3 * step)
    legend = {"legend": None} if named else {}
    x = alt.X(
        "severity:Q", title="severity", scale=alt.Scale(domain=[levels[0] - 0.3 * step, right], nice=False),
        axis=alt.Axis(values=levels, format="d", grid=False, labelFlush=False, titleAnchor="start"),
    )  # fmt: skip
    colour = in_colour(drawn, controls, **legend)
    hollow = alt.condition(f"datum.pairs < {FEW_PAIRS}", alt.value("transparent"), colour)
    value = alt.Y("value:Q", title=MEASURED, scale=alt.Scale(zero=False, nice=False))
    base = alt.Chart(source()).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.12, clip=True).encode(
        y=alt.Y("low:Q", title=MEASURED), y2="high:Q", tooltip=alt.value(None)
    )
    line = base.mark_line(clip=True).encode(y=value, strokeDash=in_dashes(drawn, controls))
    points = base.mark_point(clip=True, size=34, opacity=1).encode(
        y=value,
        shape=in_markers(drawn, controls, **legend),
        fill=hollow,
        tooltip=[alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("severity:O"), alt.Tooltip("strength:N"), *TIPS],
    )
    layers, within = [line, points, _counts(x)], f"datum.n_images >= {BAND_IMAGES}"
    # A band of nothing would make Vega complain.
    if (table["n_images"] >= BAND_IMAGES).any():
        bands, is_shown, said = _banded(drawn, controls)
        layers, within = [band, *layers], f"{within} && {is_shown}"
        more.append(said)
        chosen.append(bands)
    if named:
        layers += _names(drawn, controls, levels[-1], step)
    faceted = (
        alt.layer(*layers)
        .properties(width=300 if named else 250, height=190)
        .facet(facet=alt.Facet("perturbation:N", title=None), columns=COLUMNS)
        .resolve_axis(x="independent")
        .transform_filter(picked([one for one in chosen if one.name in ("pick_model", "pick_dataset")]))
        .transform_calculate(**VALUES)
        .transform_filter("isValid(datum.value)")
        .transform_joinaggregate(least="min(value)", most="max(value)")
        .transform_calculate(room="max(0.04, 0.12 * (datum.most - datum.least))")
        .transform_calculate(
            bottom="datum.least - 2 * datum.room",
            low=f"{within} ? max(datum.lower, datum.bottom) : null",
            high=f"{within} ? min(datum.upper, datum.most + datum.room) : null",
        )
        .properties(title=heading(CURVES, table, "model", "dataset", more=more))
        .add_params(*chosen)
    )  # fmt: skip
    return Figure("curves", plain(faceted), table)


def _banded(cams: Sequence[str], controls: Sequence[str]) -> tuple[alt.Parameter, str, str]:
    """Whose bands are drawn beside the floor's: a list to pick from, and as expressions the condition and a line."""
    names = [cam for cam in cams if cam not in controls]
    options = [ALL, *names] if len(names) <= MOST_BANDS else [*names, ALL]
    floors = json.dumps([cam for cam in cams if cam in controls])
    is_shown = f"(pick_band === '{ALL}' || datum.cam === pick_band || indexof({floors}, datum.cam) >= 0)"
    floor = f"(pick_band === '{ALL}' ? '' : ' and of the floor')" if floors != "[]" else "''"
    return choice("band", options), is_shown, f"'bands: 95 % intervals of ' + pick_band + {floor}"


def _counts(x: alt.X) -> alt.Chart:
    """Along the bottom of a panel: the number of pairs behind the point that has fewest."""
    chart: alt.Chart = (
        alt.Chart(source())
        .transform_aggregate(fewest="min(pairs)", bottom="min(bottom)", groupby=["severity"])
        .mark_text(fontSize=10, color=TEXT, opacity=0.75, baseline="bottom", dy=-1)
        .encode(x=x, y=alt.Y("bottom:Q", title=MEASURED), text=alt.Text("fewest:Q", format=",d"))
    )
    return chart


def _names(cams: Sequence[str], controls: Sequence[str], last: float, step: float) -> list[alt.Chart]:
    """Every CAM's marker and name at the end of its line, moved apart where lines end close, and a thin line to it."""
    ends = (
        alt.Chart(source())
        .transform_joinaggregate(end="max(severity)", groupby=["cam", "perturbation"])
        .transform_filter("datum.severity === datum.end")
        .transform_window(
            place="row_number()", sort=[alt.SortField("value", order="descending")], groupby=["perturbation"]
        )
        .transform_joinaggregate(many="count()", groupby=["perturbation"])
        .transform_calculate(
            slot="datum.most + datum.room - (datum.place - 0.5) / datum.many * "
            "(datum.most - datum.least + 2.4 * datum.room)",
            name_x=str(last + 0.55 * step),
            stop_x=str(last + 0.5 * step),
        )
    )  # fmt: skip
    colour = in_colour(cams, controls, legend=None)
    y = alt.Y("slot:Q", title=MEASURED)
    # The names are in the page's ink: small letters in some of the colours would be too pale, or too dark, to read.
    name = ends.mark_text(align="left", fontSize=10, limit=120, dx=7, color=TEXT).encode(
        x="name_x:Q", y=y, text="cam:N"
    )
    marker = ends.mark_point(filled=True, size=30, opacity=1).encode(
        x="name_x:Q", y=y, color=colour, shape=in_markers(cams, controls, legend=None)
    )
    leader = ends.mark_rule(strokeWidth=0.6, opacity=0.6).encode(
        x="severity:Q", x2="stop_x:Q", y=alt.Y("value:Q", title=MEASURED), y2="slot:Q", color=colour
    )
    return [leader, marker, name]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts resnet18 before resnet101.

    >>> sorted(["resnet101", "resnet18", "alexnet"], key=_natural)
    ['alexnet', 'resnet18', 'resnet101']
    """
    return [(len(part), part) if place % 2 else (0, part) for place, part in enumerate(re.split("([0-9]+)", name))]


def heat_map(by_perturbation: pl.DataFrame, cams: Sequence[str], measure: str | None = None) -> Figure | None:
    """Every measure of every CAM under every perturbation, of one model on one dataset.

    Args:
        by_perturbation: the summary table.
        cams: names from top to bottom.
        measure: the one that is shown first.

    Returns:
        None where nothing was scored.
    """
    table = measured(by_perturbation, ("dataset", "model", "cam", "perturbation"))
    if table.is_empty():
        return None
    chosen = [measure_choice(table, measure, "model", "dataset"), *choices(table, "model", "dataset")]
    base = alt.Chart(source()).encode(
        x=alt.X(
            "perturbation:N",
            title="perturbation, all its severities together",
            axis=alt.Axis(orient="top", labelAngle=-45, domain=False, ticks=False),
        ),
        y=alt.Y("cam:N", title="CAM", sort=list(cams), axis=alt.Axis(domain=False, ticks=False)),
    )
    tile = base.mark_rect(cornerRadius=2, strokeWidth=1, stroke="#8882").encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(scheme="viridis", domain=[0, 1], clamp=True),
            legend=alt.Legend(
                title=MEASURED, titleLimit=0, orient="bottom", direction="horizontal", gradientLength=220
            ),
        ),
        tooltip=[alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("perturbation:N"), *TIPS],
    )
    figure = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(f"datum.value > {BRIGHT}", alt.value("#000000"), alt.value("#ffffff")),
    )
    layered = (
        alt.layer(tile, figure)
        .properties(width=alt.Step(CELL_PX[0]), height=alt.Step(CELL_PX[1]))
        .transform_filter(picked(chosen[1:]))
        .transform_calculate(**VALUES)
        .transform_filter("isValid(datum.value)")
        .properties(title=heading("Agreement of maps by CAM and perturbation", table, "model", "dataset"))
        .add_params(*chosen)
    )
    return Figure("heatmap", plain(layered), table)


def forest(
    by_cam: pl.DataFrame, factor: str, cams: Sequence[str], controls: Sequence[str], measure: str | None = None
) -> Figure | None:
    """Models, or datasets, side by side: a panel per CAM, a row per model with its value and its 95 % interval.

    Args:
        by_cam: the summary table.
        factor: "model" or "dataset", what the rows are; the other one is picked from a list.
        cams: names in the order of the panels.
        controls: CAMs that are a floor.
        measure: the one that is shown first.

    Returns:
        None where there is only one model (or dataset).
    """
    table = measured(by_cam, ("dataset", "model", "cam"))
    if table[factor].n_unique() < 2:
        return None
    other = "dataset" if factor == "model" else "model"
    chosen = [measure_choice(table, measure, other), *choices(table, other)]
    drawn = [cam for cam in cams if cam in table["cam"]]
    base = alt.Chart(source()).encode(
        y=alt.Y(
            f"{factor}:N",
            title=None,
            sort=sorted(table[factor].unique(), key=_natural),
            axis=alt.Axis(ticks=False, domain=False, labelLimit=150),
        ),
        color=in_colour(drawn, controls, legend=None),
    )
    scale = alt.Scale(zero=False, nice=False, padding=8)
    span = base.mark_rule(strokeWidth=2, clip=True).encode(x=alt.X("low:Q", title=MEASURED, scale=scale), x2="high:Q")
    point = base.mark_point(filled=True, size=50, opacity=1).encode(
        x=alt.X("value:Q", title=MEASURED, scale=scale),
        shape=in_markers(drawn, controls, legend=None),
        tooltip=[alt.Tooltip("cam:N", title="CAM"), alt.Tooltip(f"{factor}:N"), *TIPS],
    )
    faceted = (
        alt.layer(span, point)
        .properties(width=210, height=alt.Step(18))
        .facet(facet=alt.Facet("cam:N", title=None, sort=drawn), columns=COLUMNS)
        .resolve_axis(x="independent")
        .transform_filter(picked(chosen[1:]))
        .transform_calculate(**VALUES)
        .transform_filter("isValid(datum.value)")
        .transform_joinaggregate(least="min(value)", most="max(value)")
        .transform_calculate(room="max(0.1, datum.most - datum.least)")
        .transform_calculate(
            low="max(datum.lower, datum.least - datum.room)", high="min(datum.upper, datum.most + datum.room)"
        )
        .properties(title=heading(f"{factor.capitalize()}s compared by CAM; lines: 95 % intervals", table, other))
        .add_params(*chosen)
    )
    return Figure(f"{factor}s", plain(faceted), table)
