"""`camrobust compare --exact RUN RUN`: are the rows of two runs equal bit for bit?

Rows are matched by their key. Floating-point numbers are compared as bits, so that NaN equals the same NaN and 0 is not
-0; null equals null only. Columns of older versions are read under today's names. Score rows are compared in blocks of
whole images, so that memory does not grow with the runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from camrobust.contract.certificates import CERTIFICATE_KEYS, CERTIFICATES
from camrobust.contract.columns import Column
from camrobust.contract.quoting import short
from camrobust.contract.schema import FAILURES, IMAGES, KEYS
from camrobust.io.parquet_budget import Budget
from camrobust.results.arrow import empty_frame
from camrobust.results.block_plan import PlannedBlock, ScoreFile, planned_blocks
from camrobust.results.counted import PARTITION
from camrobust.results.folder import RunFolder
from camrobust.results.tables import read_frame

ROWS = 500_000
"""Score rows of one model in a block, both runs together, unless a single commit has more; about 300 bytes each."""
TABLE_KEYS: dict[str, tuple[str, ...]] = {
    "scores": tuple(column.name for column in KEYS if column.name != "severity"),
    "certificates": CERTIFICATE_KEYS,
    "images": ("dataset", "image_id"),
    "failures": ("dataset", "image_id", "model", "stage"),
}
"""The columns that name a row of each table; all other columns are compared."""
REPEAT = ":repeat"
"""Number of a row among the rows of the same key, from 0; a sound run scores every key once."""
SECOND = ":second"
Key = tuple[str, ...]
_BITS = {"float32": pa.uint32(), "float64": pa.uint64()}


@dataclass
class ColumnDifference:
    """A column that differs.

    Attributes:
        rows: in how many rows.
        example: the first of them: its key, and both values as text; of a number also its bits in hexadecimal.
    """

    rows: int
    example: dict[str, Any]


@dataclass
class TableDifference:
    """How far the rows of one table are equal in two runs.

    Attributes:
        rows: rows with a key that both runs have.
        equal: those of them that are equal in every column.
        columns: the columns that differ.
        only_first: rows with a key that only the first run has.
        only_second: rows with a key that only the second run has.
        missing: key of the first row that only one run has.
    """

    rows: int = 0
    equal: int = 0
    columns: dict[str, ColumnDifference] = field(default_factory=dict)
    only_first: int = 0
    only_second: int = 0
    missing: dict[str, Any] | None = None

    @property
    def is_equal(self) -> bool:
        """Both runs have the same rows."""
        return self.rows == self.equal and not self.only_first and not self.only_second

    def lines(self, name: str) -> Iterator[str]:
        """The differences in sentences, one per column."""
        yield (
            f"{name}: {self.equal:,} of {self.rows:,} common rows are equal; {self.only_first:,} rows are only in the "
            f"first run, {self.only_second:,} only in the second"
        )
        if self.missing is not None:
            yield f"{name}: only in one run, for example {_named(self.missing)}"
        for column, difference in self.columns.items():
            example = difference.example
            yield (
                f"{name}: {column} differs in {difference.rows:,} of {self.rows:,} common rows, for example "
                f"{example['first']} in the first run, {example['second']} in the second ({_named(example['key'])})"
            )


@dataclass(frozen=True)
class ExactComparison:
    """How far the rows of two runs are equal.

    Attributes:
        tables: the difference by table: scores, certificates if there are any, images and failures.
    """

    tables: dict[str, TableDifference]

    @property
    def is_equal(self) -> bool:
        """Both runs have the same rows in all tables."""
        return all(table.is_equal for table in self.tables.values())

    def lines(self) -> list[str]:
        """The result in sentences: first whether the runs are equal, then every difference."""
        if self.is_equal:
            counts = ", ".join(f"{table.rows:,} rows of {name}" for name, table in self.tables.items())
            return [f"equal bit for bit: {counts}"]
        tables = {name: table for name, table in self.tables.items() if not table.is_equal}
        details = [line for name, table in tables.items() for line in table.lines(name)]
        return [f"different: the two runs do not have the same {', '.join(tables)}", *details]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "equal": self.is_equal,
            "tables": {name: {"is_equal": table.is_equal, **asdict(table)} for name, table in self.tables.items()},
        }


def compare_exactly(first: RunFolder, second: RunFolder, rows: int = ROWS) -> ExactComparison:
    """Compare the rows of two runs bit for bit.

    Args:
        first: a run.
        second: another run.
        rows: how many score rows of one model a block should hold, both runs together.

    Returns:
        The differences of the tables scores, images and failures, and of certificates if there are any. Settings,
        manifests and gallery maps are not compared.

    Raises:
        UserError: a folder holds no run, or a file is not as camrobust writes it.
    """
    folders = (first, second)
    columns = tuple({column.name: column for folder in folders for column in folder.run().score_columns()}.values())
    runs = [(folder.store, folder.committed()) for folder in folders]
    scores = TableDifference()
    for block in planned_blocks(runs, rows):
        for model, files in block.files.items():
            budget = Budget()
            sides = [
                _score_rows(block, model, [file for file in files if file.run == run], columns, budget)
                for run in (0, 1)
            ]
            _compare(scores, sides, columns, TABLE_KEYS["scores"])
    tables = {"scores": scores}
    small = {"certificates": CERTIFICATES, "images": IMAGES, "failures": FAILURES}
    if not any(committed.tables("certificates") for _, committed in runs):
        del small["certificates"]
    for name, stored in small.items():
        sides = [folder.table(name, committed) for folder, (_, committed) in zip(folders, runs, strict=True)]
        tables[name] = TableDifference()
        _compare(tables[name], sides, stored, TABLE_KEYS[name])
    return ExactComparison(tables)


def _score_rows(
    block: PlannedBlock, model: str, files: Sequence[ScoreFile], columns: Sequence[Column], budget: Budget
) -> pl.DataFrame:
    """The rows of some files that belong to the images of a block; all files of a block share one budget."""
    stored = [column for column in columns if column.name not in PARTITION]
    frames = [empty_frame(columns)]
    for file in files:
        rows = read_frame(file.store, file.key, stored, budget)[0]
        if not file.whole:
            rows = rows.filter(pl.col("image_id").is_in(block.images))
        rows = rows.with_columns(dataset=pl.lit(block.dataset), model=pl.lit(model))
        frames.append(rows.select(frames[0].columns))
    return pl.concat(frames)


def _compare(table: TableDifference, sides: Sequence[pl.DataFrame], columns: Sequence[Column], key: Key) -> None:
    """Add what differs between some rows of two runs."""
    first, second = (_as_bits(rows, columns, key) for rows in sides)
    keys = [*key, REPEAT]
    table.only_first += _alone(table, first, second, keys)
    table.only_second += _alone(table, second, first, keys)
    both = first.join(second, on=keys, suffix=SECOND, nulls_equal=True)
    table.rows += both.height
    equal = pl.repeat(value=True, n=both.height, eager=True)
    for column in columns:
        if column.name in key:
            continue
        differs = both[column.name].ne_missing(both[column.name + SECOND])
        equal &= ~differs
        if differs.any():
            _add_column(table, column, both.filter(differs), key)
    table.equal += int(equal.sum())


def _alone(table: TableDifference, rows: pl.DataFrame, others: pl.DataFrame, keys: Sequence[str]) -> int:
    """How many rows have no partner; the first of them becomes the example."""
    alone = rows.join(others, on=keys, how="anti", nulls_equal=True)
    if alone.height and table.missing is None:
        table.missing = alone.select(keys).sort(keys).drop(REPEAT).row(0, named=True)
    return alone.height


def _add_column(table: TableDifference, column: Column, rows: pl.DataFrame, key: Key) -> None:
    """Add the rows in which a column differs; the first row ever becomes the example."""
    if column.name in table.columns:
        table.columns[column.name].rows += rows.height
        return
    row = rows.sort(key).row(0, named=True)
    example = {
        "key": {name: row[name] for name in key},
        "first": _shown(row[column.name], column),
        "second": _shown(row[column.name + SECOND], column),
    }
    table.columns[column.name] = ColumnDifference(rows.height, example)


def _as_bits(rows: pl.DataFrame, columns: Sequence[Column], key: Key) -> pl.DataFrame:
    """The rows with every floating-point column as integers of the same bits, and the number of each repeat."""
    bits = {
        column.name: pl.Series(column.name, rows[column.name].to_arrow().view(_BITS[column.type]))
        for column in columns
        if column.type in _BITS
    }
    return rows.with_columns(**bits).with_columns(pl.int_range(pl.len()).over(key).alias(REPEAT))


def _shown(value: object, column: Column) -> str:
    """A value as text; of a floating-point number also its bits."""
    if value is None or column.type not in _BITS:
        return "null" if value is None else short(value)
    number = pa.array([value], _BITS[column.type]).view(column.type).to_numpy()[0]
    return f"{number} (bits {value:#x})"


def _named(key: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {'null' if value is None else short(value)}" for name, value in key.items())
