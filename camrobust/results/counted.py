"""Which commits of a run folder count, which images are still missing, and the rows of the files that count."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import polars as pl

from camrobust.contract.columns import Column
from camrobust.contract.record import parse_record
from camrobust.contract.run_documents import CommitRecord, DoneRecord, FileRecord
from camrobust.contract.run_files import (
    RESULTS,
    counts_by_number,
    number_of,
    partition_of,
    table_of,
)
from camrobust.contract.schema import COMMITS, SCORES
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.parquet_budget import Budget, TableError, TooLargeTableError
from camrobust.results.arrow import TABLES, empty_frame
from camrobust.results.documents import read_record
from camrobust.results.lease import newest_lease
from camrobust.results.scan import check_scores
from camrobust.results.tables import read_frame

FILES_KEY = b"camrobust.files"
FORMAT_KEY = b"camrobust.format"
READERS = 32
PARTITION = ("dataset", "model")
IMAGE = ("dataset", "image_id")
PART_KEY = (*IMAGE, "part")


@dataclass(frozen=True)
class Committed:
    """The results in a run folder that count.

    Attributes:
        parts: one row per committed part of an image: the columns of `schema.COMMITS`, and `commit`, the position of
            its commit in `commits`.
        commits: keys of the commits that count.
        contents: for each of these commits, the keys of its data files and their sizes.
        uncounted: keys of camrobust's data files and commits that do not count. A writer that died or came late left
            them, or one file of their commit is missing, or they are just being written.
    """

    parts: pl.DataFrame
    commits: list[str]
    contents: list[Mapping[str, int]]
    uncounted: list[str]

    @property
    def files(self) -> list[str]:
        """Keys of the data files that count, sorted."""
        return sorted({name for files in self.contents for name in files})

    def tables(self, name: str) -> list[str]:
        """Keys of the files of one table: scores, certificates, images, failures or maps."""
        return [key for key in self.files if table_of(key) == name]

    def records(self) -> list[FileRecord]:
        """The data files that count, in the form of `done/NUMBER.json`."""
        sizes = {name: size for files in self.contents for name, size in files.items()}
        return [_file_record(key, sizes[key]) for key in self.files]


def _file_record(key: str, size_bytes: int) -> FileRecord:
    table = table_of(key)
    dataset, model = partition_of(key) if table == "scores" else (None, None)
    return FileRecord(table=table, key=key, size_bytes=size_bytes, dataset=dataset, model=model)


def read_committed(store: Store) -> Committed:
    """Find out which commits count; lists every folder once and reads every commit that may count.

    Raises:
        UserError: the newest lease or done/NUMBER.json is not as camrobust writes it.
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
        key: commit
        for key, commit in zip(commits, contents, strict=True)
        if commit is not None and all(ours.get(name) == size for name, size in commit[1].items())
    }
    return _committed(whole, ours)


def _committed(whole: Mapping[str, tuple[pl.DataFrame, Mapping[str, int]]], ours: Collection[str]) -> Committed:
    parts = _count_once(whole)
    keys = list(whole)
    places = parts["commit"].unique().sort().to_list()
    counting = [keys[place] for place in places]
    parts = parts.with_columns(
        pl.col("commit").replace_strict({place: rank for rank, place in enumerate(places)}, return_dtype=pl.Int32)
    )
    contents = [whole[key][1] for key in counting]
    live = {name for files in contents for name in files} | set(counting)
    return Committed(parts, counting, contents, sorted(set(ours) - live))


def _count_once(commits: Mapping[str, tuple[pl.DataFrame, Mapping[str, int]]]) -> pl.DataFrame:
    """All committed parts; if two commits share a part, the whole later commit is void."""
    frames = [parts.with_columns(commit=pl.lit(place, pl.Int32)) for place, (parts, _) in enumerate(commits.values())]
    parts = pl.concat([empty_frame(COMMITS).with_columns(commit=pl.lit(0, pl.Int32)), *frames], rechunk=True)
    # Compare hashes first: few of millions of parts are left to compare in full.
    key = pl.struct(PART_KEY)
    shared = parts.filter(key.hash().is_duplicated()).filter(key.is_duplicated())
    void: set[int] = set()
    seen: set[tuple[object, ...]] = set()
    for (place,), rows in shared.sort("commit").group_by("commit", maintain_order=True):
        keys = set(rows.select(PART_KEY).iter_rows())
        if keys & seen or len(keys) < rows.height:
            void.add(int(str(place)))
        else:
            seen |= keys
    return parts.filter(~pl.col("commit").is_in(void)) if void else parts


