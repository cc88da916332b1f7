"""Counting the rows of images against those that every image must have, without holding them in memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class PlannedRows:
    """The rows that every image must have under every model.

    Attributes:
        names: the columns that tell the rows of an image apart.
        table: one line per row: these columns, its `number`, and its `mark`, a random number.
        rows: number of these rows.
        marks: sum of their marks.
    """

    names: tuple[str, ...]
    table: pl.DataFrame
    rows: int
    marks: int


@dataclass(frozen=True)
class RowCounts:
    """Rows of one dataset and model, by the position of the image in the manifest.

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

    @property
    def total(self) -> int:
        """All rows, those of unplanned images included."""
        return int(self.rows.sum() + self.unplanned["rows"].sum())

    def missing(self, planned: PlannedRows) -> NDArray[np.bool_]:
        """(images,) whether rows are missing."""
        fewer: NDArray[np.bool_] = self.rows < planned.rows
        return fewer

    def surplus(self, planned: PlannedRows) -> NDArray[np.bool_]:
        """(images,) whether there is a row too many, or one that was not planned."""
        whole = self.rows == planned.rows
        many: NDArray[np.bool_] = (
            (self.wrong > 0) | (self.rows > planned.rows) | (whole & (self.marks != planned.marks))
        )
        return many


def planned_rows(rows: Sequence[Mapping[str, object]], kinds: Mapping[str, pl.DataType | type]) -> PlannedRows:
    """The rows of an image from the columns that tell them apart, which have these types."""
    # So small that the sum over all rows of an image does not overflow.
    marks = np.random.default_rng(0).integers(1, 2**40, len(rows))
    table = pl.DataFrame([*rows], schema=kinds).with_row_index("number")
    return PlannedRows(
        tuple(kinds), table.with_columns(mark=pl.Series(marks, dtype=pl.Int64)), table.height, int(marks.sum())
    )


def grouped(rows: pl.DataFrame, planned: PlannedRows) -> pl.DataFrame:
    """By image: its rows in a table, how many of them are wrong, and the sum of their marks."""
    joined = rows.lazy().join(planned.table.lazy(), on=planned.names, how="left")
    counts = joined.group_by("image_id").agg(
        rows=pl.len().cast(pl.Int64),
        wrong=(pl.len() - pl.col("number").drop_nulls().n_unique()).cast(pl.Int64),
        marks=pl.col("mark").sum(),
    )
    return counts.collect(engine="streaming")


def count_rows(images: pl.DataFrame, groups: Iterable[pl.DataFrame]) -> RowCounts:
    """Add up what `grouped` gives, by image; images: column image_id, in the order of the manifest."""
    placed = images.select("image_id").with_row_index("place")
    sums = {name: np.zeros(images.height, np.int64) for name in ("rows", "wrong", "marks")}
    unplanned = [pl.DataFrame(schema={"image_id": pl.String, "rows": pl.Int64})]
    for group in groups:
        known = group.join(placed, on="image_id", how="inner")
        for name, column in sums.items():
            np.add.at(column, known["place"].to_numpy(), known[name].to_numpy())
        if known.height < group.height:
            unplanned.append(group.join(known, on="image_id", how="anti").select("image_id", "rows"))
    return RowCounts(**sums, unplanned=pl.concat(unplanned).group_by("image_id", maintain_order=True).sum())


def by_pair(tables: Iterable[pl.DataFrame], planned: PlannedRows) -> dict[tuple[str, str], list[pl.DataFrame]]:
    """What `grouped` gives for tables that hold several datasets and models, by dataset and model."""
    groups: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for table in tables:
        for (dataset, model), rows in table.partition_by("dataset", "model", as_dict=True).items():
            groups.setdefault((str(dataset), str(model)), []).append(grouped(rows, planned))
    return groups
