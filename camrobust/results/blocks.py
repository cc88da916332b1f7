"""Score rows of one or more run folders, read in blocks of whole images: memory does not grow with the run.

An image's rows may lie in several commits (its variants travelled in parts, or several runs measured it), so a commit
cannot be averaged alone. Commits are taken in the order of their first image; a block is the images that begin in some
successive commits, and is read from every commit that holds one of them. As each commit holds neighbours, few files are
read twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.schema import SCORE_FILE, partition_of
from camrobust.io.objects import Store
from camrobust.io.parquet_budget import Budget
from camrobust.results.counted import Committed
from camrobust.results.tables import read_coded
from camrobust.summary.rows import COLUMNS, NO_SEVERITY, NUMBERS, TEXT, Block, Coded, Rows

ROWS = 3_000_000
"""Rows of one model that a block holds, unless a single commit has more; about 30 bytes each, and as many to add up."""

USED = tuple(one for one in SCORE_FILE if one.name in COLUMNS)


@dataclass(frozen=True)
class _File:
    """A score file, and whether all its images are in the block."""

    store: Store
    key: str
    whole: bool


def score_blocks(runs: Sequence[tuple[Store, Committed]], rows: int = ROWS) -> Iterator[Block]:
    """All score rows of some runs.

    Args:
        runs: the store and what it holds for certain, of each.
        rows: about how many of one model a block may hold.
    """
    with ThreadPoolExecutor(1) as pool:
        for (_, dataset, images), reads in groupby(_ahead(_reads(runs, rows, pool)), key=lambda one: one.block):
            found = ((one.model, one.rows.result()) for one in reads)
            yield Block(dataset, images, ((model, some) for model, some in found if len(some.image)))


@dataclass(frozen=True)
class _Read:
    """One model's rows of a block, on their way.

    Attributes:
        block: its number, dataset and images.
        model: whose rows.
        rows: them.
    """

    block: tuple[int, str, list[str]]
    model: str
    rows: Future[Rows]


def _reads(runs: Sequence[tuple[Store, Committed]], rows: int, pool: ThreadPoolExecutor) -> Iterator[_Read]:
    """Block by block and model by model; each is begun when it is asked for."""
    units, files = _units(runs), _files(runs)
    number = 0
    for (name,), here in units.partition_by("dataset", as_dict=True, maintain_order=True).items():
        dataset = str(name)
        most = max((len(found) for (_, owner, _), found in files.items() if owner == dataset), default=1)
        for images, commits in _cut(here, rows, most):
            models: dict[str, list[_File]] = {}
            for run, commit, whole in commits:
                for model, key in files.get((run, dataset, commit), ()):
                    models.setdefault(model, []).append(_File(runs[run][0], key, whole))
            places = {image: place for place, image in enumerate(images)}
            for model in sorted(models):
                yield _Read((number, dataset, images), model, pool.submit(_read, models[model], places))
            number += 1


def _ahead(reads: Iterator[_Read]) -> Iterator[_Read]:
    """The same, the next one begun before this one is handed out."""
    waiting = next(reads, None)
    while waiting is not None:
        following = next(reads, None)
        yield waiting
        waiting = following


def image_counts(runs: Sequence[tuple[Store, Committed]]) -> dict[str, int]:
    """Images with score rows, by dataset."""
    counted = _units(runs).group_by("dataset").agg(pl.col("image_id").n_unique())
    return dict(counted.iter_rows())


def _units(runs: Sequence[tuple[Store, Committed]]) -> pl.DataFrame:
    frames = []
    for number, (_, committed) in enumerate(runs):
        commits = pl.Series(committed.commits, dtype=pl.String)
        units = committed.units.filter(pl.col("rows") > 0)
        frames.append(units.select("dataset", "image_id", "rows", run=pl.lit(number), held_by=commits[units["commit"]]))
    return pl.concat(frames).sort("dataset", maintain_order=True)


def _files(runs: Sequence[tuple[Store, Committed]]) -> dict[tuple[int, str, str], list[tuple[str, str]]]:
    """(run, dataset, commit) to the models and keys of its score files."""
    found: dict[tuple[int, str, str], list[tuple[str, str]]] = {}
    for number, (_, committed) in enumerate(runs):
        for commit, keys in zip(committed.commits, committed.contents, strict=True):
            for key in sorted(key for key in keys if key.startswith("scores/")):
                dataset, model = partition_of(key)
                found.setdefault((number, dataset, commit), []).append((model, key))
    return found


def _cut(units: pl.DataFrame, rows: int, models: int) -> Iterator[tuple[list[str], list[tuple[int, str, bool]]]]:
    """Images of each block, and the commits that hold them: run, key, and whether it holds no other image."""
    commits = units.group_by("run", "held_by").agg(pl.col("image_id").min().alias("first"), pl.col("rows").sum())
    commits = commits.sort("first", "run", "held_by").with_row_index("place")
    commits = commits.with_columns(block=(pl.col("rows").cum_sum() - pl.col("rows")) // (rows * models))
    placed = units.join(commits.select("run", "held_by", "place", "block"), on=["run", "held_by"])
    owner = placed.group_by("image_id").agg(pl.col("block").min().alias("owner"))
    held = placed.join(owner, on="image_id").group_by("owner", "run", "held_by", "place")
    held_by = held.agg(pl.col("image_id").n_unique().alias("images"))
    sizes = placed.group_by("place").agg(pl.col("image_id").n_unique().alias("size"))
    held_by = held_by.join(sizes, on="place").sort("owner", "place")
    images = owner.sort("owner", "image_id").partition_by("owner", as_dict=True, include_key=False)
    for (block,), some in held_by.partition_by("owner", as_dict=True, maintain_order=True).items():
        commits_here = some.select("run", "held_by", pl.col("images") == pl.col("size")).rows()
        yield images[(block,)]["image_id"].to_list(), commits_here


def _read(files: Sequence[_File], places: Mapping[str, int]) -> Rows:
    budget = Budget()
    tables = [_table(file, places, budget) for file in files]
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
    )


def _table(file: _File, places: Mapping[str, int], budget: Budget) -> pa.Table:
    table, _ = read_coded(file.store, file.key, USED, budget)
    if file.whole:
        return table
    wanted = pa.array(list(places), pa.string())
    return table.filter(pc.is_in(table["image_id"].cast(pa.string()), value_set=wanted))


def _coded(column: pa.ChunkedArray) -> Coded:
    """Only the texts that occur: a filtered column keeps its whole dictionary."""
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
