"""Parquet tables of a run folder, looked over before they are read: they may be a stranger's.

A file of 31 KB can hold a text of 1 GB, or a million rows that repeat one of 1 MB. So first the columns and their types
are held against `schema`, then what unpacking will take, page by page, against a budget that grows with the file; text
is read as different values and their places, and written out only where the budget allows that, too. Columns that the
schema does not name are never read.
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

from camrobust.contract.quoting import first_line, short
from camrobust.contract.schema import Column
from camrobust.io.local_folder import Folder
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.parquet_budget import Budget, TableError, needed_bytes
from camrobust.results.arrow import arrow_schema

MOST_TEXT = 65_536
"""Bytes of one text: a name, an address, a sentence."""
MOST_BINARY = 64 * 2**20
"""Bytes of one picture or map."""
_FITS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "string": (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    "binary": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    "int": (pa.types.is_integer,),
    "float": (pa.types.is_floating,),
    "bool": (pa.types.is_boolean,),
}


def foreign(where: str, problem: str) -> TableError:
    """What is said of a file that is not the table that it must be."""
    return TableError(
        f"run: {where} is not a table as camrobust writes it ({problem}); get a sound copy, or measure again into "
        "another folder"
    )


@contextmanager
def _as_user_error(where: str) -> Iterator[None]:
    """What Arrow raises at a damaged file, as one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise foreign(where, first_line(error)) from error


@contextmanager
def opened(store: Store, key: str) -> Iterator[tuple[BinaryIO, int]]:
    """A file of a run folder and its size; of a folder on disk only what is read of it is loaded.

    Raises:
        MissingObjectError: there is no such regular file.
    """
    if not isinstance(store, Folder):
        content = store.read(key)
        yield BytesIO(content), len(content)
        return
    path = store.locate(key)
    try:
        # Without waiting for whoever may write into a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if store.links else os.O_NOFOLLOW))
    except (OSError, ValueError) as error:
        raise MissingObjectError(f"there is no file {path}") from error
    found = os.fstat(handle)
    if not S_ISREG(found.st_mode):
        os.close(handle)
        raise MissingObjectError(f"{path} is not a regular file")
    with os.fdopen(handle, "rb") as file:
        yield file, found.st_size


def read_coded(
    store: Store, key: str, columns: Sequence[Column], budget: Budget | None = None
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Some columns of a table, text as different values and their places, and the metadata beside it.

    Args:
        store: of the run folder.
        key: of the file.
        columns: of `schema`, in the order wanted; what may be null may be missing, and is null then.
        budget: shared with other files; None for this file's own.

    Raises:
        TableError: it is not such a table, or would take more memory than the budget has.
        MissingObjectError: there is no such file.
    """
    where, budget = store.locate(key), budget or Budget()
    with opened(store, key) as (file, size), _as_user_error(where):
        budget.add(size)
        footer = pq.ParquetFile(file)
        known = _known(footer, columns, where)
        budget.take(needed_bytes(footer.metadata, set(known), file), where)
        texts = [name for name, column in known.items() if _varies(column)]
        # Text is read as codes, which cannot be asked for before it is known that there is text.
        table = pq.ParquetFile(file, metadata=footer.metadata, read_dictionary=texts).read(
            columns=list(known), use_threads=False
        )
        table = table.rename_columns([known[name].name for name in table.column_names])
        told = dict(footer.schema_arrow.metadata or {})
        table.validate(full=True)
        return _fitted(table, columns, where), told


def read_frame(
    store: Store, key: str, columns: Sequence[Column], budget: Budget | None = None
) -> tuple[pl.DataFrame, dict[bytes, bytes]]:
    """Some columns of a table with their text written out; arguments, metadata and errors as of `read_coded`."""
    where, budget = store.locate(key), budget or Budget()
    coded, told = read_coded(store, key, columns, budget)
    budget.take(sum(_written_out(coded[one.name]) for one in columns if _varies(one)), where)
    with _as_user_error(where):
        plain = pa.schema([(one.name, _LARGE.get(one.type, arrow_schema([one]).field(0).type)) for one in columns])
        return pl.DataFrame(coded.cast(plain)), told


_LARGE = {"string": pa.large_string(), "binary": pa.large_binary()}


def _varies(column: Column) -> bool:
    return column.type in ("string", "binary")


def _known(parquet: pq.ParquetFile, columns: Sequence[Column], where: str) -> dict[str, Column]:
    """The columns of the file that are wanted, by their name there.

    Raises:
        TableError: a required column is missing, or one is there twice or has another type.
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
    """Exactly these columns, of their types, null only where they may be; text coded."""
    found = []
    for column in columns:
        kind = arrow_schema([column]).field(0).type
        if column.name not in table.column_names:
            found.append(pa.chunked_array([pa.nulls(table.num_rows, _coded(kind))]))
            continue
        values = table[column.name]
        if values.null_count and column.required:
            raise foreign(where, f"the column {column.name} has rows without a value")
        if not _varies(column):
            found.append(values.cast(kind))
            continue
        values = (values if pa.types.is_dictionary(values.type) else values.dictionary_encode()).cast(_coded(kind))
        longest = MOST_TEXT if column.type == "string" else MOST_BINARY
        if any((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0) > longest for chunk in values.chunks):
            raise foreign(where, f"the column {column.name} holds a value of more than {longest} bytes")
        found.append(values)
    return pa.table(dict(zip([one.name for one in columns], found, strict=True)))


def _coded(kind: pa.DataType) -> pa.DataType:
    return pa.dictionary(pa.int32(), kind) if kind in (pa.string(), pa.binary()) else kind


def _written_out(column: pa.ChunkedArray) -> int:
    """Bytes of a coded column once each row has its value."""
    total = 0
    for chunk in column.chunks:
        if len(chunk.dictionary):
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total + 8 * len(column)
