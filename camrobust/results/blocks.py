"""Score rows of one or more run folders, read in blocks of whole images, so that memory does not grow with the run."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from camrobust.contract.columns import Column
from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.schema import SCORE_FILE
from camrobust.io.parquet_budget import Budget
from camrobust.results.block_plan import PlannedBlock, Runs, ScoreFile, planned_blocks
from camrobust.results.tables import read_coded
from camrobust.summary.answers import COLUMNS as ANSWERS
from camrobust.summary.answers import Answers
from camrobust.summary.rows import COLUMNS, NO_SEVERITY, NUMBERS, TEXT, Block, Coded, Rows

ROWS = 3_000_000
"""Rows of one model in a block, unless a single commit has more. A row takes about 30 bytes, and as many again while
rows are added up."""

USED = tuple(column for column in SCORE_FILE if column.name in COLUMNS)
LABELLED = tuple(column for column in SCORE_FILE if column.name in {*COLUMNS, *ANSWERS})


def score_blocks(runs: Runs, rows: int = ROWS, *, labelled: bool = False) -> Iterator[Block]:
    """Read all score rows of some runs, block by block.

    Args:
        runs: the store of each run, and the commits that count there.
        rows: how many rows of one model a block should hold.
        labelled: read labels and predictions, too; without labels they are bytes for nothing.
    """
    columns = LABELLED if labelled else USED
    with ThreadPoolExecutor(1) as pool:
        for block, reads in groupby(_ahead(_reads(runs, rows, pool, columns)), key=lambda read: read.block):
            yield Block(block.dataset, block.images, _by_model(reads))


@dataclass(frozen=True)
class _Read:
    """One model's rows of a block, being read.

    Attributes:
        block: the block.
        model: name of the model.
        rows: its rows, once they are read.
    """

    block: PlannedBlock
    model: str
    rows: Future[Rows]


def _reads(runs: Runs, rows: int, pool: ThreadPoolExecutor, columns: Sequence[Column]) -> Iterator[_Read]:
    """Block by block and model by model; a read starts when it is asked for."""
    for block in planned_blocks(runs, rows):
        places = {image: place for place, image in enumerate(block.images)}
        for model, files in block.files.items():
            yield _Read(block, model, pool.submit(_read, files, places, columns))


def _ahead(reads: Iterator[_Read]) -> Iterator[_Read]:
    """The same reads, each started before the one before it is handed out."""
    waiting = next(reads, None)
    while waiting is not None:
        following = next(reads, None)
        yield waiting
        waiting = following


def _by_model(reads: Iterator[_Read]) -> Iterator[tuple[str, Rows]]:
    for read in reads:
        rows = read.rows.result()
        if len(rows.image):
            yield read.model, rows


def _read(files: Sequence[ScoreFile], places: Mapping[str, int], columns: Sequence[Column]) -> Rows:
    budget = Budget()
    tables = [_table(file, places, budget, columns) for file in files]
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    image = _coded(table["image_id"])
    stranger = next((name for name in image.values if name not in places), None)
    if stranger is not None:
        raise UserError(
            f"scores: {', '.join(file.store.locate(file.key) for file in files[:3])}: there are rows of "
            f"{short(stranger)!r}, which no commit names; `camrobust verify` says more"
        )
    lookup = np.array([places[name] for name in image.values], dtype=np.int64)
    severity = pc.fill_null(table["severity"].cast(pa.int16()), NO_SEVERITY)
    return Rows(
        image=lookup[image.codes],
        text={name: _coded(table[name]) for name in TEXT},
        severity=_numpy(severity),
        same=_numpy(table["kept_class"]),
        numbers={name: _numpy(table[name]) for name in NUMBERS},
        answers=_answers(table),
    )


def _answers(table: pa.Table) -> Answers | None:
    if "label" not in table.column_names or table["label"].null_count == table.num_rows:
        return None
    return Answers.of({name: _numpy(pc.fill_null(table[name].cast(pa.float64()), np.nan)) for name in ANSWERS})


def _table(file: ScoreFile, places: Mapping[str, int], budget: Budget, columns: Sequence[Column]) -> pa.Table:
    table, _ = read_coded(file.store, file.key, columns, budget)
    if file.whole:
        return table
    wanted = pa.array(list(places), pa.string())
    return table.filter(pc.is_in(table["image_id"].cast(pa.string()), value_set=wanted))


def _coded(column: pa.ChunkedArray) -> Coded:
    """A text column as codes, without the texts that a filter has left unused in its dictionary."""
    chunk = column.combine_chunks()
    chunks = chunk.chunks if isinstance(chunk, pa.ChunkedArray) else [chunk]
    if not chunks:
        return Coded(np.empty(0, np.int32), ())
    (array,) = chunks
    codes = array.indices.to_numpy()
    values = array.dictionary.to_pylist()
    used = np.zeros(len(values), bool)
    used[codes] = True
    if used.all():
        return Coded(codes, values)
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    return Coded(renumbered[codes], [value for value, kept in zip(values, used, strict=True) if kept])


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    return values
