"""What a person sees in the terminal: progress on standard error, tables on standard output."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from camrobust.contract.quoting import harmless
from camrobust.contract.schema import ADJUSTED
from camrobust.contract.secrecy import sentence
from camrobust.results.progress import Progress as State

if TYPE_CHECKING:
    import polars as pl

    from camrobust.results.verify import Completeness

INTERVAL_S = 10
"""Time between two progress lines where standard error is not a terminal."""
LEADERBOARD = {
    "dataset": "dataset", "model": "model", "cam": "CAM", "robustness_adjusted": "RM adj.",
    "consistency_adjusted": "cons. adj.", "responsiveness_adjusted": "resp. adj.", "robustness": "RM raw",
    "attacked_consistency_adjusted": "attacked", "transferred_consistency_adjusted": "transfer",
    "accuracy_clean": "acc. clean", "accuracy_perturbed": "acc.",
    "flip_rate": "flips", "flat_share": "flat", "ambiguous_share": "ambig.", "n_images": "images",
}  # fmt: skip
"""Columns of by_cam that the terminal shows, and their titles."""


def say(line: str) -> None:
    """Print a line on standard error, so that standard output holds only data."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(_text(sentence(line)))


def _text(value: object) -> str:
    """Text for rich in which nothing is markup and nothing controls the terminal."""
    return escape(harmless(str(value)))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on standard output: numbers to three decimals, null as a dash."""
    table = Table(title=_text(title), title_justify="left")
    numeric = [all(isinstance(row[place], (int, float, type(None))) for row in rows) for place in range(len(columns))]
    for column, right in zip(columns, numeric, strict=True):
        table.add_column(_text(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else _text(value)


def show_completeness(completeness: "Completeness", uri: str) -> None:
    """Print one line: whether the run in this folder is complete, and which rows are missing if not."""
    failed = f", {completeness.failed_images} images failed" if completeness.failed_images else ""
    rows = f"{completeness.score_rows:,} of {completeness.planned_rows:,} rows"
    if completeness.complete:
        say(f"complete: {rows} scored{failed} ({uri})")
        return
    missing = f"{completeness.missing} image-model pairs missing, {completeness.surplus} surplus"
    say(f"incomplete: {rows}, {missing}{failed}; for example {', '.join(completeness.examples)} ({uri})")


def show_leaderboard(by_cam: "pl.DataFrame") -> None:
    """Print the summary table by_cam, the most robust CAM first."""
    ranked = by_cam.sort("robustness_adjusted", descending=True, nulls_last=True)
    title = f"Robustness of the maps (adjusted: {ADJUSTED})"
    columns = dict(LEADERBOARD)
    shares = ("ambiguous_share", "attacked_consistency_adjusted", "transferred_consistency_adjusted")
    absent = [name for name in shares if not (ranked[name].fill_null(0) != 0).any()]
    for name in (*absent, *(name for name in ("accuracy_clean", "accuracy_perturbed") if not ranked[name].count())):
        del columns[name]
    show_table(title, [*columns.values()], ranked.select(*columns).rows())


class Meter:
    """Shows the progress of a run: a bar on a terminal, elsewhere a line every few seconds.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.last: float | None = None
        self.bar: Progress | None = None

    def __enter__(self) -> Self:
        """Remove the bar when the block ends, also after an error."""
        return self

    def __exit__(self, *_error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, now: State) -> None:
        """Show the state of the run; see `workflow.Show`."""
        if self.quiet:
            return
        show: Callable[[State], None] = self._draw if sys.stderr.isatty() else self._line
        show(now)

    def _draw(self, now: State) -> None:
        if self.bar is None:
            self.bar = Progress(
                TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"),
                TextColumn("{task.fields[failures]} failed{task.fields[rate]},"), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[stages]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self.bar.add_task("", total=now.total, failures=now.failures, rate="", stages="")
            self.bar.start()
        self.bar.update(
            self.bar.task_ids[0], completed=now.done, total=now.total, failures=now.failures, rate=_rate(now),
            stages=_text(stage_line(now)),
        )  # fmt: skip
        if now.done >= now.total:
            self.bar.stop()

    def _line(self, now: State) -> None:
        clock = time.monotonic()
        if now.done < now.total and self.last is not None and clock - self.last < INTERVAL_S:
            return
        self.last = clock
        left = "" if now.left_s is None or now.done == now.total else f", {now.left_s:.0f} s left"
        say(
            f"measured {now.done} of {now.total} images, {now.failures} failed, {now.seconds:.0f} s"
            f"{_rate(now)}{left}; {stage_line(now)}"
        )


def _rate(now: State) -> str:
    return f", {now.done / max(now.seconds, 1e-9):.2f} images/s" if now.done else ""


def stage_line(now: State) -> str:
    """How many images have left each stage, and how many of its workers were busy on average."""
    if not any(stage.images or stage.busy_s for stage in now.stages.values()):
        return "workers are starting"
    stages = (
        f"{name} {stage.images:.0f} ({stage.busy_s / max(now.seconds, 1e-9):.1f})" for name, stage in now.stages.items()
    )
    return f"images done (workers busy): {', '.join(stages)}"
