"""The leaderboard: lines for the page, and a table for a paper or a README. Names may come from strangers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from camrobust.contract.quoting import harmless
from camrobust.report.measure import leading_measure, ranked_by
from camrobust.summary.treatments import SameAs, first_of

MEASURES = ("robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted", "robustness", "consistency",
            "responsiveness")  # fmt: skip
ATTACKED = ("attacked_consistency_adjusted", "transferred_consistency_adjusted")
ACCURACIES = ("accuracy_clean", "accuracy_perturbed")
COLUMNS = {"robustness_adjusted": "RM", "consistency_adjusted": "consistency",
           "responsiveness_adjusted": "responsiveness"}  # fmt: skip
"""Columns of the tables for papers: measures adjusted for chance."""
NUMBERS = len(COLUMNS) + 2
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "`": r"\char96{}", "'": r"\char39{}", '"': r"\char34{}",
}  # fmt: skip
"""What LaTeX would not take as text; babel gives quotes a meaning of their own in some languages."""
LIGATURE = re.compile(r"([-,])(?=\1)")
"""Characters that LaTeX would join: two hyphens are a dash."""
MARKDOWN = {letter: f"\\{letter}" for letter in "\\`*_[]<>|~&!$#:"} | {"@": "&#64;", "/": "&#47;"}
"""What Markdown, or a page around it, would not take as text: links and mentions, too."""
WEB = re.compile(r"(www)\.", re.IGNORECASE)
"""How an address begins that GitHub makes a link of."""
Row = Mapping[str, Any]


def lines(by_cam: pl.DataFrame, controls: Sequence[str], same_as: SameAs) -> list[dict[str, Any]]:
    """One line per distinct CAM of a model on a dataset, best first.

    Args:
        by_cam: the summary table.
        controls: CAMs that are a floor; they have no rank.
        same_as: by model, CAMs to the CAM that gives the same maps.

    Returns:
        Each the columns of the table, and `rank` from 1 (None where there is none), `twins`, `control`, `cells` (the
        measures with their bounds; the first one with its place in a picture), `attacks` and `answers` (accuracies).
    """
    measure = leading_measure(by_cam, controls)
    rows = list(ranked_by(by_cam, measure).iter_rows(named=True))
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        treatment = first_of(row["cam"], same_as.get(row["model"], {}))
        groups.setdefault((row["dataset"], row["model"], treatment), []).append(row)
    found, rank, frame = [], 0, _frame(rows)
    for (_, _, treatment), members in groups.items():
        row = next((one for one in members if one["cam"] == treatment), members[0])
        control = row["cam"] in controls
        ranked = not control and row[measure] is not None
        rank += ranked
        first, *others = (_cell(row, name) for name in MEASURES)
        twins = [one["cam"] for one in members if one is not row]
        found.append(
            {**row, "rank": rank if ranked else None, "twins": twins, "control": control,
             "cells": [{**first, "whisker": _whisker(first, frame)}, *others],
             "attacks": [_cell(row, name) for name in ATTACKED],
             "answers": [_cell(row, name) for name in ACCURACIES]}
        )  # fmt: skip
    return found


def _cell(row: Row, name: str) -> dict[str, Any]:
    return {"value": row[name], "lower": row.get(f"{name}_lower"), "upper": row.get(f"{name}_upper"), "whisker": None}


def _frame(rows: Sequence[Row]) -> tuple[float, float]:
    """The range of the pictures of RM: all values and 0, and the intervals as far as they are not much wider."""
    values = [row[MEASURES[0]] for row in rows if row[MEASURES[0]] is not None] or [0.0]
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.25 * (high - low) or 1.0
    ends = [(row[f"{MEASURES[0]}_lower"], row[f"{MEASURES[0]}_upper"]) for row in rows]
    known = [(lower, upper) for lower, upper in ends if lower is not None and upper is not None]
    least, most = min([low, *(lower for lower, _ in known)]), max([high, *(upper for _, upper in known)])
    return max(least, low - room), min(most, high + room)


def _whisker(cell: Row, frame: tuple[float, float]) -> dict[str, float | None] | None:
    """Places in percent of the picture's width."""
    if cell["value"] is None:
        return None
    low, high = frame

    def place(value: float | None) -> float | None:
        return None if value is None else round(2 + 96 * min(1.0, max(0.0, (value - low) / ((high - low) or 1.0))), 1)

    return {name: place(value) for name, value in cell.items() if name != "whisker"} | {"zero": place(0.0)}


def latex(by_cam: pl.DataFrame, controls: Sequence[str], same_as: SameAs) -> str:
    r"""The leaderboard as a LaTeX table for the package booktabs; every name is text.

    >>> print(_latex_text(r"50%_of \input{x}"))
    50\%\_of \textbackslash{}input\{x\}
    """
    head, body = _cells(by_cam, controls, same_as)
    kinds = "r" + "l" * (len(head) - NUMBERS - 1) + "r" * NUMBERS
    rows = [
        [_latex_text(cell) for cell in row[:-NUMBERS]] + [_latex_number(cell) for cell in row[-NUMBERS:]]
        for row in body
    ]
    table = [" & ".join(row) + r" \\" for row in ([_latex_text(title) for title in head], *rows)]
    note = r"% 95 % intervals over images; adjusted for chance; needs \usepackage{booktabs}"
    return "\n".join(
        [note, rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", table[0], r"\midrule", *table[1:], r"\bottomrule",
         r"\end{tabular}", ""]
    )  # fmt: skip


def markdown(by_cam: pl.DataFrame, controls: Sequence[str], same_as: SameAs) -> str:
    r"""The leaderboard as a table in Markdown; every name is text.

    >>> print(_markdown_text("a|b [x](y) @you"))
    a\|b \[x\](y) &#64;you
    """
    head, body = _cells(by_cam, controls, same_as)
    aligned = ["---:", *["---"] * (len(head) - NUMBERS - 1), *["---:"] * NUMBERS]
    rows = [head, aligned, *([*map(_markdown_text, row[:-NUMBERS]), *row[-NUMBERS:]] for row in body)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(by_cam: pl.DataFrame, controls: Sequence[str], same_as: SameAs) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of both tables, as plain text; datasets and models only where there are several."""
    keys = ["cam", *(key for key in ("model", "dataset") if by_cam[key].n_unique() > 1)]
    head = ["#", *("CAM" if key == "cam" else key for key in keys), *COLUMNS.values(), "flipped", "n"]
    body = []
    for row in lines(by_cam, controls, same_as):
        names = ["; ".join([row["cam"], *(f"= {twin}" for twin in row["twins"])]), *(str(row[key]) for key in keys[1:])]
        flips = "" if row["flip_rate"] is None else f"{row['flip_rate']:.0%}"
        values = [_interval(row, name) for name in COLUMNS]
        body.append([str(row["rank"] or ""), *names, *values, flips, str(row["n_images"])])
    return head, body


def _interval(row: Row, name: str) -> str:
    value, low, high = row[name], row[f"{name}_lower"], row[f"{name}_upper"]
    if value is None:
        return ""
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _latex_text(text: str) -> str:
    return LIGATURE.sub(r"\1{}", "".join(LATEX.get(letter, letter) for letter in harmless(text)))


def _latex_number(text: str) -> str:
    return text.replace("-", "$-$").replace("%", r"\%")


def _markdown_text(text: str) -> str:
    return WEB.sub(r"\1\.", "".join(MARKDOWN.get(letter, letter) for letter in harmless(text)))
