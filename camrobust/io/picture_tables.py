"""Finds the pictures inside a parquet file: a column `image: {bytes, path}`, as Hugging Face writes it, or a named one.

Nothing is read of the pictures but the sizes of their pages, and of these only in row groups of more than 16 MiB.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.contract.secrecy import sentence
from camrobust.io.manifest_rows import label_column
from camrobust.io.objects import Store
from camrobust.io.parquet_budget import Budget, is_nested, page_sizes
from camrobust.io.parquet_excerpt import BYTE_ARRAY, CODECS, Pages
from camrobust.io.parquet_footer import Chunk, RowGroup, row_groups
from camrobust.io.parquet_pages import pages_of
from camrobust.io.places import ParquetPlace
from camrobust.io.ranges import Ranged
from camrobust.io.tables import LABELS, ROW, Table

WHOLE_BYTES = 16 * 2**20
"""Row groups whose pictures take no more are read whole."""
RUN_BYTES = 4 * 2**20
"""Of larger ones, pages of about so many bytes are read together."""
COLUMN_BYTES = 2**18
"""Least bytes of one read of the columns beside the pictures, between which the pictures lie."""
BATCH_BYTES, MOST_ROWS = 64 * 2**20, 2**16
MOST_LEVELS = 9
PLACE_BYTES = 256
"""What a row takes in the list of images; a few bytes of a table may stand for any number of rows."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table of pictures are read, where the user names them.

    Attributes:
        image: holds the pictures; None for the only one of Hugging Face's type.
        label: holds the labels; None for label or class_index.
    """

    image: str | None = None
    label: str | None = None


BY_TYPE = Columns()
"""No column is named."""


def has_pictures(store: Store, key: str, size_bytes: int, columns: Columns) -> bool:
    """Whether a parquet file holds pictures, rather than their addresses; not if it is damaged."""
    if columns.image is not None:
        return True
    try:
        schema = pq.ParquetFile(Ranged(store, key, size_bytes)).schema_arrow
    except (pa.ArrowException, OSError, ValueError):
        return False
    return "uri" not in schema.names and bool(_candidates(schema))


def _candidates(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_feature(field.type)]


def _is_feature(kind: pa.DataType) -> bool:
    """Whether a column is of Hugging Face's type for pictures."""
    if not pa.types.is_struct(kind):
        return False
    parts = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    return "path" in parts and not is_nested(parts["path"]) and _is_bytes(parts.get("bytes"))


