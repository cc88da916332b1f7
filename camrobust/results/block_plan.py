"""Which score files to read together, so that every block holds all rows of its images.

The rows of an image may lie in several commits: its variants may have been measured in parts, or by several runs. The
commits are therefore sorted by their first image and cut into blocks. An image belongs to the first block that has one
of its commits, and the block lists every score file with a row of one of its images. A commit holds neighbouring
images, so few files are read twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from camrobust.contract.run_files import partition_of, table_of
from camrobust.io.objects import Store
from camrobust.results.counted import Committed

Runs = Sequence[tuple[Store, Committed]]
"""The store of each run folder, and the commits that count there."""


@dataclass(frozen=True)
class ScoreFile:
    """A score file of one model.

    Attributes:
        run: position of its run.
        store: store of that run.
        key: key of the file.
        whole: all its images belong to the block.
    """

    run: int
    store: Store
    key: str
    whole: bool


@dataclass(frozen=True, eq=False)
class PlannedBlock:
    """Some images of one dataset and all files with their rows.

    Attributes:
        dataset: name of the dataset.
        images: image ids, sorted.
        files: the score files of each model.
    """

    dataset: str
    images: list[str]
    files: dict[str, list[ScoreFile]]


def planned_blocks(runs: Runs, rows: int) -> Iterator[PlannedBlock]:
    """Plan the blocks of some runs; no score file is opened.

    Args:
        runs: one or more runs.
        rows: how many rows of one model a block should hold; a single commit may hold more.
    """
    parts, files = _parts(runs), _score_files(runs)
    for (name,), of_dataset in parts.partition_by("dataset", as_dict=True, maintain_order=True).items():
        dataset = str(name)
        models = max((len(keys) for (_, owner, _), keys in files.items() if owner == dataset), default=1)
        for images, commits in _cut(of_dataset, rows * models):
            by_model: dict[str, list[ScoreFile]] = {}
            for run, commit, whole in commits:
                for model, key in files.get((run, dataset, commit), ()):
                    by_model.setdefault(model, []).append(ScoreFile(run, runs[run][0], key, whole))
            yield PlannedBlock(dataset, images, dict(sorted(by_model.items())))


def image_counts(runs: Runs) -> dict[str, int]:
    """Number of images with score rows, by dataset."""
    counted = _parts(runs).group_by("dataset").agg(pl.col("image_id").n_unique())
    return dict(counted.iter_rows())


def _parts(runs: Runs) -> pl.DataFrame:
    """The committed parts that have score rows: dataset, image_id, rows, run, and the key of their commit."""
    frames = []
    for run, (_, committed) in enumerate(runs):
        keys = pl.Series(committed.commits, dtype=pl.String)
        parts = committed.parts.filter(pl.col("rows") > 0)
        frames.append(parts.select("dataset", "image_id", "rows", run=pl.lit(run), held_by=keys[parts["commit"]]))
    return pl.concat(frames).sort("dataset", maintain_order=True)


def _score_files(runs: Runs) -> dict[tuple[int, str, str], list[tuple[str, str]]]:
    """Models and keys of the score files, by run, dataset and commit."""
    files: dict[tuple[int, str, str], list[tuple[str, str]]] = {}
    for run, (_, committed) in enumerate(runs):
        for commit, keys in zip(committed.commits, committed.contents, strict=True):
            for key in sorted(key for key in keys if table_of(key) == "scores"):
                dataset, model = partition_of(key)
                files.setdefault((run, dataset, commit), []).append((model, key))
    return files


def _cut(parts: pl.DataFrame, rows: int) -> Iterator[tuple[list[str], list[tuple[int, str, bool]]]]:
    """Cut one dataset into blocks.

    Args:
        parts: rows of `_parts`.
        rows: how many rows of all models a block should hold.

    Yields:
        The images of a block, and the commits that hold them: run, key, and whether all images of the commit belong to
        this block.
    """
    commits = parts.group_by("run", "held_by").agg(pl.col("image_id").min().alias("first"), pl.col("rows").sum())
    commits = commits.sort("first", "run", "held_by").with_row_index("place")
    commits = commits.with_columns(block=(pl.col("rows").cum_sum() - pl.col("rows")) // rows)
    placed = parts.join(commits.select("run", "held_by", "place", "block"), on=["run", "held_by"])
    owner = placed.group_by("image_id").agg(pl.col("block").min().alias("owner"))
    held = placed.join(owner, on="image_id").group_by("owner", "run", "held_by", "place")
    held_by = held.agg(pl.col("image_id").n_unique().alias("images"))
    sizes = placed.group_by("place").agg(pl.col("image_id").n_unique().alias("size"))
    held_by = held_by.join(sizes, on="place").sort("owner", "place")
    images = owner.sort("owner", "image_id").partition_by("owner", as_dict=True, include_key=False)
    for (block,), holders in held_by.partition_by("owner", as_dict=True, maintain_order=True).items():
        commits_here = holders.select("run", "held_by", pl.col("images") == pl.col("size")).rows()
        yield images[(block,)]["image_id"].to_list(), commits_here
