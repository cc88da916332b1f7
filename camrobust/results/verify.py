"""Is a run complete? Every planned row must be there exactly once, or its image must be named in failures."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.run_files import partition_of
from camrobust.contract.run_record import VariantRecord
from camrobust.contract.schema import SCORE_FILE
from camrobust.results.counted import IMAGE
from camrobust.results.folder import RunFolder
from camrobust.results.tables import read_frame

VARIANT = ["cam", "perturbation", "strength", "replicate"]
EXAMPLES = 5
USED = tuple(column for column in SCORE_FILE if column.name in ("image_id", *VARIANT))
ROWS_AT_ONCE = 2_000_000
BYTES_AT_ONCE = 256 * 2**20
"""Score rows that are counted together; these and the list of images bound the memory for runs of any size."""


@dataclass(frozen=True)
class Completeness:
    """How many rows were planned and how many are there; a pair is one image under one model.

    Attributes:
        planned_rows: score rows that the plan asks for.
        score_rows: score rows that are there.
        failed_rows: planned rows without a score whose pair is named in failures.
        missing: pairs that lack rows and are not named in failures.
        surplus: pairs with a row twice, with a row that was not planned, or with all rows and a failure.
        images: images planned.
        failed_images: images named in failures, for at least one model.
        examples: the first few missing or surplus pairs, as text.
    """

    planned_rows: int
    score_rows: int
    failed_rows: int
    missing: int
    surplus: int
    images: int
    failed_images: int
    examples: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether scored and failed rows add up to the plan, each exactly once."""
        return not self.missing and not self.surplus and self.score_rows + self.failed_rows == self.planned_rows

    @property
    def failure_share(self) -> float:
        """Share of the images named in failures."""
        return self.failed_images / self.images if self.images else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json and done/NUMBER.json."""
        return {"complete": self.complete, **asdict(self), "examples": list(self.examples)}


@dataclass(frozen=True)
class _Planned:
    """The rows that every image must have under every model.

    Attributes:
        variants: one line per row: the columns of `VARIANT`, its `number`, and its `mark`, a random number.
        rows: number of these rows.
        marks: sum of their marks.
    """

    variants: pl.DataFrame
    rows: int
    marks: int


@dataclass(frozen=True)
class _Counts:
    """Score rows of one dataset and model, by the position of the image in the manifest.

    Attributes:
        rows: (images,) number of rows.
        wrong: (images,) how many of them are not planned or occur twice.
        marks: (images,) sum of their marks. If an image has as many rows as planned, the sum is right only if no row is
            there twice, even if the rows lie in files that were counted separately.
        unplanned: image_id and number of rows of images that are not in the manifest.
    """

    rows: NDArray[np.int64]
    wrong: NDArray[np.int64]
    marks: NDArray[np.int64]
    unplanned: pl.DataFrame


@dataclass(frozen=True)
class _Tally:
    """The counts of `Completeness` for one dataset and model."""

    score_rows: int
    failed_rows: int
    missing: int
    surplus: int
    examples: list[str]


def verify(folder: RunFolder) -> Completeness:
    """Compare a run with its plan. Every score row is read once, one dataset and model after the other.

    Of a run in shards every shard is compared with the images that belong to it. The shards have one list of images,
    and a hash puts each image on one of them, so a run is complete if all its shards are.

    Raises:
        UserError: there is no run in that folder.
    """
    return in_all([_verify(one) for one in folder.folders])


def in_all(parts: Sequence[Completeness]) -> Completeness:
    """The counts of several folders with different images, added up."""
    counts = {
        name: sum(getattr(part, name) for part in parts)
        for name in Completeness.__dataclass_fields__
        if name != "examples"
    }
    return Completeness(**counts, examples=tuple(example for part in parts for example in part.examples)[:EXAMPLES])


def _verify(folder: RunFolder) -> Completeness:
    run, committed = folder.run(), folder.committed()
    files = committed.tables("scores")
    manifest = folder.manifest().select(IMAGE)
    failures = folder.table("failures", committed).select(*IMAGE, "model")
    del committed
    planned = _planned(run.cams, run.variants)
    images = {
        str(name): rows.select("image_id") for (name,), rows in manifest.partition_by("dataset", as_dict=True).items()
    }
    keys_of: dict[tuple[str, str], list[str]] = {(dataset, model): [] for dataset in images for model in run.models}
    for key in files:
        keys_of.setdefault(partition_of(key), []).append(key)
    tallies = []
    for (dataset, model), keys in keys_of.items():
        known = images[dataset] if dataset in images and model in run.models else manifest.clear().select("image_id")
        named = failures.filter(pl.col("dataset") == dataset, pl.col("model").is_null() | (pl.col("model") == model))
        counts = _count(known, _grouped(folder, keys, planned.variants))
        tallies.append(_tally((dataset, model), known, counts, named, planned))
    return Completeness(
        planned_rows=manifest.height * len(run.models) * planned.rows,
        score_rows=sum(tally.score_rows for tally in tallies),
        failed_rows=sum(tally.failed_rows for tally in tallies),
        missing=sum(tally.missing for tally in tallies),
        surplus=sum(tally.surplus for tally in tallies),
        images=manifest.height,
        failed_images=failures.select(IMAGE).unique().join(manifest, on=IMAGE, how="semi").height,
        examples=tuple(example for tally in tallies for example in tally.examples)[:EXAMPLES],
    )


def _planned(cams: Sequence[str], variants: Sequence[VariantRecord]) -> _Planned:
    named = [
        {"cam": cam, **{key: getattr(variant, key) for key in VARIANT[1:]}} for cam in cams for variant in variants
    ]
    schema = {"cam": pl.String, "perturbation": pl.String, "strength": pl.String, "replicate": pl.Int16}
    # So small that the sum over all rows of an image does not overflow.
    marks = np.random.default_rng(0).integers(1, 2**40, len(named))
    table = (
        pl.DataFrame(named, schema=schema).with_row_index("number").with_columns(mark=pl.Series(marks, dtype=pl.Int64))
    )
    return _Planned(table, table.height, int(marks.sum()))


def _grouped(folder: RunFolder, keys: Sequence[str], variants: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """By image: its rows in some files, how many of them are wrong, and the sum of their marks."""
    for scores in _gathered(folder, keys):
        joined = scores.lazy().join(variants.lazy(), on=VARIANT, how="left")
        counts = joined.group_by("image_id").agg(
            rows=pl.len().cast(pl.Int64),
            wrong=(pl.len() - pl.col("number").drop_nulls().n_unique()).cast(pl.Int64),
            marks=pl.col("mark").sum(),
        )
        yield counts.collect(engine="streaming")


def _gathered(folder: RunFolder, keys: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The rows of some files, in tables of about `ROWS_AT_ONCE` rows."""
    waiting: list[pl.DataFrame] = []
    for key in keys:
        waiting.append(read_frame(folder.store, key, USED)[0])
        if sum(table.height for table in waiting) >= ROWS_AT_ONCE or sum(map(_bytes, waiting)) >= BYTES_AT_ONCE:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


