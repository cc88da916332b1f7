"""Tables made of lines, one dictionary each: tests, characteristics, differences."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from camrobust.contract.columns import Column

Line = dict[str, Any]
"""Column name to value; a missing column is null."""
_TYPES = {"string": pl.String, "float64": pl.Float64, "int64": pl.Int64}


def line_table(lines: Sequence[Line], columns: Sequence[Column]) -> pl.DataFrame:
    """A table with exactly these columns; NaN becomes null."""
    table = pl.DataFrame(lines, schema={column.name: _TYPES[column.type] for column in columns}, orient="row")
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))
