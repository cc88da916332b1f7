"""Commits: results that count as a whole or not at all, and that a late writer can neither replace nor remove.

A commit is a set of parquet files (scores by dataset and model, images, failures, maps) and a last file,
`commits/NUMBER-PARTS.parquet`, which lists the parts of images in it and its files with their sizes. NUMBER is the
number of the driver's lease. A commit counts only if it has the number of the newest lease or if the newest lease lists
it, and only if all its files exist with the listed sizes. Files that count are never written again: every execution
chooses new file names. If two executions hold the same parts, the first to create the commit wins. docs/protocol.md
explains the rest.

Ray's own checkpoint is not used (see docs/architecture.md): it commits a single table and never checks the data files
again, so a deleted file would stay lost.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from io import BytesIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.contract.columns import Column
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
from camrobust.contract.schema import COMMITS, SCORES
from camrobust.io.objects import MissingObjectError, Store
from camrobust.results.arrow import TABLES, arrow_schema, empty_frame
from camrobust.results.counted import (
    FILES_KEY,
    FORMAT_KEY,
    IMAGE,
    PART_KEY,
    PARTITION,
    Committed,
    columns_of,
    with_keys,
)
from camrobust.results.tables import read_frame


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _hash(parts: pl.DataFrame) -> str:
    keys = parts.select(PART_KEY).sort(pl.all()).rows()
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


def put_commit(
    store: Store, parts: pl.DataFrame, scores: pl.DataFrame, small: Mapping[str, pa.Table], number: int = 0
) -> str | None:
    """Write the data files first, and last the commit that names them.

    Args:
        store: store of the run folder.
        parts: the parts of images, `schema.COMMITS`.
        scores: their score rows, `schema.SCORES` and the similarities of plugins.
        small: the other tables by name.
        number: number of the lease under which they were measured.

    Returns:
        The key of the commit. None if another execution has already committed the same parts under this lease; then
        that commit counts.
    """
    key = commit_key(number, _hash(parts))
    return key if _put(store, key, parts, scores, small, number) else None


def _put(
    store: Store, key: str, parts: pl.DataFrame, scores: pl.DataFrame, small: Mapping[str, pa.Table], number: int
) -> bool:
    name = data_name(number, _hash(parts), nonce())
    tables: dict[str, pa.Table] = {}
    for (dataset, model), rows in scores.partition_by(PARTITION, as_dict=True, include_key=False).items():
        schema = _score_schema(rows.columns)
        tables[scores_folder(str(dataset), str(model))] = rows.to_arrow().select(schema.names).cast(schema)
    tables |= {folder: table for folder, table in small.items() if table.num_rows}
    files: dict[str, int] = {}
    for folder, table in tables.items():
        content = _parquet(table)
        if not store.create(f"{folder}/{name}", content):
            raise RunFailed(f"run: {store.locate(f'{folder}/{name}')} is there already; run again to resume")
        files[f"{folder}/{name}"] = len(content)
    commit = parts.to_arrow().cast(arrow_schema(COMMITS))
    commit = commit.replace_schema_metadata(
        {FILES_KEY: json.dumps(files, sort_keys=True).encode(), FORMAT_KEY: str(FORMAT).encode()}
    )
    return store.create(key, _parquet(commit))


def _score_schema(names: Sequence[str]) -> pa.Schema:
    """The schema of a score file: the columns of every run, then the similarities of plugins."""
    known = {column.name for column in SCORES}
    own = [Column(name, "float32", "") for name in names if name not in known]
    return pa.schema([field for field in arrow_schema([*SCORES, *own]) if field.name not in PARTITION])


def keep_rest(
    store: Store, committed: Committed, images: pl.DataFrame, number: int, columns: Sequence[Column] = SCORES
) -> list[str]:
    """Prepare the list of commits for a lease that leaves some images out, so that these are measured again.

    A commit with one of these images is copied without it. The copy counts only after the lease that lists it is taken.

    Args:
        store: store of the run folder.
        committed: the results that count now.
        images: columns dataset and image_id of the images to leave out.
        number: number of the next lease.
        columns: columns of the run's score rows.

    Returns:
        Keys of the commits that the next lease must list.
    """
    touched = set(committed.parts.join(images, on=IMAGE, how="semi")["commit"].unique())
    accepts = [commit for place, commit in enumerate(committed.commits) if place not in touched]
    for place in sorted(touched):
        parts = committed.parts.filter(pl.col("commit") == place).select(empty_frame(COMMITS).columns)
        rest = parts.join(images, on=IMAGE, how="anti")
        if rest.is_empty():
            continue
        try:
            tables = {name: read_frame(store, name, columns_of(name, columns))[0] for name in committed.contents[place]}
        except MissingObjectError as error:
            raise RunFailed(f"run: {error}; another driver is at work in {store.uri}, wait until it is done") from error
        tables = with_keys(tables)
        kept = {name: table.join(images, on=IMAGE, how="anti") for name, table in tables.items()}
        small = {
            name: _gathered(name, fixed, kept).to_arrow().cast(arrow_schema(fixed)) for name, fixed in TABLES.items()
        }
        accepts.append(kept_key(number, nonce()))
        _put(store, accepts[-1], rest, _gathered("scores", columns, kept), small, number)
    return accepts


def _gathered(name: str, columns: Sequence[Column], tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    order = [column.name for column in columns]
    parts = [table.select(order) for file, table in tables.items() if file.startswith(f"{name}/")]
    return pl.concat([empty_frame(columns), *parts])


def delete_uncounted(store: Store, committed: Committed, number: int) -> int:
    """Delete uncounted files of earlier leases; returns how many.

    Only files with names that a run gives are deleted. Commits are deleted first, so that other readers of the folder
    see no row twice.

    Args:
        store: store of the run folder.
        committed: the results that count under this lease.
        number: number of this lease, which the caller must hold.
    """
    gone = [key for key in committed.uncounted if (number_of(key) or 0) < number]
    for key in sorted(gone, key=lambda key: not key.startswith("commits/")):
        store.delete(key)
    return len(gone)