def _bytes(table: pl.DataFrame) -> int:
    return int(table.estimated_size())


def _count(images: pl.DataFrame, groups: Iterator[pl.DataFrame]) -> _Counts:
    """Add up the groups by image; images: column image_id, in the order of the manifest."""
    placed = images.with_row_index("place")
    sums = {name: np.zeros(images.height, np.int64) for name in ("rows", "wrong", "marks")}
    unplanned = [pl.DataFrame(schema={"image_id": pl.String, "rows": pl.Int64})]
    for group in groups:
        known = group.join(placed, on="image_id", how="inner")
        for name, column in sums.items():
            np.add.at(column, known["place"].to_numpy(), known[name].to_numpy())
        if known.height < group.height:
            unplanned.append(group.join(known, on="image_id", how="anti").select("image_id", "rows"))
    return _Counts(**sums, unplanned=pl.concat(unplanned).group_by("image_id", maintain_order=True).sum())


def _tally(
    pair: tuple[str, str], images: pl.DataFrame, counts: _Counts, failures: pl.DataFrame, planned: _Planned
) -> _Tally:
    failed = images["image_id"].is_in(failures["image_id"].unique().implode()).to_numpy()
    missing = ~failed & (counts.rows < planned.rows)
    # An image that travels in parts may have rows of some and failures of others.
    surplus = (
        (counts.wrong > 0)
        | (counts.rows > planned.rows)
        | (failed & (counts.rows == planned.rows))
        | ((counts.rows == planned.rows) & (counts.marks != planned.marks))
    )
    wrong = [
        *images["image_id"].gather(np.flatnonzero(missing | surplus)[:EXAMPLES]),
        *counts.unplanned["image_id"][:EXAMPLES],
    ]
    dataset, model = pair
    return _Tally(
        score_rows=int(counts.rows.sum() + counts.unplanned["rows"].sum()),
        failed_rows=int((planned.rows - counts.rows[failed]).clip(0).sum()),
        missing=int(missing.sum()),
        surplus=int(surplus.sum()) + counts.unplanned.height,
        examples=[f"{dataset} / {image_id} / {model}" for image_id in wrong],
    )
