"""The tables of `camrobust compare`: what changed, one for each measure, model and dataset."""

import polars as pl

from camrobust.interface.terminal import print_table, say_left_out
from camrobust.report.findings import probability

TITLES = ("first", "second", "difference [95 %]", "p (Holm)", "r", "images")


def show_differences(table: pl.DataFrame, by: str | None) -> None:
    """Print differences on standard output; those of a model on a dataset stand together, so that they fit.

    Args:
        table: `comparison_schema.DIFFERENCES`.
        by: a column that is compared value by value; None for all together.
    """
    alone = (by,) if by else ()
    left_out: dict[str, None] = {}
    for (measure, model, dataset), rows in table.group_by("measure", "model", "dataset", maintain_order=True):
        cells = [
            [row["cam"], *(row[key] for key in alone), row["first"], row["second"], _difference(row),
             _probability(row["p_corrected"]), row["effect"], row["n_images"]]
            for row in rows.iter_rows(named=True)
        ]  # fmt: skip
        title = f"{measure}: second minus first, {model} on {dataset}"
        left_out |= dict.fromkeys(print_table(title, ["CAM", *alone, *TITLES], cells, TITLES[2:3]))
    say_left_out([*left_out])


def _probability(p: float | None) -> str:
    return "–" if p is None else probability(p).removeprefix("p ").removeprefix("= ")


def _difference(row: dict[str, float | None]) -> str:
    value, low, high = row["difference"], row["difference_lower"], row["difference_upper"]
    if value is None:
        return "–"
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
