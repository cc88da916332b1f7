"""CSV as it is written: a spreadsheet that opens it must take every text for text."""

import polars as pl
import polars.selectors as cs

FORMULA = r"^[=+\-@\t\r\n]"
"""How a cell begins that a spreadsheet computes (OWASP, "CSV Injection")."""


def csv_of(table: pl.DataFrame) -> bytes:
    """A table as CSV: text in quotes, with an apostrophe before what would be a formula; numbers as they are.

    A dataset that is called `=cmd|' /C calc'!A0` thus stays a name. Parquet holds every text exactly.
    """
    text = cs.by_dtype(pl.String, pl.Categorical, pl.Enum)
    guarded = table.with_columns(text.cast(pl.String).str.replace(f"({FORMULA})", "'$1"))
    return guarded.write_csv(quote_style="non_numeric").encode()
