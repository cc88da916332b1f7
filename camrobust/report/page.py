"""The report: one self-contained page from the summary tables and the gallery, and the files of its figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from camrobust.contract.heads import HEADS
from camrobust.contract.run_documents import TimesPart
from camrobust.contract.run_record import CombinedRecord, DescribedRecord, RunRecord
from camrobust.contract.schema import ADJUSTED
from camrobust.contract.secrecy import masked
from camrobust.report.charts import heat_map, severity_curves
from camrobust.report.diagrams import characteristics_chart, critical_differences
from camrobust.report.figure import Figure
from camrobust.report.findings import accuracy_sentences, characteristics_sentences, test_sentences
from camrobust.report.gallery import exhibits
from camrobust.report.headline import headline, kept_thing, twins_of
from camrobust.report.reproduce import commands, configuration, stage_times
from camrobust.summary.map_attacks import without_transfers
from camrobust.summary.spreadsheet import csv_of

FAILURES_SHOWN = 50
KINDS_SHOWN = 20
NO_TIMES = TimesPart()
MOST_DRAWN, MOST_NAMES = 50_000, 400
"""Rows of a figure's numbers, and CAMs or perturbations in them; the largest real figures have a tenth of these."""
MEASURES = ("robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted", "robustness", "consistency",
            "responsiveness")  # fmt: skip
ACCURACIES = ("accuracy_clean", "accuracy_perturbed")
ATTACKED = ("attacked_consistency_adjusted", "transferred_consistency_adjusted")


@dataclass(frozen=True)
class Report:
    """What is drawn of a run.

    Attributes:
        page: HTML that needs no network and no other file.
        figures: those on the page.
        leaderboard: `by_cam`, best first.
    """

    page: str
    figures: Sequence[Figure]
    leaderboard: pl.DataFrame

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names below the report's folder, and contents: every figure as SVG, PNG and CSV; the page last."""
        yield "figures/leaderboard.csv", csv_of(self.leaderboard)
        for figure in self.figures:
            for name, content in figure.files():
                yield f"figures/{name}", content
        yield "index.html", self.page.encode()


def build_report(
    run: DescribedRecord,
    summaries: Mapping[str, pl.DataFrame],
    scores: pl.LazyFrame,
    images: pl.DataFrame,
    failures: pl.DataFrame,
    maps: pl.DataFrame,
    *,
    drawn: str = "",
    times: TimesPart = NO_TIMES,
) -> Report:
    """Draw the page.

    Args:
        run: run.json or combined.json.
        summaries: tables of `schema.SUMMARIES`; `tests` and `characteristics` where there are any.
        scores: all score rows.
        images: `schema.IMAGES`.
        failures: `schema.FAILURES`.
        maps: the gallery, `schema.MAPS`.
        drawn: the time, as text.
        times: how long measuring took.
    """
    controls = run.controls
    ranked = summaries["by_cam"].sort(["robustness_adjusted", "consistency_adjusted"], descending=True, nulls_last=True)
    tests, traits = summaries.get("tests"), summaries.get("characteristics")
    by_level = without_transfers(summaries["by_level"], run.same_as)
    drawn_tables = {**summaries, "by_level": by_level}
    figures, classes = _figures(run, drawn_tables, ranked), run.classes if isinstance(run, RunRecord) else {}
    page = _template().render(
        headline=[*headline(run, ranked, by_level), *accuracy_sentences(summaries["by_model"])],
        accuracies=ACCURACIES if ranked["n_labelled"].sum() else (),
        adjusted=ADJUSTED,
        rows=[_leaderboard_row(row, run) for row in ranked.iter_rows(named=True)],
        counted=run.config.summary.map_attacks,
        attacks=bool(ranked["n_attacked"].sum() or ranked["n_transferred"].sum()),
        filters={key: ranked[key].unique().sort().to_list() for key in ("cam", "model", "dataset")},
        figures={figure.name for figure in figures},
        packed={figure.name: figure.packed() for figure in figures},
        tested=[] if tests is None else test_sentences(tests, controls),
        explained=[] if traits is None else characteristics_sentences(traits, controls),
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        vega=Markup(_vega()),
        galleries=[
            (model, cam, exhibits(maps, scores, model, cam, classes.get(model, ())))
            for model, cam in (_chosen(ranked, run) if maps.height else ())
        ],
        segments=images["n_segments"].median() if images.height else None,
        n_images=images.height,
        failures=[masked(row) for row in failures.head(FAILURES_SHOWN).iter_rows(named=True)],
        kinds=failures["kind"].value_counts(sort=True).head(KINDS_SHOWN).rows(),
        n_failures=failures.height,
        run=run,
        heads=HEADS,
        kept=kept_thing(run),
        combined=isinstance(run, CombinedRecord),
        warnings=masked(run.warnings) if isinstance(run, RunRecord) else [],
        drawn=drawn,
        config=configuration(run),
        commands=commands(run),
        times=stage_times(times),
    )
    return Report(page, figures, ranked)


def _figures(run: DescribedRecord, summaries: Mapping[str, pl.DataFrame], ranked: pl.DataFrame) -> list[Figure]:
    """The figures for which there are numbers; CAMs that give the same maps are drawn once."""
    controls, cams, twins = run.controls, run.cams, twins_of(run)
    is_twin = pl.struct("model", "cam").is_in(twins)
    drawn = [
        severity_curves(summaries["by_level"].filter(~is_twin), cams, controls),
        heat_map(summaries["by_perturbation"].filter(~is_twin), ranked["cam"].unique(maintain_order=True).to_list()),
    ]
    if "tests" in summaries:
        drawn.append(critical_differences(summaries["tests"]))
    if "characteristics" in summaries:
        explained = summaries["characteristics"].filter(~is_twin & ~pl.col("cam").is_in(controls))
        drawn.append(characteristics_chart(explained, cams))
    return [figure for figure in drawn if figure is not None and _drawable(figure)]


def _drawable(figure: Figure) -> bool:
    """Whether a chart of it is small enough to draw; summary/ has the numbers of every figure."""
    table = figure.numbers
    names = [table[key].n_unique() for key in ("cam", "perturbation", "label") if key in table.columns]
    return table.height <= MOST_DRAWN and max(names, default=0) <= MOST_NAMES


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "percent": _percent}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(_part("page.html.jinja"))


def _part(name: str) -> str:
    return files("camrobust.report").joinpath(name).read_text("utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _percent(share: object, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %" if isinstance(share, (int, float)) else "–"


def _chosen(ranked: pl.DataFrame, run: DescribedRecord) -> list[tuple[str, str]]:
    """Models and CAMs in the gallery: the first and the last row that is neither a floor nor a twin."""
    alone = ranked.filter(~pl.col("cam").is_in(run.controls) & ~pl.struct("model", "cam").is_in(twins_of(run)))
    pairs = alone.select("model", "cam").rows()
    return list(dict.fromkeys([*pairs[:1], *pairs[-1:]]))


def _leaderboard_row(row: Mapping[str, Any], run: DescribedRecord) -> dict[str, Any]:
    twin = run.same_as.get(row["model"], {}).get(row["cam"])
    note = "floor: random weights" if row["cam"] in run.controls else f"same maps as {twin}" if twin else ""
    cells, attacks, answers = (
        [{"value": row[name], "lower": row[f"{name}_lower"], "upper": row[f"{name}_upper"]} for name in names]
        for names in (MEASURES, ATTACKED, ACCURACIES)
    )
    marks = {"note": note, "control": row["cam"] in run.controls}
    return {**row, **marks, "cells": cells, "attacks": attacks, "answers": answers}
