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
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.errors import RunFailed, UserError
from camrobust.io.lease import newest_lease
from camrobust.io.names import (
    RESULTS,
    commit_key,
    counts_by_number,
    data_name,
    kept_key,
    nonce,
    number_of,
    scores_folder,
)
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.records import FORMAT, CommitRecord, DoneRecord, FileRecord, parse_record, read_record
from camrobust.io.results import TABLES, Unit, arrow_schema, empty_frame
from camrobust.io.tables import Budget, TableError, TooLargeTableError, read_frame
from camrobust.schema import COMMITS, SCORE_FILE, SCORES, Column, partition_of

FILES_KEY = b"camrobust.files"
FORMAT_KEY = b"camrobust.format"
READERS = 32
PARTITION = ("dataset", "model")
UNIT = ("dataset", "image_id", "part")


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _hash(units: pl.DataFrame) -> str:
    keys = units.select(UNIT).sort(pl.all()).rows()
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


def write_commit(store: Store, units: Sequence[Unit], number: int = 0) -> str | None:
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


@dataclass(frozen=True)
class Committed:
    """What a run folder holds for certain.

    Attributes:
        units: one row per committed unit, `schema.COMMITS` and `commit`, the place of its commit in `commits`.
        commits: keys of the commits that count.
        contents: of each of these commits, the keys of its data files and their sizes.
        uncounted: keys of data files and commits of ours that do not count: left by a writer that died or came late, or
            by a commit one of whose files is gone, or being written now.
    """

    units: pl.DataFrame
    commits: list[str]
    contents: list[Mapping[str, int]]
    uncounted: list[str]

    @property
    def files(self) -> list[str]:
        """Keys of the data files that count, sorted."""
        return sorted({name for files in self.contents for name in files})

    def tables(self, name: str) -> list[str]:
        """Keys of one table's files: scores, images, failures or maps."""
        return [key for key in self.files if key.startswith(f"{name}/")]

    def records(self) -> list[FileRecord]:
        """The data files that count, as `done/NUMBER.json` lists them."""
        sizes = {name: size for files in self.contents for name, size in files.items()}
        return [_file_record(key, sizes[key]) for key in self.files]


def _file_record(key: str, size_bytes: int) -> FileRecord:
    table = key.partition("/")[0]
    dataset, model = partition_of(key) if table == "scores" else (None, None)
    return FileRecord(table=table, key=key, size_bytes=size_bytes, dataset=dataset, model=model)


def read_committed(store: Store) -> Committed:
    """One listing per folder, and every commit that may count.

    Raises:
        UserError: the newest lease, or what declares the run complete, is not what camrobust writes there.
    """
    lease = newest_lease(store)
    done = read_record(store, f"done/{lease.number:08}.json", DoneRecord) if lease.number else None
    sizes = {entry.key: entry.size_bytes for folder in RESULTS for entry in store.list(folder)}
    ours = {key: size for key, size in sizes.items() if number_of(key) is not None}
    accepted = set(lease.accepts if done is None else done.commits)
    commits = [
        key
        for key in ours
        if key.startswith("commits/")
        and (key in accepted or lease.old or (done is None and counts_by_number(key, lease.generation)))
    ]
    budget = Budget()
    with ThreadPoolExecutor(READERS) as pool:
        contents = list(pool.map(lambda key: _read_commit(store, key, budget), commits))
    whole = {
        key: found
        for key, found in zip(commits, contents, strict=True)
        if found is not None and all(ours.get(name) == size for name, size in found[1].items())
    }
    return _committed(whole, ours)


def _committed(whole: Mapping[str, tuple[pl.DataFrame, Mapping[str, int]]], ours: Collection[str]) -> Committed:
    units = _count_once(whole)
    keys = list(whole)
    places = units["commit"].unique().sort().to_list()
    counting = [keys[place] for place in places]
    units = units.with_columns(
        pl.col("commit").replace_strict({place: rank for rank, place in enumerate(places)}, return_dtype=pl.Int32)
    )
    contents = [whole[key][1] for key in counting]
    live = {name for files in contents for name in files} | set(counting)
    return Committed(units, counting, contents, sorted(set(ours) - live))


