"""What reading a parquet file may take, held against a budget before it is read: it may be a stranger's."""

from collections.abc import Collection
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from camrobust.contract.errors import UserError
from camrobust.io.parquet_pages import unpacked_bytes

FLOOR_BYTES = 256 * 2**20
"""What reading may take whatever the size of the files."""
RATIO = 256
"""And this times the size of the files: scores unpack to about ten times their size, a list of images whose names count
up to two hundred times."""
MOST_GROUPS = 100_000
"""Groups of rows of one file."""

WIDEST = 8
"""Bytes of a value while it is read; of a text or a picture, of its place among the different ones."""


class TableError(UserError):
    """A file is not the table that it must be."""


class TooLargeTableError(TableError):
    """Reading a table would take more memory than it may."""


@dataclass
class Budget:
    """What reading some files may take together; each adds to it by its size.

    Attributes:
        stored_bytes: size of the files so far.
        taken_bytes: what was used up.
    """

    stored_bytes: int = 0
    taken_bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self, stored_bytes: int) -> None:
        """Take up a file."""
        with self._lock:
            self.stored_bytes += stored_bytes

    def take(self, count: int, where: str) -> None:
        """Use up some bytes.

        Raises:
            TooLargeTableError: that is more than is left.
        """
        with self._lock:
            self.taken_bytes += count
            most = FLOOR_BYTES + RATIO * self.stored_bytes
            over = self.taken_bytes > most
        if over:
            raise TooLargeTableError(
                f"run: {where} would unpack to more than {most // 2**20} MiB, which no table of its size does that "
                "camrobust wrote, and is left unread; get a sound copy of the folder"
            )


def columns_within_budget(content: bytes, wanted: Collection[str], where: str) -> tuple[list[str], list[str]]:
    """Look over a user's own parquet table before some of its columns are read.

    Args:
        content: of the file.
        wanted: names of columns.
        where: its address.

    Returns:
        Names of all its columns, and of those that are wanted.

    Raises:
        TooLargeTableError: it would take more memory than the budget has.
        ValueError: it is damaged; so are all errors of pyarrow, but for those of the system.
    """
    file, budget = BytesIO(content), Budget()
    footer = pq.ParquetFile(file)
    names = list(footer.schema_arrow.names)
    found = [name for name in names if name in wanted]
    budget.add(len(content))
    budget.take(needed_bytes(footer.metadata, set(found), file), where)
    return names, found


def needed_bytes(metadata: pq.FileMetaData, names: Collection[str], file: BinaryIO) -> int:
    """Bytes that reading some columns takes at most, text not written out."""
    if metadata.num_row_groups > MOST_GROUPS:
        raise ValueError(f"more than {MOST_GROUPS:,} groups of rows")
    needed = rows = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows += group.num_rows
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema not in names:
                continue
            if chunk.num_values != group.num_rows or group.num_rows < 0:
                raise ValueError(f"the column {chunk.path_in_schema} has not one value for each row")
            needed += _unpacked(chunk, file) + WIDEST * group.num_rows
    if rows != metadata.num_rows:
        raise ValueError("its groups do not hold as many rows as it says")
    return needed


def _unpacked(chunk: Any, file: BinaryIO) -> int:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return unpacked_bytes(file, start, chunk.total_compressed_size, chunk.num_values)
