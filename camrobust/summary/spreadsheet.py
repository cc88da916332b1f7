"""CSV that is safe to open in a spreadsheet: every text stays text."""

import polars as pl
import polars.selectors as cs

FORMULA = r"^[=+\-@\t\r\n]"
"""First character of a cell that a spreadsheet would compute (OWASP, "CSV Injection")."""


def csv_of(table: pl.DataFrame) -> bytes:
    """A table as CSV: text in quotes, with an apostrophe before a text that looks like a formula; numbers unchanged.

    A dataset called `=cmd|' /C calc'!A0` therefore stays a name. Parquet files hold every text exactly.
    """
    text = cs.by_dtype(pl.String, pl.Categorical, pl.Enum)
    guarded = table.with_columns(text.cast(pl.String).str.replace(f"({FORMULA})", "'$1"))
    return guarded.write_csv(quote_style="non_numeric").encode()
