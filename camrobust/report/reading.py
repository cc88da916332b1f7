"""Summary tables as a report reads them back; they may be changed or come from a stranger."""

import polars as pl
import polars.selectors as cs

from camrobust.contract.errors import UserError
from camrobust.contract.schema import summary_columns

MOST_ROWS = {"by_cam": 10_000, "by_model": 10_000, "by_dataset": 10_000}
"""Rows of a table that the page shows whole; a run of 5 models, 2 datasets and 20 CAMs has 200."""
MOST = 1_000_000
"""Rows of any other table."""
LONGEST = 1000
"""Characters of a dataset's, a model's or a CAM's name, as in run.json."""
NAMES = ("dataset", "model", "cam")


def checked(name: str, table: pl.DataFrame, where: str) -> pl.DataFrame:
    """A summary table that can be drawn: NaN and infinity become null, and bounds are there in pairs or not at all.

    Args:
        name: of the table.
        table: with the columns and types of the schema.
        where: its address.

    Raises:
        UserError: it holds more than a page can show, or a required number is missing.
    """
    table = _finite(table)
    most = MOST_ROWS.get(name, MOST)
    too_long = pl.any_horizontal(pl.col(key).str.len_chars() > LONGEST for key in NAMES if key in table.columns)
    required = [column.name for column in summary_columns(name) if column.required]
    missing = [column for column in required if table[column].null_count()]
    for problem, is_there in (
        (f"more than {most:,} rows", table.height > most),
        (f"a name of more than {LONGEST:,} characters", not table.filter(too_long).is_empty()),
        (f"numbers in {', '.join(missing[:3])} that are not finite", bool(missing)),
    ):
        if is_there:
            raise UserError(f"report: {where} holds {problem}; run camrobust aggregate again")
    return table


def _finite(table: pl.DataFrame) -> pl.DataFrame:
    numbers = cs.float()
    table = table.with_columns(pl.when(numbers.is_finite()).then(numbers))
    bounded = [name for name in table.columns if f"{name}_lower" in table.columns and f"{name}_upper" in table.columns]
    return table.with_columns(
        pl.when(pl.all_horizontal(pl.col(name, f"{name}_lower", f"{name}_upper").is_not_null()))
        .then(pl.col(f"{name}_{end}"))
        .alias(f"{name}_{end}")
        for name in bounded
        for end in ("lower", "upper")
    )
