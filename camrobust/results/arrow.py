"""Result tables as Arrow: schemas, and tables from rows or columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.columns import Column
from camrobust.contract.schema import FAILURES, IMAGES, MAPS

if TYPE_CHECKING:
    import polars as pl

TABLES = {"certificates": CERTIFICATES, "images": IMAGES, "failures": FAILURES, "maps": MAPS}

_ARROW = {
    "string": pa.string(), "binary": pa.binary(), "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(),
    "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(),
}  # fmt: skip


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of some columns."""
    return pa.schema([(column.name, _ARROW[column.type]) for column in columns])


def empty_frame(columns: Sequence[Column]) -> "pl.DataFrame":
    """A polars table with these columns and no rows."""
    import polars as pl  # A worker that makes no such table starts without it

    return pl.DataFrame(arrow_schema(columns).empty_table())


def make_table(columns: Sequence[Column], data: Mapping[str, object] | Sequence[Mapping[str, object]]) -> pa.Table:
    """An Arrow table with exactly these columns, from rows, or from columns in which NaN means null."""
    schema = arrow_schema(columns)
    if isinstance(data, Mapping):
        return pa.table(
            {field.name: pa.array(data[field.name], field.type, from_pandas=True) for field in schema}, schema=schema
        )
    return pa.Table.from_pylist(list(data), schema=schema)
