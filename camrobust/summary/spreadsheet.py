"""CSV that is safe to open in a spreadsheet: every text stays text."""

import polars as pl
import polars.selectors as cs

FORMULA = r"^[=+\-@\t\n＝＋－＠]"
"""First character of a cell that a spreadsheet would compute (OWASP, "CSV Injection")."""

CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\x{202a}-\x{202e}\x{2066}-\x{2069}]"
"""Characters that act on a terminal which shows the file, as a carriage return hides what stands before it."""


def csv_of(table: pl.DataFrame) -> bytes:
    """A table as CSV: text in quotes, with an apostrophe before a text that looks like a formula; numbers unchanged.

    A character that acts on a terminal becomes a replacement character. A dataset called `=cmd|' /C calc'!A0` therefore
    stays a name. Parquet files hold every text exactly.
    """
    text = cs.by_dtype(pl.String, pl.Categorical, pl.Enum)
    shown = text.cast(pl.String).str.replace_all(CONTROL, "\ufffd")
    guarded = table.with_columns(shown.str.replace(f"({FORMULA})", "'$1"))
    return guarded.write_csv(quote_style="non_numeric").encode()
