"""The report: one self-contained page from the summary tables and the gallery, and the files of its figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from camrobust.contract.heads import HEADS
from camrobust.contract.run_documents import TimesPart
from camrobust.contract.run_record import CombinedRecord, DescribedRecord, RunRecord
from camrobust.contract.schema import ADJUSTED
from camrobust.contract.secrecy import masked
from camrobust.report.charts import forest, heat_map, severity_curves
from camrobust.report.diagrams import characteristics_chart, critical_differences
from camrobust.report.figure import UNITS, Figure
from camrobust.report.findings import accuracy_sentences, characteristics_sentences, test_sentences, test_tables
from camrobust.report.gallery import Exhibit, Kind, exhibits
from camrobust.report.guarantees import (
    CertainMap,
    certain_maps,
    certified_curves,
    guarantee_sentences,
    seen_sentence,
)
from camrobust.report.headline import headline, kept_thing, twins_of
from camrobust.report.leaderboard import latex, lines, markdown
from camrobust.report.measure import NAMES, leading_measure, ranked_by
from camrobust.report.pictures import ramp
from camrobust.report.pooled import pooled_sentences
from camrobust.report.reproduce import commands, configuration, stage_times
from camrobust.report.template import render
from camrobust.summary.map_attacks import without_transfers
from camrobust.summary.spreadsheet import csv_of
from camrobust.summary.treatments import treatments

FAILURES_SHOWN = 50
KINDS_SHOWN = 20
NO_TIMES = TimesPart()
MOST_DRAWN, MOST_NAMES = 50_000, 400
"""Rows of a figure's numbers, and CAMs or perturbations in them; the largest real figures have a tenth of these."""
DAY = len("2026-01-31")


