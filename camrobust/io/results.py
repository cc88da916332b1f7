"""Results: written as one commit per group of images, read by what the commits name.

A commit is a set of parquet files (scores by dataset and model, images, failures, maps) and, put last and atomically,
`commits/TOKEN.parquet`, which lists the images it holds and the files with their sizes. Readers trust commits only:
a file that no commit names (its writer died) does not exist for them, and a commit whose files are not all there as
listed is void, so its images are measured again. The token is a hash of the images, so a task that runs twice writes
the same files twice, not two sets.

Why not Ray's own checkpoint (see docs/architecture.md): it commits one table only and never looks at a data file
again, so a deleted file stays lost.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from camrobust.io.objects import Store
from camrobust.schema import COMMITS, FAILURES, IMAGES, MAPS, SCORES, Column
from camrobust.schema import partition_of as partition_of

FILES_KEY = b"camrobust.files"
TABLES = {"images": IMAGES, "failures": FAILURES, "maps": MAPS}
FOLDERS = ("scores/", "images/", "failures/", "maps/", "commits/")
READERS = 32
PARTITION = ("dataset", "model")

_ARROW = {
    "string": pa.string(), "binary": pa.binary(), "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(),
    "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64(),
}  # fmt: skip


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of some schema columns."""
    return pa.schema([(column.name, _ARROW[column.type]) for column in columns])


def empty_frame(columns: Sequence[Column]) -> pl.DataFrame:
    """A polars table with these columns and no row."""
    return pl.DataFrame(arrow_schema(columns).empty_table())


def make_table(columns: Sequence[Column], data: Mapping[str, object] | Sequence[Mapping[str, object]]) -> pa.Table:
    """An Arrow table with exactly these columns, from columns, where NaN stands for null, or from rows."""
    schema = arrow_schema(columns)
    if isinstance(data, Mapping):
        return pa.table(
            {field.name: pa.array(data[field.name], field.type, from_pandas=True) for field in schema}, schema=schema
        )
    return pa.Table.from_pylist(list(data), schema=schema)


def pack(table: pa.Table) -> bytes:
    """A table as bytes, to travel in one cell of a row."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(content: bytes) -> pa.Table:
    """The table that `pack` made bytes of."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()


@dataclass(frozen=True)
class Unit:
    """What is committed at once or not at all: one group of variants of one image, with all models.

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


def _parquet(table: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _token(units: pl.DataFrame) -> str:
    keys = units.select("dataset", "image_id", "part").sort(pl.all()).rows()
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


def write_commit(store: Store, units: Sequence[Unit]) -> str:
    """Write the files of some units, then the commit that makes them count; returns its token."""
    names = [column.name for column in COMMITS]
    counts = [(unit.dataset, unit.image_id, unit.part, unit.scores.num_rows, unit.failures.num_rows) for unit in units]
    table = make_table(COMMITS, [dict(zip(names, row, strict=True)) for row in counts])
    small = {name: pa.concat_tables([getattr(unit, name) for unit in units]) for name in TABLES}
    return put_commit(
        store, pl.DataFrame(table), pl.DataFrame(pa.concat_tables([unit.scores for unit in units])), small
    )


def put_commit(store: Store, units: pl.DataFrame, scores: pl.DataFrame, small: Mapping[str, pa.Table]) -> str:
    """Data files first, the commit that names them last; returns its token.

    Args:
        store: of the run folder.
        units: `schema.COMMITS`.
        scores: rows of all units, `schema.SCORES`.
        small: the other tables by name.
    """
    token = _token(units)
    files: dict[str, int] = {}

    def put(key: str, table: pa.Table) -> None:
        content = _parquet(table)
        store.write(key, content)
        files[key] = len(content)

    for (dataset, model), rows in scores.partition_by(PARTITION, as_dict=True, include_key=False).items():
        schema = pa.schema([field for field in arrow_schema(SCORES) if field.name not in PARTITION])
        folder = f"scores/dataset={quote(str(dataset), safe='')}/model={quote(str(model), safe='')}"
        put(f"{folder}/{token}.parquet", rows.to_arrow().select(schema.names).cast(schema))
    for name, table in small.items():
        if table.num_rows:
            put(f"{name}/{token}.parquet", table)
    commit = units.to_arrow().cast(arrow_schema(COMMITS))
    commit = commit.replace_schema_metadata({FILES_KEY: json.dumps(files, sort_keys=True).encode()})
    store.write(f"commits/{token}.parquet", _parquet(commit))
    return token


@dataclass(frozen=True)
class Committed:
    """What a run folder holds for certain.

    Attributes:
        units: one row per committed unit, `schema.COMMITS` and `commit`, the place of its commit in `commits`.
        commits: keys of the commits that count.
        files: keys of the data files that valid commits name, sorted.
        stale: keys of data files and commits that do not count: left by a writer that died, or by a commit one of
            whose files is gone.
    """

    units: pl.DataFrame
    commits: list[str]
    files: list[str]
    stale: list[str]

    def tables(self, name: str) -> list[str]:
        """Keys of one table's files: scores, images, failures or maps."""
        return [key for key in self.files if key.startswith(f"{name}/")]