def _read_commit(store: Store, key: str, budget: Budget) -> tuple[pl.DataFrame, dict[str, int]] | None:
    """The parts and files of a commit; None if it is damaged, or has been deleted since it was listed.

    Raises:
        UserError: it would take too much memory, or a later version of camrobust wrote it.
    """
    try:
        parts, metadata = read_frame(store, key, COMMITS, budget)
        record = _commit_record(metadata, store.locate(key))
    except TooLargeTableError:
        raise
    except (MissingObjectError, TableError, ValueError):
        return None
    if (parts["rows"] < 0).any() or (parts["failures"] < 0).any():
        return None
    return parts, record.files


def _commit_record(metadata: Mapping[bytes, bytes], where: str) -> CommitRecord:
    files = metadata.get(FILES_KEY, b"null").decode()
    written = metadata.get(FORMAT_KEY, b"0").decode()
    return parse_record(f'{{"format": {written}, "files": {files}}}'.encode(), CommitRecord, where)


def columns_of(key: str, scores: Sequence[Column] = SCORES) -> Sequence[Column]:
    """The columns of a data file, if the run's score rows have these columns."""
    table = table_of(key)
    return [column for column in scores if column.name not in PARTITION] if table == "scores" else TABLES[table]


def with_keys(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The same tables by key; score tables get the columns dataset and model from their key."""
    whole = {}
    for name, table in tables.items():
        known = dict(zip(PARTITION, partition_of(name), strict=True)) if table_of(name) == "scores" else {}
        whole[name] = table.with_columns(**{key: pl.lit(value) for key, value in known.items()})
    return whole


def read_small(store: Store, name: str, keys: Iterable[str]) -> pl.DataFrame:
    """All rows of the images, failures or maps table, which are small compared with the scores."""
    columns, budget = TABLES[name], Budget()
    with ThreadPoolExecutor(READERS) as pool:
        frames = list(pool.map(lambda key: read_frame(store, key, columns, budget)[0], keys))
    return pl.concat([empty_frame(columns), *frames])


def read_scores(
    store: Store, committed: Committed, images: pl.DataFrame | None = None, columns: Sequence[Column] = SCORES
) -> pl.DataFrame:
    """Score rows.

    Args:
        store: store of the run folder.
        committed: the results that count there.
        images: columns dataset and image_id of the wanted images; None for all.
        columns: columns of the run's score rows, see `RunRecord.score_columns`.

    Raises:
        UserError: the run holds no score rows, or a file is not as camrobust writes it.
    """
    check_scores(committed.tables("scores"))
    parts = committed.parts if images is None else committed.parts.join(images, on=IMAGE, how="semi")
    keys = [name for place in parts["commit"].unique().sort() for name in sorted(committed.contents[place])]
    budget, frames = Budget(), [empty_frame(columns)]
    for name in keys:
        if table_of(name) == "scores":
            rows = with_keys({name: read_frame(store, name, columns_of(name, columns), budget)[0]})[name]
            rows = rows.select(frames[0].columns)
            frames.append(rows if images is None else rows.join(images, on=IMAGE, how="semi"))
    return pl.concat(frames)


def pending_parts(manifest: pl.DataFrame, parts: int, committed: Committed) -> pl.DataFrame:
    """Images with parts that are not committed yet.

    Args:
        manifest: the images of the run, `schema.MANIFEST`.
        parts: number of parts of every image.
        committed: the results that count.

    Returns:
        The columns of the manifest and `parts`, the numbers of the missing parts, in the order of the manifest.
    """
    placed = manifest.with_row_index("number")
    numbers = pl.DataFrame({"part": range(parts)}, schema={"part": pl.Int16})
    planned = placed.select("number", "dataset", "image_id").join(numbers, how="cross")
    missing = planned.join(committed.parts, on=["dataset", "image_id", "part"], how="anti").sort("number", "part")
    gathered = missing.group_by("number", maintain_order=True).agg(parts="part")
    return manifest[gathered["number"]].with_columns(gathered["parts"])