def _count_once(commits: Mapping[str, tuple[pl.DataFrame, Mapping[str, int]]]) -> pl.DataFrame:
    """All units; of two commits that share one, the later is void as a whole."""
    frames = [found[0].with_columns(commit=pl.lit(place, pl.Int32)) for place, found in enumerate(commits.values())]
    units = pl.concat([empty_frame(COMMITS).with_columns(commit=pl.lit(0, pl.Int32)), *frames], rechunk=True)
    # Hashes first: of millions of units, the few that may be there twice are left.
    unit = pl.struct(UNIT)
    shared = units.filter(unit.hash().is_duplicated()).filter(unit.is_duplicated())
    void: set[int] = set()
    seen: set[tuple[object, ...]] = set()
    for (place,), rows in shared.sort("commit").group_by("commit", maintain_order=True):
        keys = set(rows.select(UNIT).iter_rows())
        if keys & seen or len(keys) < rows.height:
            void.add(int(str(place)))
        else:
            seen |= keys
    return units.filter(~pl.col("commit").is_in(void)) if void else units


def _read_commit(store: Store, key: str, budget: Budget) -> tuple[pl.DataFrame, dict[str, int]] | None:
    """A commit's units and files; None where it is damaged, or has been deleted since it was listed.

    Raises:
        UserError: it would take too much memory, or a later version wrote it.
    """
    try:
        units, told = read_frame(store, key, COMMITS, budget)
        record = _commit_record(told, store.locate(key))
    except TooLargeTableError:
        raise
    except (MissingObjectError, TableError, ValueError):
        return None
    if (units["rows"] < 0).any() or (units["failures"] < 0).any():
        return None
    return units, record.files


def _commit_record(told: Mapping[bytes, bytes], where: str) -> CommitRecord:
    files = told.get(FILES_KEY, b"null").decode()
    written = told.get(FORMAT_KEY, b"0").decode()
    return parse_record(f'{{"format": {written}, "files": {files}}}'.encode(), CommitRecord, where)


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
            tables = {name: read_frame(store, name, _columns(name))[0] for name in committed.contents[place]}
        except MissingObjectError as error:
            raise RunFailed(f"run: {error}; another driver is at work in {store.uri}, wait until it is done") from error
        tables = _with_keys(tables)
        kept = {name: table.join(images, on=key, how="anti") for name, table in tables.items()}
        small = {
            name: _gathered(name, columns, kept).to_arrow().cast(arrow_schema(columns))
            for name, columns in TABLES.items()
        }
        accepts.append(kept_key(number, nonce()))
        _put(store, accepts[-1], rest, _gathered("scores", SCORES, kept), small, number)
    return accepts


def _columns(key: str) -> Sequence[Column]:
    """What a data file holds."""
    table = key.partition("/")[0]
    return SCORE_FILE if table == "scores" else TABLES[table]


def _gathered(name: str, columns: Sequence[Column], tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    order = [column.name for column in columns]
    parts = [table.select(order) for file, table in tables.items() if file.startswith(f"{name}/")]
    return pl.concat([empty_frame(columns), *parts])


def _with_keys(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Score tables with the dataset and the model that their path holds."""
    whole = {}
    for name, table in tables.items():
        known = dict(zip(PARTITION, partition_of(name), strict=True)) if name.startswith("scores/") else {}
        whole[name] = table.with_columns(**{key: pl.lit(value) for key, value in known.items()})
    return whole


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


def read_small(store: Store, name: str, keys: Iterable[str]) -> pl.DataFrame:
    """All rows of the images, failures or maps table; these are small next to the scores."""
    columns, budget = TABLES[name], Budget()
    with ThreadPoolExecutor(READERS) as pool:
        frames = list(pool.map(lambda key: read_frame(store, key, columns, budget)[0], keys))
    return pl.concat([empty_frame(columns), *frames])


def read_scores(store: Store, committed: Committed, images: pl.DataFrame | None = None) -> pl.DataFrame:
    """Score rows, `schema.SCORES`.

    Args:
        store: of the run folder.
        committed: what it holds.
        images: columns dataset and image_id: of these images only; None for all.

    Raises:
        UserError: the run holds no score rows, or what holds them is not as camrobust writes it.
    """
    if not committed.tables("scores"):
        raise UserError("scores: the run holds no score rows; see its failures, or run it again")
    key = ["dataset", "image_id"]
    units = committed.units if images is None else committed.units.join(images, on=key, how="semi")
    keys = [name for place in units["commit"].unique().sort() for name in sorted(committed.contents[place])]
    budget, found = Budget(), [empty_frame(SCORES)]
    for name in keys:
        if name.startswith("scores/"):
            rows = _with_keys({name: read_frame(store, name, SCORE_FILE, budget)[0]})[name].select(found[0].columns)
            found.append(rows if images is None else rows.join(images, on=key, how="semi"))
    return pl.concat(found)