def read_committed(store: Store) -> Committed:
    """One listing per folder, and every commit in it."""
    sizes = {entry.key: entry.size_bytes for folder in FOLDERS for entry in store.list(folder)}
    commits = [key for key in sizes if key.startswith("commits/")]
    with ThreadPoolExecutor(READERS) as pool:
        contents = list(pool.map(lambda key: _read_commit(store, key), commits))
    whole = {
        key: found
        for key, found in zip(commits, contents, strict=True)
        if found is not None and all(sizes.get(name) == size for name, size in found[1].items())
    }
    units = _count_once(whole)
    keys = list(whole)
    places = units["commit"].unique().sort().to_list()
    counting = [keys[place] for place in places]
    units = units.with_columns(
        pl.col("commit").replace_strict({place: rank for rank, place in enumerate(places)}, return_dtype=pl.Int32)
    )
    files = {name for key in counting for name in whole[key][1]}
    return Committed(units, counting, sorted(files), sorted(set(sizes) - files - set(counting)))


def _count_once(commits: Mapping[str, tuple[pl.DataFrame, Mapping[str, int]]]) -> pl.DataFrame:
    """All units; of two commits that share one, the later is void as a whole."""
    frames = [found[0].with_columns(commit=pl.lit(place, pl.Int32)) for place, found in enumerate(commits.values())]
    units = pl.concat([empty_frame(COMMITS).with_columns(commit=pl.lit(0, pl.Int32)), *frames], rechunk=True)
    # Hashes first: of millions of units, the few that may be there twice are left.
    unit = pl.struct("dataset", "image_id", "part")
    shared = units.filter(unit.hash().is_duplicated()).filter(unit.is_duplicated())
    void: set[int] = set()
    seen: set[tuple[object, ...]] = set()
    for (place,), rows in shared.sort("commit").group_by("commit", maintain_order=True):
        keys = set(rows.select("dataset", "image_id", "part").iter_rows())
        if keys & seen or len(keys) < rows.height:
            void.add(int(str(place)))
        else:
            seen |= keys
    return units.filter(~pl.col("commit").is_in(void)) if void else units


def _read_commit(store: Store, key: str) -> tuple[pl.DataFrame, dict[str, int]] | None:
    """A commit's units and files; None where it is damaged."""
    try:
        table = pq.read_table(BytesIO(store.read(key)))
        files = json.loads(table.schema.metadata[FILES_KEY])
    except (pa.ArrowException, OSError, KeyError, TypeError, json.JSONDecodeError):
        return None
    return pl.DataFrame(table.replace_schema_metadata(None)), files


def retract(store: Store, committed: Committed, images: pl.DataFrame) -> int:
    """Take images out of their commits, so that they are measured again; the rest of a commit is written anew.

    Whatever dies in between leaves two commits that share units, of which one counts.

    Args:
        store: of the run folder.
        committed: what it holds.
        images: columns dataset and image_id.

    Returns:
        Units that no longer count.
    """
    key = ["dataset", "image_id"]
    gone = committed.units.join(images, on=key, how="semi")
    for place in gone["commit"].unique().sort():
        commit = committed.commits[place]
        found = _read_commit(store, commit)
        if found is None:
            continue
        units, files = found
        tables = {name: pl.read_parquet(BytesIO(store.read(name))) for name in files}
        kept = {name: table.join(images, on=key, how="anti") for name, table in _with_keys(tables).items()}
        rest = units.join(images, on=key, how="anti")
        if rest.height:
            small = {name: _gathered(name, columns, kept).to_arrow() for name, columns in TABLES.items()}
            put_commit(
                store,
                rest,
                _gathered("scores", SCORES, kept),
                {name: table.cast(arrow_schema(TABLES[name])) for name, table in small.items()},
            )
        for name in (commit, *files):
            store.delete(name)
    return gone.height


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


def clear_stale(store: Store, committed: Committed) -> None:
    """Remove what does not count, commits first, so that whoever reads the folder without us sees no row twice."""
    for key in sorted(committed.stale, key=lambda key: not key.startswith("commits/")):
        store.delete(key)


def read_small(store: Store, name: str, keys: Iterable[str]) -> pl.DataFrame:
    """All rows of the images, failures or maps table; these are small next to the scores."""
    with ThreadPoolExecutor(READERS) as pool:
        contents = list(pool.map(store.read, keys))
    return pl.concat([empty_frame(TABLES[name]), *(pl.read_parquet(BytesIO(content)) for content in contents)])
