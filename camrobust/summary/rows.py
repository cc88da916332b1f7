"""Score rows in the form that they are added up in: text as numbers, in blocks that hold an image's rows whole."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

NO_SEVERITY = -1
"""Stands for a strength that was given by strength."""
TEXT = ("cam", "perturbation", "strength", "status")
CERTAINTY = {"confidence": "confidence_clean", "entropy": "entropy_clean"}
"""How sure the model is of a clean image, and the column that says so."""
NUMBERS = ("rbo", "rbo_adjusted", *CERTAINTY.values())
COLUMNS = ("image_id", *TEXT, "severity", "kept_class", *NUMBERS)
"""What the summaries need of a score row."""


@dataclass(frozen=True)
class Coded:
    """Text as numbers.

    Attributes:
        codes: (N,) int32, places in values.
        values: the different texts.
    """

    codes: NDArray[np.int32]
    values: Sequence[str]


@dataclass(frozen=True)
class Rows:
    """N score rows of one dataset under one model.

    Attributes:
        image: (N,) places in the images of the block.
        text: the columns of `TEXT`.
        severity: (N,) int16, `NO_SEVERITY` where there is none.
        same: (N,) bool, the class was kept.
        numbers: the columns of `NUMBERS`, (N,) float, NaN where undefined.
    """

    image: NDArray[np.integer[Any]]
    text: Mapping[str, Coded]
    severity: NDArray[np.int16]
    same: NDArray[np.bool_]
    numbers: Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Block:
    """Some images of one dataset with all their rows; no other block has a row of them.

    Attributes:
        dataset: its name.
        images: their ids.
        rows: model by model, read when it is asked for.
    """

    dataset: str
    images: Sequence[str]
    rows: Iterator[tuple[str, Rows]]


def _coded(column: pl.Series) -> Coded:
    values = column.unique().sort()
    return Coded(values.search_sorted(column).to_numpy().astype(np.int32), values.to_list())


def blocks_of(scores: pl.DataFrame) -> Iterator[Block]:
    """A table in memory as blocks, one per dataset."""
    for (dataset,), rows in scores.partition_by("dataset", as_dict=True).items():
        images = rows["image_id"].unique().sort()
        yield Block(str(dataset), images.to_list(), _by_model(rows, images))


def _by_model(rows: pl.DataFrame, images: pl.Series) -> Iterator[tuple[str, Rows]]:
    for (model,), some in rows.partition_by("model", as_dict=True).items():
        missing = np.full(some.height, np.nan)
        yield (
            str(model),
            Rows(
                image=images.search_sorted(some["image_id"]).to_numpy(),
                text={name: _coded(some[name]) for name in TEXT},
                severity=some["severity"].cast(pl.Int16).fill_null(NO_SEVERITY).to_numpy(),
                same=some["kept_class"].to_numpy(),
                numbers={
                    name: some[name].cast(pl.Float64).fill_null(np.nan).to_numpy() if name in some.columns else missing
                    for name in NUMBERS
                },
            ),
        )
