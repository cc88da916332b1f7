"""Some pages of one column of a parquet file, read as a small parquet file of their own.

So a picture in a large row group costs only the pages that hold it, and its footer is not read again. A footer is made
for the pages, and pyarrow unpacks them. It is written in Thrift's compact protocol; the numbers of its fields are those
of parquet.thrift.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from camrobust.io.image_errors import ImageError
from camrobust.io.parquet_pages import Page, pages_of
from camrobust.io.parquet_thrift import BINARY, INT32, INT64, LIST, MAGIC, STRUCT, PageError
from camrobust.io.parquet_thrift import CODECS as ALL_CODECS

CODECS = {name: number for name, number in ALL_CODECS.items() if name not in ("LZO", "LZ4 of Hadoop")}
"""Those that pyarrow unpacks, by its names."""
BYTE_ARRAY, OPTIONAL, REQUIRED = 6, 1, 0
ENCODINGS = (0, 2, 3, 6, 7, 8)
"""Those of byte arrays and of levels; the pages say which they use."""
MOST_UNPACKED = 512 * 2**20
"""Largest size of pages that are unpacked together."""
ROW = "row"
Field = tuple[int, int, bytes]


@dataclass(frozen=True)
class Pages:
    """Neighbouring pages of a column of byte arrays.

    Attributes:
        start: the first byte.
        length: bytes.
        codec: a name in `CODECS`.
        levels: how many of the column and the structures around it may be null.
        rows: number of values, nulls included.
        dictionary: start and length of the page of distinct values, if it lies elsewhere.
    """

    start: int
    length: int
    codec: str
    levels: int
    rows: int
    dictionary: tuple[int, int] | None = None


def values_of(pages: Pages, content: bytes, wanted: Set[int]) -> dict[int, bytes | None]:
    """The values of some rows; None where they are null.

    Args:
        pages: what the bytes are.
        content: the page of distinct values, if it lies elsewhere, and the pages.
        wanted: numbers of rows, from 0.

    Raises:
        ImageError: the pages are damaged, or would unpack to too much.
    """
    try:
        headers = list(pages_of(BytesIO(content), 0, len(content), pages.rows))
        batch = _batch_rows(pages, headers)
        file = pq.ParquetFile(BytesIO(_file(pages, headers, content)), page_checksum_verification=True)
        found: dict[int, bytes | None] = {}
        first = 0
        for some in file.iter_batches(batch, use_threads=False):
            column = some.column(0)
            while pa.types.is_struct(column.type):
                column = pc.struct_field(column, 0)
            here = [row for row in wanted if first <= row < first + len(column)]
            found |= {row: column[row - first].as_py() for row in here}
            first += len(column)
    except MemoryError:
        # pyarrow's own is an ArrowException, too.
        raise
    except (PageError, pa.ArrowException, OSError, ValueError) as error:
        raise ImageError(
            "the pages of the parquet file that hold it are damaged or have changed", "truncated"
        ) from error
    if first != pages.rows or not wanted <= found.keys():
        raise ImageError("the pages of the parquet file that hold it have other rows than listed", "truncated")
    return found


def _batch_rows(pages: Pages, headers: Sequence[Page]) -> int:
    """How many rows are unpacked at a time: each may be the whole page of distinct values.

    Raises:
        ImageError: the pages would unpack to too much.
    """
    if sum(page.unpacked_bytes for page in headers) > MOST_UNPACKED:
        raise ImageError(f"the pages that hold it would unpack to more than {MOST_UNPACKED // 2**20} MiB", "too_large")
    distinct = max((page.unpacked_bytes for page in headers if page.is_dictionary), default=0)
    return max(1, min(pages.rows, MOST_UNPACKED // distinct if distinct else pages.rows))


def _file(pages: Pages, headers: Sequence[Page], content: bytes) -> bytes:
    """A parquet file of these pages."""
    footer = _footer(pages, headers, len(content))
    return MAGIC + content + footer + len(footer).to_bytes(4, "little") + MAGIC


def _footer(pages: Pages, headers: Sequence[Page], length: int) -> bytes:
    (first, *others) = headers
    data = len(MAGIC) + (first.length if first.is_dictionary and others else 0)
    names = [_text(ROW)] * max(1, pages.levels)
    column = [
        (1, INT32, _number(BYTE_ARRAY)),
        (2, LIST, _list(INT32, [_number(one) for one in ENCODINGS])),
        (3, LIST, _list(BINARY, names)),
        (4, INT32, _number(CODECS[pages.codec])),
        (5, INT64, _number(pages.rows)),
        (6, INT64, _number(length)),
        (7, INT64, _number(length)),
        (9, INT64, _number(data)),
    ]
    if first.is_dictionary:
        column.append((11, INT64, _number(len(MAGIC))))
    chunk = _structure((2, INT64, _number(len(MAGIC))), (3, STRUCT, _structure(*column)))
    group = _structure(
        (1, LIST, _list(STRUCT, [chunk])),
        (2, INT64, _number(length)),
        (3, INT64, _number(pages.rows)),
    )
    return _structure(
        (1, INT32, _number(2)),
        (2, LIST, _list(STRUCT, _schema(pages.levels))),
        (3, INT64, _number(pages.rows)),
        (4, LIST, _list(STRUCT, [group])),
    )


def _schema(levels: int) -> list[bytes]:
    """A root, as many structures as it takes, and the column in the innermost; each of them may be null."""
    root = _structure((4, BINARY, _text("root")), (5, INT32, _number(1)))
    outer = _structure((3, INT32, _number(OPTIONAL)), (4, BINARY, _text(ROW)), (5, INT32, _number(1)))
    null = OPTIONAL if levels else REQUIRED
    leaf = _structure((1, INT32, _number(BYTE_ARRAY)), (3, INT32, _number(null)), (4, BINARY, _text(ROW)))
    return [root, *[outer] * (levels - 1), leaf]


def _unsigned(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def _number(value: int) -> bytes:
    return _unsigned(value << 1)


def _text(value: str) -> bytes:
    return _unsigned(len(value)) + value.encode()


def _list(kind: int, items: list[bytes]) -> bytes:
    """At most 14 items."""
    return bytes([len(items) << 4 | kind]) + b"".join(items)


def _structure(*fields: Field) -> bytes:
    written, last = b"", 0
    for field, kind, value in fields:
        written += bytes([field - last << 4 | kind]) + value
        last = field
    return written + b"\0"
