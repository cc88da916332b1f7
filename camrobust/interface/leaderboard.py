"""The closing table of a run: every CAM with its measures and their intervals, as wide as the terminal allows."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from camrobust.contract.schema import ADJUSTED
from camrobust.interface.terminal import output, plain, say
from camrobust.report.measure import leading_measure, ranked_by

MEASURES = {
    "robustness_adjusted": "RM [95 %]",
    "consistency_adjusted": "consistency",
    "responsiveness_adjusted": "responsiveness",
    "robustness": "RM raw",
    "attacked_consistency_adjusted": "attacked",
    "transferred_consistency_adjusted": "transfer",
}
"""Columns of by_cam with an interval, and their titles; after the third, the last is left out first."""
Shown = tuple[str, list[str]]
"""A column: its title and its cells."""
SHARES = {"flip_rate": "flips", "accuracy_clean": "acc. clean", "accuracy_perturbed": "acc.", "flat_share": "flat",
          "ambiguous_share": "ambiguous"}  # fmt: skip
"""Columns without an interval here; all but the first only where one is not 0."""
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
ALWAYS = 3
"""So many measures are shown however narrow the terminal is."""


def show_leaderboard(by_cam: pl.DataFrame, same_as: Mapping[str, Mapping[str, str]], controls: Sequence[str]) -> None:
    """Print the summary table by_cam on standard output, the most robust CAM first.

    Args:
        by_cam: the table.
        same_as: by model, CAMs to the CAM before them that gives the same maps; they get the same mark.
        controls: CAMs that are a floor.
    """
    ranked = ranked_by(by_cam, leading_measure(by_cam, controls))
    width, marks = output().width, _marks(same_as)
    keys = [key for key in ("dataset", "model") if ranked[key].n_unique() > 1]
    needed, _ = _columns(ranked, keys, marks, controls)
    parts = [ranked]
    if keys and _width(needed) > width:
        # A table for each model on each dataset, rather than folded numbers.
        parts, keys = ranked.partition_by("dataset", "model", maintain_order=True), []
    left_out: list[str] = []
    for part in parts:
        left_out += _show(part, keys, _columns(part, keys, marks, controls), width)
    for line in _notes(marks, controls, list(dict.fromkeys(left_out))):
        say(line)


def _columns(
    ranked: pl.DataFrame, keys: Sequence[str], marks: Mapping[tuple[str, str], str], controls: Sequence[str]
) -> tuple[list[Shown], list[Shown]]:
    """The columns that are always shown, and the others in the order in which they are given up, the last first."""
    rows = list(ranked.iter_rows(named=True))
    names: list[Shown] = [*((key, [str(row[key]) for row in rows]) for key in keys),
                          ("CAM", [_named(row, marks, controls) for row in rows])]  # fmt: skip
    first = list(MEASURES)[:ALWAYS]
    measures: list[Shown] = [
        (title, [interval(row, name) for row in rows])
        for name, title in MEASURES.items()
        if name in first or ranked[name].count()
    ]
    shares: list[Shown] = [
        (title, [_share(value) for value in ranked[name]])
        for name, title in SHARES.items()
        if name == "flip_rate" or (name in ranked.columns and (ranked[name].fill_null(0) != 0).any())
    ]
    images: Shown = ("images", [f"{row['n_images']:,}" for row in rows])
    return [*names, *measures[:ALWAYS]], [shares[0], images, *measures[ALWAYS:], *shares[1:]]


def _show(ranked: pl.DataFrame, keys: Sequence[str], columns: tuple[list[Shown], list[Shown]], width: int) -> list[str]:
    """Print one table; returns the titles of the columns that found no room."""
    kept, others = columns
    for column in others:
        if _width([*kept, column]) <= width:
            kept = [*kept, column]
    table = Table(
        title=_title(ranked, keys), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for title, _ in kept:
        table.add_column(plain(title), justify="left" if title in (*keys, "CAM") else "right", overflow="fold")
    for row in zip(*(values for _, values in kept), strict=True):
        table.add_row(*map(plain, row))
    output().print(table)
    titles = [title for title, _ in kept]
    return [title for title, _ in others if title not in titles]


def interval(row: Mapping[str, Any], name: str) -> str:
    """A value with its 95 % interval, such as ".46 [.39, .53]"; a dash where it is not defined."""
    value, low, high = (row[name + end] for end in ("", "_lower", "_upper"))
    if value is None:
        return "–"
    return _short(value) if low is None or high is None else f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    """Two decimals without the zero before the point."""
    text = f"{value:.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _width(columns: Sequence[tuple[str, Sequence[str]]]) -> int:
    """Characters that a table of these columns takes."""
    return sum(max(map(cell_len, (title, *values))) + 2 for title, values in columns)


def _title(ranked: pl.DataFrame, keys: Sequence[str]) -> str:
    words = {"model": "of", "dataset": "on"}
    named = [f" {word} {ranked[key][0]}" for key, word in words.items() if key not in keys and ranked.height]
    return plain(f"Robustness of the maps{''.join(named)}")


def _marks(same_as: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], str]:
    """A mark for every CAM of a model that shares its maps with others, the same for all of them."""
    marks: dict[tuple[str, str], str] = {}
    for model, twins in same_as.items():
        for number, first in enumerate(dict.fromkeys(twins.values())):
            mark = MARKS[number] if number < len(MARKS) else f"({number + 1})"
            marks |= {(model, cam): mark for cam in (first, *(cam for cam, other in twins.items() if other == first))}
    return marks


def _named(row: Mapping[str, Any], marks: Mapping[tuple[str, str], str], controls: Sequence[str]) -> str:
    mark = marks.get((row["model"], row["cam"]), "")
    return str(row["cam"]) + (f" {mark}" if mark else "") + (" (floor)" if row["cam"] in controls else "")


def _notes(marks: Mapping[tuple[str, str], str], controls: Sequence[str], left_out: Sequence[str]) -> list[str]:
    lines = [f"adjusted for chance: {ADJUSTED}"]
    if marks:
        lines.append(f"{' '.join(dict.fromkeys(marks.values()))}: the same maps under a model, so one method")
    if controls:
        lines.append("floor: random maps; a CAM that explains anything lies above it")
    if left_out:
        lines.append(f"left out for want of width: {', '.join(left_out)}; summary/by_cam.csv has them")
    return lines
