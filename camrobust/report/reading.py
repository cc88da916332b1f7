"""Summary tables as a report reads them back: they may have been changed, or be a stranger's."""

import polars as pl
import polars.selectors as cs

from camrobust.contract.errors import UserError
from camrobust.contract.schema import summary_columns

MOST_ROWS = {"by_cam": 10_000, "by_model": 10_000, "by_dataset": 10_000}
"""Of the tables whose rows all stand on the page; a run of 5 models, 2 datasets and 20 CAMs has 200."""
MOST = 1_000_000
"""Of the others."""
LONGEST = 1000
"""Characters of a dataset's, a model's or a CAM's name, as in run.json."""
NAMES = ("dataset", "model", "cam")


def checked(name: str, table: pl.DataFrame, where: str) -> pl.DataFrame:
    """A summary table that can be drawn: null where a number is NaN or infinite, bounds in pairs.

    Args:
        name: of the table.
        table: its columns and types are those of the schema.
        where: its address.

    Raises:
        UserError: it holds more than a page can show, or a count or a share that is none.
    """
    table = _finite(table)
    most = MOST_ROWS.get(name, MOST)
    too_long = pl.any_horizontal(pl.col(key).str.len_chars() > LONGEST for key in NAMES if key in table.columns)
    missing = [one.name for one in summary_columns(name) if one.required and table[one.name].null_count()]
    for problem, found in (
        (f"more than {most:,} rows", table.height > most),
        (f"a name of more than {LONGEST:,} characters", not table.filter(too_long).is_empty()),
        (f"numbers in {', '.join(missing[:3])} that are not finite", bool(missing)),
    ):
        if found:
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
