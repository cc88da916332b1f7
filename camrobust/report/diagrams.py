"""Charts of the tests and of the characteristics, as Vega-Lite specifications."""

from typing import Any

import altair as alt
import polars as pl

from camrobust.report.figures import TEXT, choice, picked, plain
from camrobust.summary.ranktests import cliques

MEASURES = {
    "consistency_adjusted": "consistency",
    "responsiveness_adjusted": "responsiveness",
    "robustness_adjusted": "robustness RM",
}
ROW_PX = 22


def critical_differences(tests: pl.DataFrame) -> dict[str, Any] | None:
    """Mean ranks of the CAMs over images, 1 = best; a bar joins those that Nemenyi's test does not tell apart.

    Args:
        tests: `schema.TESTS`.

    Returns:
        A Vega-Lite specification; None where no CAMs could be compared.

    References:
        Demšar 2006, JMLR 7, figure 1.
    """
    ranks = tests.filter((pl.col("test") == "mean_rank") & (pl.col("factor") == "cam"))
    if ranks.is_empty():
        return None
    rows: list[dict[str, Any]] = []
    for (dataset, model, measure), group in ranks.group_by("dataset", "model", "measure", maintain_order=True):
        where = {"dataset": dataset, "model": model, "measure": MEASURES[str(measure)]}
        ordered = group.sort("effect", "first")
        means = ordered["effect"].to_list()
        half = float((ordered["effect_upper"] - ordered["effect_lower"])[0])
        for row, line in enumerate(ordered.iter_rows(named=True)):
            label = f"{line['first']}  {line['effect']:.2f}"
            rows.append(
                {**where, "kind": "cam", "row": row, "from": line["effect"], "to": line["effect"], "label": label,
                 "images": line["n_images"], "dropped": line["n_dropped"]}
            )  # fmt: skip
        for number, (first, last) in enumerate(cliques(means, half)):
            label = f"within the critical difference of {half:.3f}"
            ends = {"from": means[first] - 0.04, "to": means[last] + 0.04}
            rows.append({**where, "kind": "level", "row": -1 - number / 2, "label": label, **ends})
    chosen = [
        choice(key, list(dict.fromkeys(row[key] for row in rows)))
        for key in ("measure", "model", "dataset")
        if key == "measure" or len({row[key] for row in rows}) > 1
    ]
    most = max(row["row"] for row in rows)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[most + 0.8, -1.8], nice=False)),
        x=alt.X("from:Q", title="mean rank over images, 1 = best", scale=alt.Scale(zero=False, padding=60)),
    )
    cam = base.transform_filter("datum.kind == 'cam'")
    level = base.transform_filter("datum.kind == 'level'")
    tips = [alt.Tooltip("label:N", title="mean rank"), alt.Tooltip("images:Q"), alt.Tooltip("dropped:Q")]
    layered = alt.layer(
        level.mark_rule(strokeWidth=4, color=TEXT).encode(x2="to:Q", tooltip=alt.Tooltip("label:N", title="level")),
        cam.mark_point(filled=True, size=60, color=TEXT).encode(tooltip=tips),
        cam.mark_text(align="left", dx=9, color=TEXT, fontSize=12).encode(text="label:N"),
    ).properties(width=640, height=ROW_PX * (most + 3))
    return plain(layered.transform_filter(picked(chosen)).add_params(*chosen))


def characteristics_chart(characteristics: pl.DataFrame) -> dict[str, Any] | None:
    """Rank correlation of every image property with adjusted consistency, with its 95 % interval, per CAM.

    Args:
        characteristics: `schema.CHARACTERISTICS`.

    Returns:
        A Vega-Lite specification; None where nothing could be correlated.
    """
    found = characteristics.filter(
        (pl.col("analysis") == "spearman") & (pl.col("measure") == "consistency_adjusted")
    ).select(
        pl.col("dataset").fill_null("all pooled"), "model", "cam", "family", "property", "n_images",
        *(pl.col(name).round(4) for name in ("effect", "effect_lower", "effect_upper", "share")),
    )  # fmt: skip
    if found.is_empty():
        return None
    chosen = [
        choice(key, found[key].unique(maintain_order=True).to_list())
        for key in ("family", "model", "dataset")
        if found[key].n_unique() > 1
    ]
    base = alt.Chart(alt.Data(values=found.to_dicts())).encode(
        y=alt.Y("property:N", title=None, sort=None),
        yOffset="cam:N",
        color=alt.Color("cam:N", title="CAM", scale=alt.Scale(scheme="tableau10")),
    )
    span = base.mark_rule(strokeWidth=1.5, clip=True).encode(
        x=alt.X("effect_lower:Q", title="rank correlation with consistency", scale=alt.Scale(domain=[-1, 1])),
        x2="effect_upper:Q",
    )
    point = base.mark_point(filled=True, size=28).encode(
        x="effect:Q",
        tooltip=[
            alt.Tooltip("cam:N", title="CAM"), alt.Tooltip("property:N"), alt.Tooltip("effect:Q", format=".3f"),
            alt.Tooltip("effect_lower:Q", format=".3f"), alt.Tooltip("effect_upper:Q", format=".3f"),
            alt.Tooltip("share:Q", format=".1%", title="variance explained"), alt.Tooltip("n_images:Q", title="images"),
        ],
    )  # fmt: skip
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color="#8888").encode(x="zero:Q")
    layered = alt.layer(span, point).properties(width=640, height=alt.Step(5 + 3 * found["cam"].n_unique()))
    if chosen:
        layered = layered.transform_filter(picked(chosen))
    return plain(alt.layer(zero, layered).add_params(*chosen))
