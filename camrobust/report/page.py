"""The report: one self-contained page from the summary tables and the gallery."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl
import vl_convert
import yaml
from markupsafe import Markup

from camrobust.report.diagrams import characteristics_chart, critical_differences
from camrobust.report.figures import severity_curves
from camrobust.report.findings import characteristics_sentences, test_sentences
from camrobust.report.gallery import exhibits

FAILURES_SHOWN = 50
MEASURES = ("robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted", "robustness", "consistency",
            "responsiveness")  # fmt: skip


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def _safe_json(document: Any) -> Markup:
    """JSON that may stand inside a script element whatever text it holds."""
    text = json.dumps(document, ensure_ascii=True)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    return Markup(text)


def build_report(
    run: Mapping[str, Any],
    summaries: Mapping[str, pl.DataFrame],
    scores: pl.LazyFrame,
    images: pl.DataFrame,
    failures: pl.DataFrame,
    maps: pl.DataFrame,
) -> str:
    """Draw the page.

    Args:
        run: run.json.
        summaries: tables of `schema.SUMMARIES`; `tests` and `characteristics` where there are any.
        scores: all score rows.
        images: `schema.IMAGES`.
        failures: `schema.FAILURES`.
        maps: the gallery, `schema.MAPS`.

    Returns:
        HTML that needs nothing else: no network, no other file.
    """
    controls, by_cam = list(run.get("controls", [])), summaries["by_cam"]
    ranked = by_cam.sort(["robustness_adjusted", "consistency_adjusted"], descending=True, nulls_last=True)
    chosen, twins = _chosen(ranked, controls), _twins(run)
    alone = summaries["by_level"].filter(~pl.struct("model", "cam").is_in(twins))
    gallery = exhibits(maps, scores, *chosen) if chosen is not None and not maps.is_empty() else {}
    tests, traits = summaries.get("tests"), summaries.get("characteristics")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(files("camrobust.report").joinpath("page.html.jinja").read_text("utf-8"))
    return template.render(
        verdict=verdict(run, ranked, summaries["by_level"]),
        rows=[_leaderboard_row(row, run, controls) for row in ranked.iter_rows(named=True)],
        chart=_safe_json(severity_curves(alone, run.get("cams", []), controls)),
        ranks=_safe_json(None if tests is None else critical_differences(tests)),
        traits=_safe_json(None if traits is None else characteristics_chart(traits)),
        tested=[] if tests is None else test_sentences(tests, controls),
        explained=[] if traits is None else characteristics_sentences(traits, controls),
        vega=Markup(_vega()),
        gallery=gallery,
        chosen=chosen,
        segments=images["segments"].median() if images.height else None,
        n_images=images.height,
        failures=failures.head(FAILURES_SHOWN).to_dicts(),
        n_failures=failures.height,
        run=run,
        config=yaml.safe_dump(run.get("config", {}), sort_keys=False, allow_unicode=True),
    )


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _twins(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """Models and CAMs that give the same maps as a CAM before them."""
    return [{"model": model, "cam": cam} for model, same in run.get("same_as", {}).items() for cam in same]


def _chosen(ranked: pl.DataFrame, controls: Sequence[str]) -> tuple[str, str] | None:
    """Model and CAM of the gallery: the best row that is no control."""
    best = ranked.filter(~pl.col("cam").is_in(list(controls)))
    return (best["model"][0], best["cam"][0]) if best.height else None


def _leaderboard_row(row: Mapping[str, Any], run: Mapping[str, Any], controls: Sequence[str]) -> dict[str, Any]:
    twin = run.get("same_as", {}).get(row["model"], {}).get(row["cam"])
    note = "floor: random weights" if row["cam"] in controls else f"same maps as {twin}" if twin else ""
    cells = [{"value": row[name], "lower": row[f"{name}_lower"], "upper": row[f"{name}_upper"]} for name in MEASURES]
    return {**row, "note": note, "control": row["cam"] in controls, "cells": cells}


def verdict(run: Mapping[str, Any], ranked: pl.DataFrame, by_level: pl.DataFrame) -> list[str]:
    """Two or three sentences that the numbers carry.

    Args:
        run: run.json.
        ranked: by_cam, best first.
        by_level: the summary table.
    """
    rows = ranked.filter(~pl.col("cam").is_in(list(run.get("controls", []))))
    if not rows.height:
        return ["No CAM was scored, so there is nothing to compare."]
    best = rows.row(0, named=True)
    return [_best(best, run), _flips(rows, _twins(run)), *_worst(by_level, best)]


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row[f"{name}_lower"] is None:
        return f"{row[name]:.2f} (too few images for an interval)"
    return f"{row[name]:.2f} (95 % interval {row[f'{name}_lower']:.2f} to {row[f'{name}_upper']:.2f})"


def _best(best: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    twins = [cam for cam, other in run.get("same_as", {}).get(best["model"], {}).items() if other == best["cam"]]
    also = f", which {', '.join(twins)} equal{'s' if len(twins) == 1 else ''} exactly here," if twins else ""
    who = f"{best['cam']}{also} on {best['model']} ({best['dataset']})"
    if best["robustness_adjusted"] is not None:
        return f"The highest adjusted robustness is that of {who}: {_interval(best, 'robustness_adjusted')}."
    if best["consistency_adjusted"] is not None:
        return (
            "No prediction flipped, so responsiveness and robustness cannot be measured. "
            f"The most consistent maps are those of {who}: {_interval(best, 'consistency_adjusted')}, adjusted."
        )
    return "No pair of maps could be compared; see the shares of flat maps and of flips in the table."


def _flips(rows: pl.DataFrame, twins: list[dict[str, str]]) -> str:
    pairs, rates = rows["n_pairs"].to_numpy(), rows["flip_rate"].to_numpy()
    flips = float((rates * pairs).sum() / max(1, pairs.sum()))
    overlap = rows.filter(pl.col("robustness_adjusted_lower").is_not_null() & ~pl.struct("model", "cam").is_in(twins))
    text = f"{flips:.0%} of the perturbed images changed their predicted class"
    if overlap.height > 1:
        reach = overlap["robustness_adjusted_lower"][0]
        level = int((overlap["robustness_adjusted_upper"][1:] >= reach).sum())
        text += f"; the intervals of {level} of the other {overlap.height - 1} rows overlap with that of the first"
        text += " (methods with the same maps counted once)" if twins else ""
    return text + "."


def _worst(by_level: pl.DataFrame, best: Mapping[str, Any]) -> list[str]:
    here = by_level.filter(
        (pl.col("model") == best["model"]) & (pl.col("cam") == best["cam"]) & (pl.col("dataset") == best["dataset"])
    ).drop_nulls("consistency_adjusted")
    if here.height < 2:
        return []
    worst = here.sort("consistency_adjusted").row(0, named=True)
    return [
        f"Its maps hold least under {worst['perturbation']} at {worst['parameter']}, where those that kept their class "
        f"agree to {worst['consistency_adjusted']:.2f} (1 = same ranking, 0 = chance)."
    ]
