"""A memory budget for parquet files, checked before a file is read, as it may come from anyone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.contract.errors import UserError
from camrobust.io.parquet_footer import RowGroup, row_groups
from camrobust.io.parquet_pages import pages_of
from camrobust.io.parquet_thrift import Opened

FLOOR_BYTES = 256 * 2**20
"""Allowed for files of any size."""
RATIO = 256
"""Allowed beside that, per byte of the files. Scores unpack to about ten times their size, a list of numbered images to
up to two hundred times."""
WIDEST = 8
"""Bytes per value while it is read. Texts and pictures are read as numbers of their distinct values."""


class TableError(UserError):
    """The file is not the expected table."""


class TooLargeTableError(TableError):
    """Reading the table would exceed the memory budget."""


@dataclass
class Budget:
    """The memory that several files may take together when they are read; it grows with their size.

    Attributes:
        stored_bytes: size of the files so far.
        taken_bytes: memory used so far.
    """

    stored_bytes: int = 0
    taken_bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self, stored_bytes: int) -> None:
        """Raise the budget for a file of this size."""
        with self._lock:
            self.stored_bytes += stored_bytes

    def take(self, count: int, where: str) -> None:
        """Use some bytes of the budget.

        Raises:
            TooLargeTableError: the budget is exceeded.
        """
        with self._lock:
            self.taken_bytes += count
            most = FLOOR_BYTES + RATIO * self.stored_bytes
            over = self.taken_bytes > most
        if over:
            raise TooLargeTableError(
                f"run: {where} would unpack to more than {most // 2**20} MiB, too much for a table of its size, and is "
                "not read; get an undamaged copy of the folder"
            )


def columns_within_budget(content: bytes, wanted: Collection[str], where: str) -> tuple[list[str], list[str]]:
    """Check a user's parquet table before some of its columns are read.

    Args:
        content: bytes of the file.
        wanted: names of columns to read, whatever blanks are around them in the file.
        where: its address.

    Returns:
        The names of all its columns, and the wanted ones among them.

    Raises:
        TooLargeTableError: the columns would exceed the memory budget.
        ValueError: the file is damaged, or a wanted column holds lists or structures; pyarrow may also raise OSError.
    """
    file, budget = BytesIO(content), Budget()
    footer = pq.ParquetFile(file)
    names = list(footer.schema_arrow.names)
    present = [name for name in names if name.strip() in wanted]
    for name, kind in zip(names, footer.schema_arrow.types, strict=True):
        if name in present and is_nested(kind):
            raise ValueError(f"the column '{name}' must hold one value in each row, not {kind}")
    budget.add(len(content))
    needed, _ = page_sizes(footer.metadata, row_groups(footer.metadata, file), set(present), file)
    budget.take(needed, where)
    return names, present


def is_nested(kind: pa.DataType) -> bool:
    """Whether a cell of this type may hold several values, as a tensor does, too."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return bool(pa.types.is_nested(kind))


def page_sizes(
    metadata: pq.FileMetaData, groups: Sequence[RowGroup], names: Collection[str], file: Opened
) -> tuple[int, int]:
    """The most bytes that reading some columns can take, with texts as numbers; and those of their largest page."""
    needed = largest = 0
    for group in groups:
        for chunk in group.chunks:
            if chunk.path not in names:
                continue
            if chunk.values != group.rows:
                raise ValueError(f"the column {chunk.path} must have one value for each row")
            sizes = [page.unpacked_bytes for page in pages_of(file, chunk.start, chunk.length, chunk.values)]
            needed += sum(sizes) + WIDEST * group.rows
            largest = max([largest, *sizes])
    if sum(group.rows for group in groups) != metadata.num_rows:
        raise ValueError("its row groups do not add up to its number of rows")
    return needed, largest
