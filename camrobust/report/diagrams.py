"""Charts of the tests and of the characteristics."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from camrobust.report.charts import COLUMNS
from camrobust.report.colours import in_colour
from camrobust.report.figure import TEXT, Figure, choice, choices, first_view, heading, picked, plain, source
from camrobust.report.measure import LEVEL, NAMES
from camrobust.summary.friedman import cliques

MEASURES = NAMES | {"responsiveness_adjusted": "adjusted responsiveness"}
TRAITS = "Properties of images against adjusted consistency; filled: not 0 after Holm; lines: 95 % intervals"
ROW_PX = 22
STEP_PX = 13


def critical_differences(
    tests: pl.DataFrame, controls: Sequence[str] = (), measure: str | None = None
) -> Figure | None:
    """Mean ranks of the distinct CAMs over images, 1 = best; a bar joins CAMs that Nemenyi's test does not tell apart.

    Args:
        tests: `comparison_schema.TESTS`.
        controls: CAMs that are a floor.
        measure: the one that is shown first.

    Returns:
        None where no CAMs could be compared.

    References:
        Demšar 2006, JMLR 7, figure 1.
    """
    ranks = tests.filter(
        (pl.col("test") == "mean_rank") & (pl.col("factor") == "cam") & pl.col("measure").is_in(list(MEASURES))
    ).drop_nulls(["dataset", "model", "first", "effect", "effect_lower", "effect_upper"])
    if ranks.is_empty():
        return None
    rows: list[dict[str, Any]] = []
    for (dataset, model, compared), group in ranks.group_by("dataset", "model", "measure", maintain_order=True):
        where = {"dataset": dataset, "model": model, "measure": MEASURES[str(compared)]}
        rows += [{**where, **row} for row in _diagram(group.sort("effect", "first"))]
    table = pl.DataFrame(rows, infer_schema_length=None)
    measures = [name for name in MEASURES.values() if name in table["measure"]]
    view = first_view(table, "model", "dataset")["measure"]
    measures.sort(key=lambda name: (name not in view, name != MEASURES.get(measure or "")))
    chosen = [choice("measure", measures), *choices(table, "model", "dataset")]
    last = max(row["row"] for row in rows)
    base = alt.Chart(source()).encode(
        y=alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[last + 0.8, -1.8], nice=False)),
        x=alt.X(
            "from:Q",
            title="mean rank over images, 1 = best",
            scale=alt.Scale(domainMin=1, zero=False, nice=True),
            axis=alt.Axis(tickMinStep=0.5),
        ),
    )
    cam = base.transform_filter("datum.kind == 'cam'")
    level = base.transform_filter("datum.kind == 'level'")
    cams = table.filter(pl.col("kind") == "cam")["cam"].unique(maintain_order=True).to_list()
    colour = in_colour(cams, controls, legend=None)
    tips = [alt.Tooltip("label:N", title="mean rank"), alt.Tooltip("images:Q"), alt.Tooltip("dropped:Q")]
    layered = alt.layer(
        level.mark_rule(strokeWidth=4, color=TEXT).encode(x2="to:Q", tooltip=alt.Tooltip("label:N", title="level")),
        cam.mark_point(filled=True, size=60, opacity=1).encode(tooltip=tips, color=colour),
        cam.mark_text(align="left", dx=9, color=TEXT, fontSize=12, limit=240).encode(text="label:N"),
    ).properties(width=640, height=ROW_PX * (last + 3), title=_ranks_title(table))
    return Figure("ranks", plain(layered.transform_filter(picked(chosen)).add_params(*chosen)), table)


def _ranks_title(table: pl.DataFrame) -> alt.Title:
    counted = table.with_columns(n_images=pl.col("images").fill_null(0))
    what = "Mean ranks of the distinct CAMs; a bar joins those within the critical difference"
    return heading(what, counted, "measure", "model", "dataset")


def _diagram(ordered: pl.DataFrame) -> list[dict[str, Any]]:
    """The points and bars of one comparison, from its mean ranks, best first."""
    means = ordered["effect"].to_list()
    half = float((ordered["effect_upper"] - ordered["effect_lower"])[0])
    cams = [
        {"kind": "cam", "cam": line["first"], "row": float(row), "from": line["effect"], "to": line["effect"],
         "images": line["n_images"], "dropped": line["n_dropped"], "label": f"{line['first']}  {line['effect']:.2f}"}
        for row, line in enumerate(ordered.iter_rows(named=True))
    ]  # fmt: skip
    levels = [
        {"kind": "level", "cam": None, "row": -1 - number / 2, "from": means[first] - 0.04, "to": means[last] + 0.04,
         "images": None, "dropped": None, "label": f"within the critical difference of {half:.3f}"}
        for number, (first, last) in enumerate(cliques(means, half))
    ]  # fmt: skip
    return cams + levels


def characteristics_chart(
    characteristics: pl.DataFrame, cams: Sequence[str], controls: Sequence[str] = ()
) -> Figure | None:
    """Rank correlation of every image property with adjusted consistency, with its 95 % interval, per CAM.

    The properties come in the order of their mean correlation, strongest first. A point is filled where the
    correlation differs from 0 after Holm, and hollow where it does not.

    Args:
        characteristics: `comparison_schema.CHARACTERISTICS`.
        cams: names from top to bottom.
        controls: CAMs that are a floor.

    Returns:
        None where nothing could be correlated.
    """
    correlations = characteristics.filter(
        (pl.col("analysis") == "spearman") & (pl.col("measure") == "consistency_adjusted")
    ).drop_nulls(["property", "effect"]).select(
        pl.col("dataset").fill_null("all pooled"), "model", "cam", "family", "property", "n_images",
        *(pl.col(name).round(4) for name in ("effect", "effect_lower", "effect_upper", "share")),
        clear=(pl.col("p_corrected") < LEVEL).fill_null(value=False),
    )  # fmt: skip
    if correlations.is_empty():
        return None
    strongest = alt.EncodingSortField("strength", op="mean", order="descending")
    drawn = [cam for cam in cams if cam in correlations["cam"]]
    chosen = choices(correlations, "family", "model", "dataset")
    colour = in_colour(drawn, controls, legend=None)
    base = alt.Chart(source()).encode(
        y=alt.Y("cam:N", title=None, sort=list(cams), axis=alt.Axis(ticks=False, domain=False)), color=colour
    )
    zero = alt.condition("datum.value === 0", alt.value("#888c"), alt.value("#8883"))
    axis = alt.Axis(values=[-1, -0.5, 0, 0.5, 1], gridColor=zero)
    title = "rank correlation (-1 to 1)"
    span = base.mark_rule(strokeWidth=1.5, clip=True).encode(
        x=alt.X("effect_lower:Q", title=title, axis=axis, scale=alt.Scale(domain=[-1, 1])), x2="effect_upper:Q"
    )
    point = base.mark_point(size=36, opacity=1, strokeWidth=1.5).encode(
        x=alt.X("effect:Q", title=title),
        fill=alt.condition("datum.clear", in_colour(drawn, controls, legend=None), alt.value("transparent")),
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("property:N"), alt.Tooltip("effect:Q", format=".3f"),
            alt.Tooltip("effect_lower:Q", format=".3f"), alt.Tooltip("effect_upper:Q", format=".3f"),
            alt.Tooltip("clear:N", title="differs from 0 after Holm"),
            alt.Tooltip("share:Q", format=".1%", title="variance explained"), alt.Tooltip("n_images:Q", title="images"),
        ],
    )  # fmt: skip
    keys = [one.name.removeprefix("pick_") for one in chosen]
    keys += [key for key in ("model", "dataset") if key not in keys]
    faceted = (
        alt.layer(span, point)
        .properties(width=210, height=alt.Step(STEP_PX))
        .facet(facet=alt.Facet("property:N", title=None, sort=strongest), columns=COLUMNS)
        .resolve_axis(x="independent")
        .transform_filter(picked(chosen))
        .transform_calculate(strength="abs(datum.effect)")
        .properties(
            title=heading(TRAITS, correlations, *keys)
        )
    )  # fmt: skip
    return Figure("traits", plain(faceted.add_params(*chosen) if chosen else faceted), correlations)