def _is_bytes(kind: pa.DataType | None) -> bool:
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return kind is not None and any(fits(kind) for fits in kinds)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what readers raise into a sentence."""
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError) as error:
        said = sentence(first_line(error))
        raise UserError(f"images: {where} is not a readable parquet file ({said}); get an undamaged copy") from error


def pictures_in_table(
    store: Store, key: str, size_bytes: int, columns: Columns, numbers: Mapping[str, int] | None = None
) -> pl.DataFrame:
    """One row per row of a parquet file with pictures inside.

    Args:
        store: where it lies.
        key: its key.
        size_bytes: its size.
        columns: which columns are read.
        numbers: of the classes by name, for labels that are names.

    Returns:
        place, label (int32), image_id (if the table has it) and path (as the column of pictures has it).

    Raises:
        UserError: it is damaged, or has no such column, several, or one that holds no pictures.
    """
    file, where = Ranged(store, key, size_bytes, COLUMN_BYTES), store.locate(key)
    with _explained(where):
        footer = pq.ParquetFile(file)
        leaf = _leaf(footer.schema_arrow, columns, where)
        others = _others(footer.schema_arrow, leaf, columns, where)
        budget = Budget()
        budget.add(size_bytes)
        groups = row_groups(footer.metadata, file)
        needed, largest = page_sizes(footer.metadata, groups, set(others.values()), file)
        budget.take(needed, where)
        budget.take(PLACE_BYTES * footer.metadata.num_rows, where)
        cells = _cells(footer, others, _batch_rows(largest))
        levels = _levels(footer.metadata, leaf, where)
        places = [str(place) for place in _places(groups, leaf, levels, Ranged(store, key, size_bytes), where)]
    table = Table("manifest", where, list(footer.schema_arrow.names), cells.with_row_index(ROW, 1))
    labels = label_column(table if columns.label is None else _named(table), numbers)
    return pl.DataFrame(
        {
            "place": places,
            "label": pl.repeat(None, len(places), dtype=pl.Int32, eager=True) if labels is None else labels,
            **{name: cells[name] if name in cells.columns else [None] * len(places) for name in ("image_id", "path")},
        },
        schema={"place": pl.String, "label": pl.Int32, "image_id": pl.String, "path": pl.String},
    )


def _named(table: Table) -> Table:
    """The table as if the column that the user names were called label."""
    return Table(table.what, table.uri, ["label"], table.cells)


def _leaf(schema: pa.Schema, columns: Columns, where: str) -> str:
    """Path of the column with the bytes of the pictures."""
    found = [columns.image] if columns.image else _candidates(schema)
    shown = ", ".join(short(name) for name in schema.names[:10])
    if not found:
        raise UserError(f"images: {where} has no column of pictures, only {shown}; name one as image_column")
    if len(found) > 1:
        several = ", ".join(map(short, found))
        raise UserError(f"images: {where} has several columns of pictures ({several}); name one as image_column")
    (name,) = found
    if schema.names.count(name) != 1:
        raise UserError(f"images: {where} has no column '{short(name)}' to be the image_column, only {shown}")
    kind = schema.field(name).type
    if not (_is_bytes(kind) or _is_feature(kind)):
        raise UserError(
            f"images: the column '{short(name)}' of {where} must hold the bytes of pictures, or a structure of bytes "
            f"and path, got {short(str(kind))}"
        )
    return name if _is_bytes(kind) else f"{name}.bytes"


def _others(schema: pa.Schema, leaf: str, columns: Columns, where: str) -> dict[str, str]:
    """Paths of the columns that are read beside the pictures, by what they are for."""
    if columns.label is not None and columns.label not in schema.names:
        raise UserError(f"images: {where} has no column '{short(columns.label)}' to be the label_column")
    found = {name: name for name in ("image_id", *LABELS) if name in schema.names and columns.label is None}
    if columns.label is not None:
        found = {"label": columns.label} | ({"image_id": "image_id"} if "image_id" in schema.names else {})
    for path in found.values():
        if schema.names.count(path) > 1:
            raise UserError(f"images: {where} has the column '{short(path)}' twice; keep one")
        kind = schema.field(path).type
        if is_nested(kind):
            raise ValueError(f"the column '{short(path)}' must hold one value in each row, not {short(str(kind))}")
    if leaf.endswith(".bytes") and leaf not in schema.names:
        found["path"] = f"{leaf.removesuffix('.bytes')}.path"
    return found


def _batch_rows(largest: int) -> int:
    """How many rows are read at a time: a text may be as long as a page, and may be that of every row."""
    return max(1, min(MOST_ROWS, BATCH_BYTES // max(1, largest)))


def _cells(file: pq.ParquetFile, others: dict[str, str], rows: int) -> pl.DataFrame:
    """The columns beside the pictures, so many rows at a time."""
    parts: dict[str, list[Any]] = {name: [] for name in others}
    if others:
        for batch in file.iter_batches(rows, columns=list(others.values()), use_threads=False):
            for name, path in others.items():
                outer, _, inner = (path, "", "") if path in batch.schema.names else path.partition(".")
                column = batch.column(outer)
                parts[name].append(pc.struct_field(column, inner) if inner else column)
    cells = [
        pl.Series(name, pa.chunked_array(chunks)) if chunks else pl.Series(name, [], pl.String)
        for name, chunks in parts.items()
    ]
    names = [pl.col(name).cast(pl.String) for name in ("image_id", "path") if name in parts]
    return pl.DataFrame(cells).with_columns(pl.when(name.str.strip_chars() != "").then(name) for name in names)


def _levels(metadata: pq.FileMetaData, leaf: str, where: str) -> int:
    """How many of the column of pictures and the structures around it may be null."""
    column = next((one for one in metadata.schema if one.path == leaf), None)
    if column is None:
        raise ValueError(f"it has no column {short(leaf)}")
    if column.max_repetition_level or column.max_definition_level > MOST_LEVELS:
        raise UserError(f"images: the column '{short(leaf)}' of {where} must hold one picture in each row")
    return int(column.max_definition_level)


def _places(groups: Sequence[RowGroup], leaf: str, levels: int, file: Ranged, where: str) -> Iterator[ParquetPlace]:
    """Where the picture of each row lies."""
    nulls = rows = 0
    for group in groups:
        chunk = next(one for one in group.chunks if one.path == leaf)
        if chunk.values != group.rows or chunk.kind != BYTE_ARRAY:
            raise UserError(f"images: the column '{short(leaf)}' of {where} must hold one picture in each row")
        if chunk.codec not in CODECS:
            raise UserError(f"images: the pictures in {where} are compressed with {chunk.codec}; use snappy or zstd")
        rows += group.rows
        nulls += chunk.nulls or 0
        for pages in _units(chunk, levels, file):
            yield from (ParquetPlace(pages, row) for row in range(pages.rows))
    if rows and nulls == rows:
        raise UserError(
            f"images: the column '{short(leaf)}' of {where} holds no picture, perhaps only paths; write the pictures "
            "into it, or give a manifest with a column uri"
        )


def _units(chunk: Chunk, levels: int, file: Ranged) -> Iterator[Pages]:
    """The pages of a row group in runs that are read together."""
    start, length, rows = chunk.start, chunk.length, chunk.values
    if start + length > file.size_bytes:
        raise ValueError("a row group lies outside the file")
    if length <= WHOLE_BYTES:
        yield Pages(start, length, chunk.codec, levels, rows)
        return
    behind: tuple[int, int] | None = None
    begin = end = values = 0
    refers = False
    for page in pages_of(file, start, length, rows):
        if page.is_dictionary:
            behind = (page.start, page.length)
            continue
        if values and (page.refers != refers or page.start + page.length - begin > RUN_BYTES):
            yield Pages(begin, end - begin, chunk.codec, levels, values, behind if refers else None)
            values = 0
        begin, refers = (page.start, page.refers) if not values else (begin, refers)
        end, values = page.start + page.length, values + page.values
    if values:
        yield Pages(begin, end - begin, chunk.codec, levels, values, behind if refers else None)
