"""Commits: results that are there as a whole or not at all, and that a late writer can neither replace nor take away.

A commit is a set of parquet files (scores by dataset and model, images, failures, maps) and, created last,
`commits/NUMBER-UNITS.parquet`, which lists the units it holds and the files with their sizes. NUMBER is that of the
driver's lease. A commit counts only if it carries the newest lease's number or the newest lease lists it, and if every
file it names is there with its size. Nothing that counts is ever written again: every execution has file names of its
own, and of two executions with the same units the first to create the commit wins. docs/protocol.md has the rest.

Why not Ray's own checkpoint (see docs/architecture.md): it commits one table only and never looks at a data file
again, so a deleted file stays lost.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.contract.errors import RunFailed
from camrobust.contract.record import FORMAT
from camrobust.contract.run_files import (
    commit_key,
    data_name,
    kept_key,
    nonce,
    number_of,
    scores_folder,
)
from camrobust.contract.schema import COMMITS, SCORES, Column
from camrobust.io.objects import MissingObjectError, Store
from camrobust.results.arrow import TABLES, arrow_schema, empty_frame
from camrobust.results.counted import FILES_KEY, FORMAT_KEY, PARTITION, UNIT, Committed, columns_of, with_keys
from camrobust.results.tables import read_frame


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _hash(units: pl.DataFrame) -> str:
    keys = units.select(UNIT).sort(pl.all()).rows()
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class PartResult:
    """The results of one part of an image (a group of its variants), under all models.

    Attributes:
        dataset: its dataset.
        image_id: the image.
        part: number of the group of variants.
        scores: score rows, `schema.SCORES`.
        images: none or one row, `schema.IMAGES`.
        failures: failure rows, `schema.FAILURES`.
        maps: gallery rows, `schema.MAPS`.
    """

    dataset: str
    image_id: str
    part: int
    scores: pa.Table
    images: pa.Table
    failures: pa.Table
    maps: pa.Table


def write_commit(store: Store, units: Sequence[PartResult], number: int = 0) -> str | None:
    """Write the files of some units, then the commit that makes them count; returns its key as `put_commit` does."""
    counts = [(unit.dataset, unit.image_id, unit.part, unit.scores.num_rows, unit.failures.num_rows) for unit in units]
    table = pl.DataFrame(counts, schema=empty_frame(COMMITS).schema, orient="row")
    small = {name: pa.concat_tables([getattr(unit, name) for unit in units]) for name in TABLES}
    return put_commit(store, table, pl.DataFrame(pa.concat_tables([unit.scores for unit in units])), small, number)


def put_commit(
    store: Store, units: pl.DataFrame, scores: pl.DataFrame, small: Mapping[str, pa.Table], number: int = 0
) -> str | None:
    """Data files first, the commit that names them last.

    Args:
        store: of the run folder.
        units: `schema.COMMITS`.
        scores: rows of all units, `schema.SCORES`.
        small: the other tables by name.
        number: of the lease under which they were measured.

    Returns:
        The key of the commit; None where another execution has already committed these units under this lease, whose
        commit counts instead.
    """
    key = commit_key(number, _hash(units))
    return key if _put(store, key, units, scores, small, number) else None


def _put(
    store: Store, key: str, units: pl.DataFrame, scores: pl.DataFrame, small: Mapping[str, pa.Table], number: int
) -> bool:
    name = data_name(number, _hash(units), nonce())
    tables: dict[str, pa.Table] = {}
    for (dataset, model), rows in scores.partition_by(PARTITION, as_dict=True, include_key=False).items():
        schema = pa.schema([field for field in arrow_schema(SCORES) if field.name not in PARTITION])
        tables[scores_folder(str(dataset), str(model))] = rows.to_arrow().select(schema.names).cast(schema)
    tables |= {folder: table for folder, table in small.items() if table.num_rows}
    files: dict[str, int] = {}
    for folder, table in tables.items():
        content = _parquet(table)
        if not store.create(f"{folder}/{name}", content):
            raise RunFailed(f"run: {store.locate(f'{folder}/{name}')} is there already; run again to resume")
        files[f"{folder}/{name}"] = len(content)
    commit = units.to_arrow().cast(arrow_schema(COMMITS))
    commit = commit.replace_schema_metadata(
        {FILES_KEY: json.dumps(files, sort_keys=True).encode(), FORMAT_KEY: str(FORMAT).encode()}
    )
    return store.create(key, _parquet(commit))


def keep_rest(store: Store, committed: Committed, images: pl.DataFrame, number: int) -> list[str]:
    """Make ready what a lease accepts that leaves some images out, so that they are measured again.

    A commit that holds one of them is written anew without it, as a commit that counts only once that lease lists it.

    Args:
        store: of the run folder.
        committed: what it holds.
        images: columns dataset and image_id.
        number: of the lease to come.

    Returns:
        Keys of the commits that it should list.
    """
    key = ["dataset", "image_id"]
    touched = set(committed.units.join(images, on=key, how="semi")["commit"].unique())
    accepts = [commit for place, commit in enumerate(committed.commits) if place not in touched]
    for place in sorted(touched):
        units = committed.units.filter(pl.col("commit") == place).select(empty_frame(COMMITS).columns)
        rest = units.join(images, on=key, how="anti")
        if rest.is_empty():
            continue
        try:
            tables = {name: read_frame(store, name, columns_of(name))[0] for name in committed.contents[place]}
        except MissingObjectError as error:
            raise RunFailed(f"run: {error}; another driver is at work in {store.uri}, wait until it is done") from error
        tables = with_keys(tables)
        kept = {name: table.join(images, on=key, how="anti") for name, table in tables.items()}
        small = {
            name: _gathered(name, columns, kept).to_arrow().cast(arrow_schema(columns))
            for name, columns in TABLES.items()
        }
        accepts.append(kept_key(number, nonce()))
        _put(store, accepts[-1], rest, _gathered("scores", SCORES, kept), small, number)
    return accepts


def _gathered(name: str, columns: Sequence[Column], tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    order = [column.name for column in columns]
    parts = [table.select(order) for file, table in tables.items() if file.startswith(f"{name}/")]
    return pl.concat([empty_frame(columns), *parts])


def delete_uncounted(store: Store, committed: Committed, number: int) -> int:
    """Delete files of earlier leases that the holder of a lease does not count; returns how many.

    Only names that a run gives are ever deleted. Commits go first, so that whoever reads the folder without us sees no
    row twice.

    Args:
        store: of the run folder.
        committed: what counts under this lease.
        number: of this lease, which the caller holds.
    """
    gone = [key for key in committed.uncounted if (number_of(key) or 0) < number]
    for key in sorted(gone, key=lambda key: not key.startswith("commits/")):
        store.delete(key)
    return len(gone)