@dataclass(frozen=True)
class Report:
    """What is drawn of a run.

    Attributes:
        page: HTML that needs no network and no other file.
        figures: those on the page.
        leaderboard: `by_cam`, best first.
        run: its record.
    """

    page: str
    figures: Sequence[Figure]
    leaderboard: pl.DataFrame
    run: DescribedRecord

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Names below the report's folder, and contents: every figure as SVG, PDF, PNG and CSV; the page last."""
        board = (self.leaderboard, self.run.controls, self.run.same_as)
        yield "figures/leaderboard.csv", csv_of(self.leaderboard)
        yield "figures/leaderboard.tex", latex(*board).encode()
        yield "figures/leaderboard.md", markdown(*board).encode()
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
    name: str = "",
    certificates: pl.DataFrame | None = None,
    saved: str | None = None,
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
        certificates: rows of `certificates.CERTIFICATES` with a mask; None where there are none.
        name: of the run, the page's title.
        saved: path of its run.yaml, see `reproduce.commands`.
        drawn: the time, as text.
        times: how long measuring took.
    """
    by_cam, controls = summaries["by_cam"], run.controls
    measure = leading_measure(by_cam, controls)
    ranked = ranked_by(by_cam, measure)
    summaries = {name: _led(table, ranked, controls) for name, table in summaries.items()}
    tests, traits, certified = (summaries.get(name) for name in ("tests", "characteristics", "certificates"))
    by_level = without_transfers(summaries["by_level"], run.same_as)
    distinct = treatments(run.cams, *(run.same_as.get(model, {}) for model in run.models))
    if traits is not None:
        traits = traits.filter(~pl.struct("model", "cam").is_in(twins_of(run)))
    figures = _figures(run, {**summaries, "by_level": by_level}, ranked, measure)
    drawn_names = {figure.name for figure in figures}
    page = render(
        {
            "name": masked(name),
            "distinct": len(distinct),
            "day": run.started[:DAY],
            "headline": [
                *headline(run, ranked, by_level, tests),
                *pooled_sentences(run),
                *accuracy_sentences(summaries["by_model"]),
            ],
            "measure": NAMES[measure],
            "adjusted": ADJUSTED,
            "rows": lines(by_cam, controls, run.same_as),
            "counted": run.config.summary.map_attacks,
            "accuracies": bool(ranked["n_labelled"].sum()),
            "attacks": bool(ranked["n_attacked"].sum() or ranked["n_transferred"].sum()),
            "filters": {key: ranked[key].unique().sort().to_list() for key in ("cam", "model", "dataset")},
            "figures": drawn_names,
            "compared": drawn_names & {"models", "datasets"},
            "compared_title": " and ".join(name for name in ("models", "datasets") if name in drawn_names).capitalize(),
            "packed": {"units": UNITS, "figures": {figure.name: figure.packed() for figure in figures}},
            "tested": [] if tests is None else test_sentences(tests, measure),
            "test_tables": [] if tests is None else test_tables(tests, measure),
            "explained": [] if traits is None else characteristics_sentences(traits, controls),
            "galleries": _galleries(run, ranked, scores, maps),
            "guarantees": guarantee_sentences(certified, controls),
            "seen": seen_sentence(certified),
            "certain": _certain(run, ranked, certificates, maps),
            "ramp": ramp(),
            "segments": images["n_segments"].median() if images.height else None,
            "n_images": images.height,
            "failures": [masked(row) for row in failures.head(FAILURES_SHOWN).iter_rows(named=True)],
            "kinds": failures["kind"].value_counts(sort=True).head(KINDS_SHOWN).rows(),
            "n_failures": failures.height,
            "run": run,
            "heads": HEADS,
            "kept": kept_thing(run),
            "combined": isinstance(run, CombinedRecord),
            "warnings": masked(run.warnings) if isinstance(run, RunRecord) else [],
            "drawn": drawn,
            "config": configuration(run),
            "commands": commands(run, saved),
            "times": stage_times(times),
        }
    )
    return Report(page, figures, ranked, run)


def _galleries(
    run: DescribedRecord, ranked: pl.DataFrame, scores: pl.LazyFrame, maps: pl.DataFrame
) -> list[tuple[str, str, Mapping[Kind, list[Exhibit]]]]:
    """The exhibits of the first and of the last CAM."""
    classes = run.classes if isinstance(run, RunRecord) else {}
    return [
        (model, cam, exhibits(maps, scores, model, cam, classes.get(model, ())))
        for model, cam in (_chosen(ranked, run) if maps.height else ())
    ]


def _certain(
    run: DescribedRecord, ranked: pl.DataFrame, certificates: pl.DataFrame | None, maps: pl.DataFrame
) -> list[tuple[str, str, list[CertainMap]]]:
    """What is certain about maps of the first CAM."""
    if certificates is None or not maps.height:
        return []
    return [(model, cam, certain_maps(certificates, maps, model, cam)) for model, cam in _chosen(ranked, run)[:1]]


def _figures(
    run: DescribedRecord, summaries: Mapping[str, pl.DataFrame], ranked: pl.DataFrame, measure: str
) -> list[Figure]:
    """The figures for which there are numbers; CAMs that give the same maps are drawn once."""
    controls, twins = run.controls, twins_of(run)
    is_twin = pl.struct("model", "cam").is_in(twins)
    order = ranked["cam"].unique(maintain_order=True).to_list()
    everywhere = treatments(order, *(run.same_as.get(model, {}) for model in run.models))
    alone = ranked.filter(pl.col("cam").is_in([*everywhere]))
    drawn = [
        forest(alone, "model", order, controls, measure),
        forest(alone, "dataset", order, controls, measure),
        severity_curves(summaries["by_level"].filter(~is_twin), order, controls, measure),
        heat_map(summaries["by_perturbation"].filter(~is_twin), order, measure),
    ]
    if "tests" in summaries:
        drawn.append(critical_differences(summaries["tests"], controls, measure))
    if "certificates" in summaries:
        drawn.append(certified_curves(summaries["certificates"].filter(~is_twin), order, controls))
    if "characteristics" in summaries:
        explained = summaries["characteristics"].filter(~is_twin & ~pl.col("cam").is_in(controls))
        drawn.append(characteristics_chart(explained, order, controls))
    return [figure for figure in drawn if figure is not None and _drawable(figure)]


def _led(table: pl.DataFrame, ranked: pl.DataFrame, controls: Sequence[str]) -> pl.DataFrame:
    """The table with the rows of the leaderboard's first model and dataset first: figures and sentences begin there."""
    keys = [key for key in ("model", "dataset") if key in table.columns]
    best = ranked.filter(~pl.col("cam").is_in(controls)).head(1).to_dicts()
    return table.sort([pl.col(key).ne_missing(best[0][key]) for key in keys], maintain_order=True) if best else table


def _drawable(figure: Figure) -> bool:
    """Whether a chart of it is small enough to draw; summary/ has the numbers of every figure."""
    table = figure.numbers
    names = [table[key].n_unique() for key in ("cam", "perturbation", "label") if key in table.columns]
    return table.height <= MOST_DRAWN and max(names, default=0) <= MOST_NAMES


def _chosen(ranked: pl.DataFrame, run: DescribedRecord) -> list[tuple[str, str]]:
    """Models and CAMs in the gallery: the first and the last row that is neither a floor nor a twin."""
    alone = ranked.filter(~pl.col("cam").is_in(run.controls) & ~pl.struct("model", "cam").is_in(twins_of(run)))
    pairs = alone.select("model", "cam").rows()
    return list(dict.fromkeys([*pairs[:1], *pairs[-1:]]))
