"""Reads the tables that users name, as spreadsheets and programs write them: manifests of images, and labels.

The content decides what a table is, not its name. Only known columns are kept.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import polars as pl
import pyarrow as pa
from pyarrow import csv

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.io.objects import Access, MissingObjectError, TooLargeObjectError
from camrobust.io.parquet_budget import columns_within_budget
from camrobust.io.store import read_object
from camrobust.io.table_bytes import MOST_BYTES, PARQUET, NotATableError, as_utf8, check_utf8, unpacked

KNOWN = ("image_id", "file", "uri", "label", "class_index")
"""The columns that are read; others are ignored."""
ROW = "row"
"""The column with the number of a row; in a spreadsheet the header is row 1."""
SEPARATORS = (",", ";", "\t", "|")
MOST_COLUMNS = 10_000
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
    """

    what: str
    uri: str
    names: list[str]
    cells: pl.DataFrame

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
        frame = _parquet(content, uri) if content.startswith(PARQUET) else _from_text(as_utf8(content))
    names = [name.strip() for name in frame.names]
    twice = _repeated(names)
    if twice is not None:
        raise UserError(f"{what}: {uri} has the column '{twice}' twice; keep one")
    cells = frame.cells.rename({name: name.strip() for name in frame.cells.columns})
    return Table(what, uri, names, cells.select(ROW, *(name for name in names if name in KNOWN)))


@dataclass(frozen=True)
class _Frame:
    """A table as it was read.

    Attributes:
        names: all its columns, with the blanks around their names.
        cells: at least the known ones among them, and `ROW`.
    """

    names: Sequence[str]
    cells: pl.DataFrame


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
        raise UserError(f"{what}: {uri} is not a readable table ({first_line(error)})") from error


def _parquet(content: bytes, uri: str) -> _Frame:
    names, known = columns_within_budget(content, KNOWN, uri)
    if not known or _repeated(names):
        return _Frame(names, _NOTHING)
    return _Frame(names, pl.read_parquet(BytesIO(content), columns=known).with_row_index(ROW, 1))


def _from_text(content: bytes) -> _Frame:
    begin = content.lstrip()[:1]
    if not begin:
        raise NotATableError(EMPTY)
    return _json(content, lines=begin == b"{") if begin in (b"{", b"[") else _delimited(content)


def _json(content: bytes, *, lines: bool) -> _Frame:
    """One object per line, or a list of objects."""
    read = pl.read_ndjson if lines else pl.read_json
    try:
        cells = read(BytesIO(content), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        check_utf8(content)
        raise NotATableError(
            f"is neither line JSON nor a list of objects ({first_line(error)}); write one object in each line"
        ) from error
    names = cells.columns
    if not names:
        raise NotATableError(EMPTY)
    return _Frame(names, cells.select(name for name in names if name.strip() in KNOWN).with_row_index(ROW, 1))


def _delimited(content: bytes) -> _Frame:
    """Text cells behind a row of names, without blanks around them; rows without any text are left out."""
    content, separator, above = _begin(content)
    cells = _cells(content, separator)
    names = [name or "" for name in cells.row(0)]
    if _repeated(names):
        return _Frame(names, _NOTHING)
    bare = cells.with_columns(pl.all().str.replace(r'(?s)^\s+"(.*)"\s*$', "${1}").str.strip_chars())
    empty = bare.select(pl.all_horizontal(pl.all().fill_null("") == "")).to_series()
    kept = {column: name for column, name in zip(cells.columns, names, strict=True) if name.strip() in KNOWN}
    return _Frame(names, bare.with_row_index(ROW, 1 + above).filter(~empty)[1:].select(ROW, *kept).rename(kept))


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


def _cells(content: bytes, separator: str) -> pl.DataFrame:
    """Every row as text, also the first.

    Raises:
        NotATableError: a row has more cells than the first one, quotes do not match, or the text is not UTF-8.
    """
    try:
        return pl.read_csv(content, has_header=False, separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        check_utf8(content)
        _check_widths(content, separator)
        raise NotATableError(
            f"holds quotes that do not match ({first_line(error)}); quote cells that hold a quote, and write it twice"
        ) from error


def _check_widths(content: bytes, separator: str) -> None:
    """Raise NotATableError, naming the row, if one has more cells than the first; slow, only for a text that failed."""
    wide: list[csv.InvalidRow] = []

    def look(row: csv.InvalidRow) -> str:
        if row.actual_columns > row.expected_columns and not wide:
            wide.append(row)
        return "skip"

    parsing = csv.ParseOptions(
        delimiter=separator, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=look
    )
    reading = csv.ReadOptions(use_threads=False, autogenerate_column_names=True)
    try:
        csv.read_csv(BytesIO(content), reading, parsing)
    except pa.ArrowException:
        return
    if wide:
        row = wide[0]
        raise NotATableError(
            f"has {row.actual_columns} cells in row {row.number}, but {row.expected_columns} in its header "
            f"('{short(row.text)}'); quote cells that hold a separator"
        )
