"""Reads the tables that users name, as spreadsheets and programs write them: manifests of images, and labels.

The content decides what a table is, not its name. Only known columns are kept.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line
from camrobust.contract.secrecy import sentence
from camrobust.io.objects import Access, MissingObjectError, TooLargeObjectError
from camrobust.io.parquet_budget import FLOOR_BYTES, RATIO, columns_within_budget
from camrobust.io.parquet_thrift import MAGIC
from camrobust.io.store import read_object
from camrobust.io.table_bytes import MOST_BYTES, NotATableError, as_utf8, check_utf8, unpacked
from camrobust.io.table_json import known_values

NAMES = ("class_name", "wnid")
KNOWN = ("image_id", "file", "uri", "label", "class_index", *NAMES)
"""The columns that are read; others are ignored."""
ROW = "row"
"""The column with the number of a row; in a spreadsheet the header is row 1."""
SEPARATORS = (",", ";", "\t", "|")
LABELS = ("label", "class_index")
MOST_COLUMNS = 10_000
CELL_BYTES = 16
"""Memory of one cell, beside its text."""
MOST_CELLS = 2**24
"""Cells that are read at a time to find rows without text."""
LONGEST_HEADER = 2**20
SHOWN_ROWS = 3
EMPTY = "is empty; its first row must name the columns"


@dataclass(frozen=True)
class Table:
    """The known columns of a user's table.

    Attributes:
        what: what the table is for; begins the sentence of an error.
        uri: its address.
        names: all its columns, without blanks around their names.
        cells: the known columns among them, and `ROW`.
        loose: whether blanks around a cell may be layout only, as in csv.
    """

    what: str
    uri: str
    names: list[str]
    cells: pl.DataFrame
    loose: bool = False

    def error(self, sentence: str) -> UserError:
        """An error about this table: what it is for, its address, and the sentence."""
        return UserError(f"{self.what}: {self.uri} {sentence}")

    def rows(self, wanted: pl.Series) -> str:
        """The numbers of some rows in words.

        Args:
            wanted: boolean, one per row.
        """
        return rows_in_words(self.cells[ROW].filter(wanted))


def rows_in_words(numbers: pl.Series) -> str:
    """`row 3`, or `rows 3, 5, 8 and 12 more`."""
    shown = ", ".join(map(str, numbers[:SHOWN_ROWS]))
    more = f" and {len(numbers) - SHOWN_ROWS:,} more" if len(numbers) > SHOWN_ROWS else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"


def read_table(uri: str, what: str, access: Access = "credentials") -> Table:
    """Read a table from any store: csv with any usual separator, line JSON or parquet, perhaps compressed.

    Args:
        uri: address of the table.
        what: what the table is for; begins the sentence of an error.
        access: how a bucket is read.

    Raises:
        UserError: the table does not exist, cannot be read or has a column twice.
    """
    try:
        content = read_object(uri, access, MOST_BYTES)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"{what}: {error}; correct the path") from error
    with _explained(what, uri):
        content = unpacked(content)
        frame = _parquet(content, uri) if content.startswith(MAGIC) else _from_text(as_utf8(content))
    names = [name.strip() for name in frame.names]
    twice = _repeated(names)
    if twice is not None:
        raise UserError(f"{what}: {uri} has the column '{twice}' twice; keep one")
    cells = frame.cells.rename({name: name.strip() for name in frame.cells.columns})
    return Table(what, uri, names, cells.select(ROW, *(name for name in names if name in KNOWN)), frame.loose)


@dataclass(frozen=True)
class _Frame:
    """A table as it was read.

    Attributes:
        names: all its columns, with the blanks around their names.
        cells: at least the known ones among them, and `ROW`.
        loose: whether blanks around a cell may be layout only.
    """

    names: Sequence[str]
    cells: pl.DataFrame
    loose: bool = False


_NOTHING = pl.DataFrame(schema={ROW: pl.UInt32})


def _repeated(names: Sequence[str]) -> str | None:
    """A known column that occurs more than once."""
    counts = Counter(name.strip() for name in names)
    return next((name for name, count in counts.items() if count > 1 and name in KNOWN), None)


@contextmanager
def _explained(what: str, uri: str) -> Iterator[None]:
    """Turn what readers raise into a sentence."""
    try:
        yield
    except NotATableError as error:
        raise UserError(f"{what}: {uri} {error}") from error
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{what}: {uri} is not a readable table ({sentence(first_line(error))})") from error


def _parquet(content: bytes, uri: str) -> _Frame:
    names, known = columns_within_budget(content, KNOWN, uri)
    if not known or _repeated(names):
        return _Frame(names, _NOTHING)
    # Texts as numbers of distinct ones, as a short file may repeat a long text; polars would panic at damaged pages.
    table = pq.ParquetFile(BytesIO(content), read_dictionary=known).read(columns=known, use_threads=False)
    cells = {name: pl.concat(map(_values, table[name].chunks or [pa.array([], table[name].type)])) for name in known}
    return _Frame(names, pl.DataFrame(cells).with_row_index(ROW, 1))


def _values(column: pa.Array) -> pl.Series:
    """A column; equal texts share their memory."""
    if not pa.types.is_dictionary(column.type):
        return pl.Series(column)
    return pl.Series(column.dictionary).gather(pl.Series(column.indices))


def _from_text(content: bytes) -> _Frame:
    begin = content.lstrip()[:1]
    if not begin:
        raise NotATableError(EMPTY)
    if begin not in (b"{", b"["):
        return _delimited(content)
    names, cells = known_values(content, KNOWN)
    if not names:
        raise NotATableError(EMPTY)
    return _Frame(names, cells.with_row_index(ROW, 1) if cells.width else _NOTHING)


def _delimited(content: bytes) -> _Frame:
    """Text cells behind a row of names; rows without any text are left out."""
    content, separator, above = _begin(content)
    names = _header(content, separator)
    places = [place for place, name in enumerate(names) if name.strip() in KNOWN]
    if not places or _repeated(names):
        return _Frame(names, _NOTHING)
    cells = _cells(content, separator, [*places, len(names)], len(names))
    wide = cells.select(pl.arg_where(pl.last().is_not_null())).to_series()
    row = wide[0] + 1 if len(wide) else _wide_row(content, separator)
    if row is not None:
        raise NotATableError(
            f"has more cells in row {row + above} than the {len(names)} of its header; quote cells that hold a "
            "separator"
        )
    cells = cells.select(pl.nth(range(len(places)))).rename(lambda name: names[int(name)])
    empty = _empty_elsewhere(content, separator, len(names), places, _empty(cells))
    labels = [name for name in cells.columns if name.strip() in LABELS]
    bare = cells.with_columns(bare_cells(cells[name]).alias(name) for name in labels)
    return _Frame(names, bare.with_row_index(ROW, 1 + above).filter(~empty)[1:], loose=True)


def bare_cells(cells: pl.Series) -> pl.Series:
    """Cells of text without the blanks around them, and without quotes behind blanks."""
    inner = cells.str.strip_chars()
    return (
        cells if inner.eq_missing(cells).all() else cells.str.replace(r'(?s)^\s+"(.*)"\s*$', "${1}").str.strip_chars()
    )


def _empty(cells: pl.DataFrame) -> pl.Series:
    """Which rows hold no text."""
    blank = [(bare_cells(column) == "").fill_null(value=True) for column in cells]
    return pl.select(pl.all_horizontal(blank)).to_series()


def _empty_elsewhere(content: bytes, separator: str, width: int, known: list[int], empty: pl.Series) -> pl.Series:
    """Which rows hold no text in the other columns, a few of which are read at a time; empty says where to look."""
    others = [place for place in range(width) if place not in known]
    step = max(1, MOST_CELLS // len(empty))
    for start in range(0, len(others), step):
        if not empty.any():
            break
        empty &= _empty(_cells(content, separator, others[start : start + step], width))
    return empty


def _begin(content: bytes) -> tuple[bytes, str, int]:
    """The text from its header on, its separator, and the number of rows above the header."""
    file, above, separator = BytesIO(content), 0, ""
    while True:
        start, line = file.tell(), file.readline(LONGEST_HEADER)
        said = line.strip(b' \t\r\n,;|"')
        if said[:4].lower() == b"sep=":
            # Excel writes this line to say which separator follows.
            separator = line.strip(b' \r\n"')[4:5].decode(errors="replace")
        elif said or not line:
            break
        above += 1
    if not said:
        raise NotATableError(EMPTY)
    separator = separator or _separator(line)
    if len(line) == LONGEST_HEADER or line.count(separator.encode()) >= MOST_COLUMNS:
        raise NotATableError(f"has more than {MOST_COLUMNS:,} columns or no row of names; keep what names images")
    return content[start:], separator, above


def _separator(header: bytes) -> str:
    """The separator with which the header has the most known columns, then the most columns."""

    def found(separator: str) -> tuple[int, int]:
        names = [name.strip().strip('"').strip().lower() for name in header.decode(errors="replace").split(separator)]
        return sum(name in KNOWN for name in names), len(names)

    return max(SEPARATORS, key=found)


def _header(content: bytes, separator: str) -> list[str]:
    """The names of all columns.

    Raises:
        NotATableError: the table has so many of them that it would not fit into memory.
    """
    rows = csv.reader(TextIOWrapper(BytesIO(content), "utf-8", "replace", newline=""), delimiter=separator)
    try:
        names = next(rows)
    except csv.Error as error:
        raise NotATableError("has no row of names that can be read; its first row must name the columns") from error
    if any("\ufffd" in name for name in names):
        check_utf8(content)
    lines, most = content.count(b"\n") + 1, FLOOR_BYTES + RATIO * len(content)
    if lines * len(names) * CELL_BYTES > most:
        raise NotATableError(
            f"has {lines:,} lines and {len(names):,} columns, too many for a table of its size; keep what names images"
        )
    return bare_cells(pl.Series(names, dtype=pl.String)).to_list()


def _cells(content: bytes, separator: str, places: list[int], width: int) -> pl.DataFrame:
    """Some columns of every row as text, also of the first, named by their places; the one behind the last counts."""
    wider = separator.encode() * width + b"x\n"
    try:
        cells = pl.read_csv(wider + content, has_header=False, separator=separator, infer_schema=False, columns=places)[
            1:
        ]
    except pl.exceptions.PolarsError as error:
        check_utf8(content)
        raise NotATableError(
            "holds quotes that do not match; quote cells that hold a quote, and write it twice"
        ) from error
    return cells.rename(dict(zip(cells.columns, map(str, places), strict=True)))


def _wide_row(content: bytes, separator: str) -> int | None:
    """The number of the first row that has more cells than the first one, of which the last is empty."""
    wide: list[int] = []

    def look(row: arrow_csv.InvalidRow) -> str:
        if row.actual_columns > row.expected_columns and not wide and row.text.rstrip(" \r\n").endswith(separator):
            wide.append(row.number)
        return "skip"

    parsing = arrow_csv.ParseOptions(
        delimiter=separator, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=look
    )
    reading = arrow_csv.ReadOptions(use_threads=False, autogenerate_column_names=True)
    try:
        with arrow_csv.open_csv(
            BytesIO(content), reading, parsing, arrow_csv.ConvertOptions(include_columns=["f0"])
        ) as batches:
            for _ in batches:
                if wide:
                    break
    except pa.ArrowException:
        return None
    return wide[0] if wide else None
