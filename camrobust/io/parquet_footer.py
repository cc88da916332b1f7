"""Where the columns of a parquet file lie, read from its footer by ourselves.

pyarrow ends the process where it is asked for a column that is encrypted, or whose facts contradict one another, and a
file may come from anyone. It reports the same as an error when it reads the column.
"""

from dataclasses import dataclass
from os import SEEK_END
from typing import Any

import pyarrow.parquet as pq

from camrobust.io.parquet_thrift import CODECS, Compact, Opened, PageError

NAMES = {number: name for name, number in CODECS.items()}
MOST_GROUPS = 100_000
"""Most row groups of one file."""
ROW_GROUPS, CHUNKS, ROWS, FACTS, ENCRYPTION = 4, 1, 3, 3, 8
"""Fields of the footer, of a row group (two), and of a column in one (two)."""
TYPE, CODEC, VALUES, LENGTH, DATA, DICTIONARY, STATISTICS, NULLS = 1, 4, 5, 7, 9, 11, 12, 3
"""Fields of a column's facts, the last one of its statistics."""


@dataclass(frozen=True)
class Chunk:
    """A column in a row group.

    Attributes:
        path: names of the column and the structures around it, with dots.
        kind: number of the physical type.
        codec: by pyarrow's names.
        values: number of its values, nulls included.
        start: where the first page begins.
        length: bytes of all pages.
        nulls: how many values are null; None if nothing says so.
    """

    path: str
    kind: int
    codec: str
    values: int
    start: int
    length: int
    nulls: int | None


@dataclass(frozen=True)
class RowGroup:
    """Rows that lie together."""

    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(metadata: pq.FileMetaData, file: Opened) -> list[RowGroup]:
    """The row groups of a parquet file.

    Args:
        metadata: as pyarrow opened it; only the schema is used.
        file: the same file.

    Raises:
        PageError: a column is encrypted or lacks facts, a row group lacks columns or has more than the schema, or there
            are too many of them.
    """
    if metadata.num_row_groups > MOST_GROUPS:
        raise PageError(f"it has more than {MOST_GROUPS:,} row groups")
    paths = [column.path for column in metadata.schema]
    file.seek(-8, SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    file.seek(-8 - length, SEEK_END)
    footer = Compact(file.read(length)).structure()
    return [_row_group(group, paths) for group in _structures(footer, ROW_GROUPS)]


def _row_group(group: dict[int, Any], paths: list[str]) -> RowGroup:
    chunks = _structures(group, CHUNKS)
    if len(chunks) != len(paths):
        raise PageError("a row group has another number of columns than the schema")
    return RowGroup(_whole(group, ROWS), tuple(_chunk(*pair) for pair in zip(chunks, paths, strict=True)))


def _chunk(chunk: dict[int, Any], path: str) -> Chunk:
    facts = chunk.get(FACTS)
    if ENCRYPTION in chunk:
        raise PageError("its columns are encrypted; write it without encryption")
    if not isinstance(facts, dict):
        raise PageError(f"nothing says where the column {path} lies")
    start = _whole(facts, DATA)
    if DICTIONARY in facts and 0 < _whole(facts, DICTIONARY) < start:
        start = _whole(facts, DICTIONARY)
    statistics = facts.get(STATISTICS)
    nulls = _whole(statistics, NULLS) if isinstance(statistics, dict) and NULLS in statistics else None
    codec = _whole(facts, CODEC)
    return Chunk(
        path, _whole(facts, TYPE), NAMES.get(codec, f"method {codec}"), _whole(facts, VALUES), start,
        _whole(facts, LENGTH), nulls,
    )  # fmt: skip


def _structures(fields: dict[int, Any], number: int) -> list[dict[int, Any]]:
    found = fields.get(number, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise PageError("its footer holds something else than row groups with columns")
    return found


def _whole(fields: dict[int, Any], number: int) -> int:
    """A number of 63 bits, of which a reader keeps no more."""
    value = fields.get(number)
    if type(value) is not int or not 0 <= value < 2**63:
        raise PageError("its footer lacks a number, or holds a strange one")
    return value
