"""Charts of the tests and of the characteristics."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from camrobust.report.charts import COLUMNS, colours
from camrobust.report.figure import TEXT, Figure, choice, choices, picked, plain, source
from camrobust.summary.friedman import cliques

MEASURES = {
    "consistency_adjusted": "consistency",
    "responsiveness_adjusted": "responsiveness",
    "robustness_adjusted": "robustness RM",
}
ROW_PX = 22
STEP_PX = 13


def critical_differences(tests: pl.DataFrame) -> Figure | None:
    """Mean ranks of the CAMs over images, 1 = best; a bar joins CAMs that Nemenyi's test does not tell apart.

    Args:
        tests: `comparison_schema.TESTS`.

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
    for (dataset, model, measure), group in ranks.group_by("dataset", "model", "measure", maintain_order=True):
        where = {"dataset": dataset, "model": model, "measure": MEASURES[str(measure)]}
        rows += [{**where, **row} for row in _diagram(group.sort("effect", "first"))]
    table = pl.DataFrame(rows, infer_schema_length=None)
    measures = table["measure"].unique(maintain_order=True).to_list()
    chosen = [choice("measure", measures), *choices(table, "model", "dataset")]
    last = max(row["row"] for row in rows)
    base = alt.Chart(source()).encode(
        y=alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[last + 0.8, -1.8], nice=False)),
        x=alt.X("from:Q", title="mean rank over images, 1 = best", scale=alt.Scale(zero=False, padding=60)),
    )
    cam = base.transform_filter("datum.kind == 'cam'")
    level = base.transform_filter("datum.kind == 'level'")
    tips = [alt.Tooltip("label:N", title="mean rank"), alt.Tooltip("images:Q"), alt.Tooltip("dropped:Q")]
    layered = alt.layer(
        level.mark_rule(strokeWidth=4, color=TEXT).encode(x2="to:Q", tooltip=alt.Tooltip("label:N", title="level")),
        cam.mark_point(filled=True, size=60, color=TEXT).encode(tooltip=tips),
        cam.mark_text(align="left", dx=9, color=TEXT, fontSize=12, limit=240).encode(text="label:N"),
    ).properties(width=640, height=ROW_PX * (last + 3))
    return Figure("ranks", plain(layered.transform_filter(picked(chosen)).add_params(*chosen)), table)


def _diagram(ordered: pl.DataFrame) -> list[dict[str, Any]]:
    """The points and bars of one comparison, from its mean ranks, best first."""
    means = ordered["effect"].to_list()
    half = float((ordered["effect_upper"] - ordered["effect_lower"])[0])
    cams = [
        {"kind": "cam", "row": float(row), "from": line["effect"], "to": line["effect"], "images": line["n_images"],
         "dropped": line["n_dropped"], "label": f"{line['first']}  {line['effect']:.2f}"}
        for row, line in enumerate(ordered.iter_rows(named=True))
    ]  # fmt: skip
    levels = [
        {"kind": "level", "row": -1 - number / 2, "from": means[first] - 0.04, "to": means[last] + 0.04,
         "images": None, "dropped": None, "label": f"within the critical difference of {half:.3f}"}
        for number, (first, last) in enumerate(cliques(means, half))
    ]  # fmt: skip
    return cams + levels


def characteristics_chart(characteristics: pl.DataFrame, cams: Sequence[str]) -> Figure | None:
    """Rank correlation of every image property with adjusted consistency, with its 95 % interval, per CAM.

    Args:
        characteristics: `comparison_schema.CHARACTERISTICS`.
        cams: names from top to bottom.

    Returns:
        None where nothing could be correlated.
    """
    correlations = characteristics.filter(
        (pl.col("analysis") == "spearman") & (pl.col("measure") == "consistency_adjusted")
    ).drop_nulls(["property", "effect"]).select(
        pl.col("dataset").fill_null("all pooled"), "model", "cam", "family", "property", "n_images",
        *(pl.col(name).round(4) for name in ("effect", "effect_lower", "effect_upper", "share")),
    )  # fmt: skip
    if correlations.is_empty():
        return None
    chosen = choices(correlations, "family", "model", "dataset")
    base = alt.Chart(source()).encode(
        y=alt.Y("cam:N", title=None, sort=list(cams), axis=alt.Axis(ticks=False, domain=False)),
        color=colours(cams, correlations["cam"].unique().to_list()).legend(None),
    )
    zero = alt.condition("datum.value === 0", alt.value("#888c"), alt.value("#8883"))
    axis = alt.Axis(values=[-1, -0.5, 0, 0.5, 1], gridColor=zero)
    span = base.mark_rule(strokeWidth=2, clip=True).encode(
        x=alt.X("effect_lower:Q", title=None, axis=axis, scale=alt.Scale(domain=[-1, 1])), x2="effect_upper:Q"
    )
    point = base.mark_point(filled=True, size=34, opacity=1).encode(
        x="effect:Q",
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("property:N"), alt.Tooltip("effect:Q", format=".3f"),
            alt.Tooltip("effect_lower:Q", format=".3f"), alt.Tooltip("effect_upper:Q", format=".3f"),
            alt.Tooltip("share:Q", format=".1%", title="variance explained"), alt.Tooltip("n_images:Q", title="images"),
        ],
    )  # fmt: skip
    faceted = (
        alt.layer(span, point)
        .properties(width=210, height=alt.Step(STEP_PX))
        .facet(facet=alt.Facet("property:N", title=None, sort=None), columns=COLUMNS)
        .transform_filter(picked(chosen))
    )
    return Figure("traits", plain(faceted.add_params(*chosen) if chosen else faceted), correlations)
