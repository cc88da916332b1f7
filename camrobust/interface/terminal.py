"""What a person sees in the terminal: progress on standard error, tables on standard output."""

import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from camrobust.contract.quoting import harmless
from camrobust.contract.secrecy import sentence
from camrobust.contract.units import counted, duration
from camrobust.results.progress import Progress as State

if TYPE_CHECKING:
    from camrobust.results.verify import Completeness

INTERVAL_S = 10
"""Time between two progress lines where standard error is not a terminal."""
FILE_WIDTH = 120
"""Width of a table that is not shown on a terminal, in characters."""
BAR, LEAST_BAR = 20, 6
"""Width of the progress bar, where there is room for it."""
SLOWEST = 0.1
"""Images per second; slower rates are given per minute."""
NAMED, WRAPPED = 40, 16
"""Longer cells, of the first column and of the others, may be folded to this width before a column is left out."""
LEAST = 2
"""So many columns are never left out."""


def say(line: str) -> None:
    """Print a line on standard error, so that standard output holds only data."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(plain(sentence(line)))


def plain(value: object) -> str:
    """Text for rich in which nothing is markup and nothing controls the terminal."""
    return escape(harmless(str(value)))


def output() -> Console:
    """Standard output; a file is as wide as `FILE_WIDTH`, unless the variable COLUMNS says otherwise."""
    console = Console(highlight=False)
    as_told = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
    return console if as_told else Console(highlight=False, width=FILE_WIDTH)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as `print_table` does, and a line that names the columns that are left out."""
    say_left_out(print_table(title, columns, rows))


def say_left_out(columns: Sequence[str]) -> None:
    """Name the columns that found no room, if there are any."""
    if columns:
        say(f"left out for want of width: {', '.join(columns)}; a wider terminal or --json shows them")


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], whole: Collection[str] = ()
) -> list[str]:
    """Print a table on standard output: numbers to three decimals, null as a dash.

    Where it is too wide, long cells are folded; where that is not enough, the last columns are left out.

    Args:
        title: stands above it.
        columns: their names.
        rows: a value for each column.
        whole: columns that are not folded, beside the first.

    Returns:
        The names of the columns that are left out.
    """
    console = output()
    cells = [[_cell(value) for value in row] for row in rows]
    # What a row is about stands first, and is not folded before it is very long.
    unfolded = {columns[0], *whole}
    uncut = [NAMED if name in unfolded else WRAPPED for name in columns]
    needs = [max([*(min(uncut[place], cell_len(row[place])) for row in cells), cell_len(name)]) + 3
             for place, name in enumerate(columns)]  # fmt: skip
    shown = len(columns)
    while shown > LEAST and sum(needs[:shown]) + 1 > console.width:
        shown -= 1
    table = Table(title=plain(title), title_justify="left")
    numeric = [all(isinstance(row[place], (int, float, type(None))) for row in rows) for place in range(len(columns))]
    for place, column in enumerate(columns[:shown]):
        table.add_column(
            plain(column), justify="right" if numeric[place] else "left", overflow="fold",
            min_width=needs[place] - 3 if column in unfolded else None,
        )  # fmt: skip
    for row in cells:
        table.add_row(*row[:shown])
    console.print(table)
    return [*columns[shown:]]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else plain(value)


def show_amounts(title: str, amounts: Sequence[tuple[str, str]]) -> None:
    """Print what is counted and how much, one a line, long text folded behind the names."""
    table = Table(title=plain(title), title_justify="left", box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for name, amount in amounts:
        table.add_row(plain(name), plain(amount))
    output().print(table)


def show_completeness(completeness: "Completeness", uri: str) -> None:
    """Print one line: whether the run in this folder is complete, and which rows are missing if not."""
    failed = f", {counted(completeness.failed_images, 'image')} failed" if completeness.failed_images else ""
    rows = f"{completeness.score_rows:,} of {completeness.planned_rows:,} rows"
    if completeness.complete:
        say(f"complete: {rows} scored{failed} ({uri})")
        return
    missing = f"{completeness.missing} image-model pairs missing, {completeness.surplus} surplus"
    say(f"incomplete: {rows}, {missing}{failed}; for example {', '.join(completeness.examples)} ({uri})")


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
        if self.bar is None:
            return
        # rich gives sys.stderr back as it was when the bar began, which after Ctrl-C is that of `run.stderr`.
        now = sys.stderr
        self.bar.stop()
        if not isinstance(now, FileProxy):
            sys.stderr = now

    def __call__(self, now: State) -> None:
        """Show the state of the run; see `workflow.Show`."""
        if self.quiet:
            return
        show: Callable[[State], None] = self._draw if sys.stderr.isatty() else self._line
        show(now)

    def _draw(self, now: State) -> None:
        if self.bar is None:
            console = Console(stderr=True)
            column = Column(no_wrap=True, overflow="ellipsis")
            width = max(LEAST_BAR, min(BAR, console.width - 60))
            line = TextColumn("{task.fields[line]}", table_column=column)
            self.bar = Progress(BarColumn(bar_width=width), line, console=console, refresh_per_second=2)
            self.bar.add_task("", total=now.total, line="")
            self.bar.start()
        room = self.bar.console.width - (self.bar.columns[0].bar_width or 0) - 2  # type: ignore[union-attr]
        self.bar.update(self.bar.task_ids[0], completed=now.done, total=now.total, line=plain(fitting(now, room)))
        if now.done >= now.total:
            self.bar.stop()

    def _line(self, now: State) -> None:
        clock = time.monotonic()
        if now.done < now.total and self.last is not None and clock - self.last < INTERVAL_S:
            return
        self.last = clock
        say(f"measured {'; '.join([', '.join(progress_parts(now)), stage_line(now)])}")


def progress_parts(now: State) -> list[str]:
    """How far a run is, the most needed first: count, time left, rate, failures, time."""
    ended = now.done >= now.total
    left = [] if now.left_s is None or ended else [f"{duration(now.left_s)} left"]
    per_s = now.done / max(now.seconds, 1e-9)
    rate = [f"{per_s:.2g} images/s" if per_s >= SLOWEST else f"{60 * per_s:.2g} images/min"] if now.done else []
    failed = [f"{now.failures:,} failed"] if now.failures else []
    return [f"{now.done:,} of {now.total:,} images", *left, *rate, *failed, duration(now.seconds)]


def fitting(now: State, room: int) -> str:
    """The progress in one line of so many characters; what finds no room is left out, the least needed first."""
    parts = progress_parts(now)
    line = parts[0]
    for part in parts[1:]:
        if cell_len(line) + 2 + cell_len(part) <= room:
            line += f", {part}"
    whole = f"{line}; {stage_line(now)}"
    return whole if cell_len(whole) <= room else set_cell_size(line, room).rstrip()


def stage_line(now: State) -> str:
    """How many images have left each stage, and how many of its workers were busy on average."""
    if not any(stage.images or stage.busy_s for stage in now.stages.values()):
        return "workers are starting"
    stages = (
        f"{name} {stage.images:.0f} ({stage.busy_s / max(now.seconds, 1e-9):.1f})" for name, stage in now.stages.items()
    )
    return f"images done (workers busy): {', '.join(stages)}"
