"""Tables that a report is drawn from, once they are read back: they may have been changed, or be a stranger's."""

import polars as pl
import polars.selectors as cs


def finite(table: pl.DataFrame) -> pl.DataFrame:
    """The same with null where a number is NaN or infinite, which no chart can draw."""
    numbers = cs.float()
    return table.with_columns(pl.when(numbers.is_finite()).then(numbers))
