"""Parquet tables of a run folder, checked before they are read, because a stranger may have written them.

A file of 31 KB can hold a text of 1 GB, or a million rows that repeat a text of 1 MB. First the columns and their types
are compared with `schema`. Then the memory for unpacking, added up page by page, must fit into a budget that grows with
the size of the file. Text is read as distinct values and codes, and is written out only if the budget allows that, too.
Columns that the schema does not name are never read.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from stat import S_ISREG
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camrobust.contract.columns import Column
from camrobust.contract.quoting import first_line, short
from camrobust.io.local_folder import Folder
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.parquet_budget import WIDEST, Budget, TableError, page_sizes
from camrobust.io.parquet_footer import row_groups
from camrobust.results.arrow import arrow_schema

MOST_TEXT = 65_536
"""Most bytes of one text: a name, an address, a sentence."""
MOST_BINARY = 64 * 2**20
"""Most bytes of one picture or map."""
_FITS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "binary": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    "int": (pa.types.is_integer,),
    "float": (pa.types.is_floating,),
    "bool": (pa.types.is_boolean,),
}


def foreign(where: str, problem: str) -> TableError:
    """The error about a file that is not the expected table."""
    return TableError(
        f"run: {where} is not a table as camrobust writes it ({problem}); get a sound copy, or measure again into "
        "another folder"
    )


@contextmanager
def _as_user_error(where: str) -> Iterator[None]:
    """Turn an error of Arrow about a damaged file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise foreign(where, first_line(error)) from error


@contextmanager
def opened(store: Store, key: str) -> Iterator[tuple[BinaryIO, int]]:
    """A file of a run folder and its size; a local file is loaded only as far as it is read.

    Raises:
        MissingObjectError: there is no such regular file.
    """
    if not isinstance(store, Folder):
        content = store.read(key)
        yield BytesIO(content), len(content)
        return
    path = store.locate(key)
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if store.links else os.O_NOFOLLOW))
    except (OSError, ValueError) as error:
        raise MissingObjectError(f"there is no file {path}") from error
    status = os.fstat(handle)
    if not S_ISREG(status.st_mode):
        os.close(handle)
        raise MissingObjectError(f"{path} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        yield file, status.st_size


def read_coded(
    store: Store, key: str, columns: Sequence[Column], budget: Budget | None = None
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Some columns of a table, with text as distinct values and codes, and the metadata of the file.

    Args:
        store: store of the run folder.
        key: key of the file.
        columns: columns of `schema`, in the wanted order; a missing column is null, unless it is required.
        budget: a budget shared with other files; None for a budget of this file alone.

    Raises:
        TableError: the file is not such a table, or would take more memory than the budget allows.
        MissingObjectError: there is no such file.
    """
    where, budget = store.locate(key), budget or Budget()
    with opened(store, key) as (file, size), _as_user_error(where):
        budget.add(size)
        footer = pq.ParquetFile(file)
        known = _known(footer, columns, where)
        needed, _ = page_sizes(footer.metadata, row_groups(footer.metadata, file), set(known), file)
        budget.take(needed, where)
        texts = [name for name, column in known.items() if _varies(column)]
        # Opened again: which columns to read as codes is known only from the footer.
        table = pq.ParquetFile(file, metadata=footer.metadata, read_dictionary=texts).read(
            columns=list(known), use_threads=False
        )
        table = table.rename_columns([known[name].name for name in table.column_names])
        table.validate(full=True)
        missing = len({column.name for column in columns} - set(table.column_names))
        budget.take(WIDEST * table.num_rows * missing, where)
        return _fitted(table, columns, where), dict(footer.metadata.metadata or {})


def read_frame(
    store: Store, key: str, columns: Sequence[Column], budget: Budget | None = None
) -> tuple[pl.DataFrame, dict[bytes, bytes]]:
    """Some columns of a table with text written out; arguments, metadata and errors are those of `read_coded`."""
    where, budget = store.locate(key), budget or Budget()
    coded, metadata = read_coded(store, key, columns, budget)
    budget.take(sum(_written_out(coded[column.name]) for column in columns if _varies(column)), where)
    with _as_user_error(where):
        plain = arrow_schema(columns)
        fields = [
            field.with_type(_LARGE.get(column.type, field.type)) for field, column in zip(plain, columns, strict=True)
        ]
        return pl.DataFrame(coded.cast(pa.schema(fields))), metadata


_LARGE = {"string": pa.large_string(), "binary": pa.large_binary()}


def _varies(column: Column) -> bool:
    return column.type in ("string", "binary")


def _known(parquet: pq.ParquetFile, columns: Sequence[Column], where: str) -> dict[str, Column]:
    """The wanted columns that the file has, by their name in the file.

    Raises:
        TableError: a required column is missing, or a column is there twice or has another type.
    """
    schema = parquet.schema_arrow
    known = {}
    for column in columns:
        places = [place for name in column.names for place in schema.get_all_field_indices(name)]
        if not places and not column.required:
            continue
        if len(places) != 1:
            raise foreign(where, f"the column {column.name} is {'missing' if not places else 'there twice'}")
        kind = schema.field(places[0]).type
        kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
        if not any(fits(kind) for fits in _FITS[column.type.rstrip("0123456789")]):
            raise foreign(where, f"the column {column.name} must be of type {column.type}, got {short(str(kind))}")
        known[schema.field(places[0]).name] = column
    return known


def _fitted(table: pa.Table, columns: Sequence[Column], where: str) -> pa.Table:
    """Exactly these columns with their types, text as codes; required columns hold no null."""
    fitted = []
    for column in columns:
        kind = arrow_schema([column]).field(0).type
        if column.name not in table.column_names:
            fitted.append(pa.chunked_array([pa.nulls(table.num_rows, _coded(kind))]))
            continue
        values = table[column.name]
        if values.null_count and column.required:
            raise foreign(where, f"the column {column.name} has rows without a value")
        if not _varies(column):
            fitted.append(values.cast(kind))
            continue
        values = (values if pa.types.is_dictionary(values.type) else values.dictionary_encode()).cast(_coded(kind))
        longest = MOST_TEXT if column.type == "string" else MOST_BINARY
        if any((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0) > longest for chunk in values.chunks):
            raise foreign(where, f"the column {column.name} holds a value of more than {longest} bytes")
        fitted.append(values)
    return pa.table(dict(zip([column.name for column in columns], fitted, strict=True)))


def _coded(kind: pa.DataType) -> pa.DataType:
    return pa.dictionary(pa.int32(), kind) if kind in (pa.string(), pa.binary()) else kind


def _written_out(column: pa.ChunkedArray) -> int:
    """Bytes of a coded column after its text is written out."""
    total = 0
    for chunk in column.chunks:
        if len(chunk.dictionary):
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total + 8 * len(column)
