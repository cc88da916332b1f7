"""Score rows in the form in which they are added up: text as numbers, in blocks with all rows of their images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.summary.answers import COLUMNS as ANSWERS
from camrobust.summary.answers import Answers

NO_SEVERITY = -1
"""Stands for null: the level was given by its strength, not by a severity."""
TEXT = ("cam", "perturbation", "strength", "status")
CERTAINTY = {"confidence": "confidence_clean", "entropy": "entropy_clean"}
"""How certain the model is about a clean image, and the score column that holds it."""
NUMBERS = ("rbo", "rbo_adjusted", *CERTAINTY.values())
COLUMNS = ("image_id", *TEXT, "severity", "kept_class", *NUMBERS)
"""The columns of a score row that the summaries need."""


@dataclass(frozen=True)
class Coded:
    """Text as numbers.

    Attributes:
        codes: (N,) int32, positions in values.
        values: the distinct texts.
    """

    codes: NDArray[np.int32]
    values: Sequence[str]


@dataclass(frozen=True)
class Rows:
    """N score rows of one dataset under one model.

    Attributes:
        image: (N,) positions in the images of the block.
        text: the columns of `TEXT`.
        severity: (N,) int16, `NO_SEVERITY` for null.
        same: (N,) bool, the class was kept.
        numbers: the columns of `NUMBERS`, (N,) float, NaN if undefined.
        answers: whether the predictions are the labels; None where no row has a label, or no class is predicted.
    """

    image: NDArray[np.integer[Any]]
    text: Mapping[str, Coded]
    severity: NDArray[np.int16]
    same: NDArray[np.bool_]
    numbers: Mapping[str, NDArray[np.floating[Any]]]
    answers: Answers | None = None

    def where(self, rows: NDArray[np.bool_]) -> "Rows":
        """Some of the rows."""
        return Rows(
            image=self.image[rows],
            text={name: Coded(column.codes[rows], column.values) for name, column in self.text.items()},
            severity=self.severity[rows],
            same=self.same[rows],
            numbers={name: values[rows] for name, values in self.numbers.items()},
            answers=None if self.answers is None else self.answers.where(rows),
        )


@dataclass(frozen=True)
class Block:
    """Some images of one dataset with all their rows; no other block has a row of these images.

    Attributes:
        dataset: name of the dataset.
        images: the image ids.
        rows: name and rows of each model; the rows are read when it is their turn.
    """

    dataset: str
    images: Sequence[str]
    rows: Iterator[tuple[str, Rows]]


def _coded(column: pl.Series) -> Coded:
    values = column.unique().sort()
    return Coded(values.search_sorted(column).to_numpy().astype(np.int32), values.to_list())


def blocks_of(scores: pl.DataFrame) -> Iterator[Block]:
    """Split a table in memory into blocks, one per dataset."""
    for (dataset,), rows in scores.partition_by("dataset", as_dict=True).items():
        images = rows["image_id"].unique().sort()
        yield Block(str(dataset), images.to_list(), _by_model(rows, images))


def _by_model(rows: pl.DataFrame, images: pl.Series) -> Iterator[tuple[str, Rows]]:
    for (model,), part in rows.partition_by("model", as_dict=True).items():
        missing = np.full(part.height, np.nan)
        yield (
            str(model),
            Rows(
                image=images.search_sorted(part["image_id"]).to_numpy(),
                text={name: _coded(part[name]) for name in TEXT},
                severity=part["severity"].cast(pl.Int16).fill_null(NO_SEVERITY).to_numpy(),
                same=part["kept_class"].to_numpy(),
                numbers={
                    name: part[name].cast(pl.Float64).fill_null(np.nan).to_numpy() if name in part.columns else missing
                    for name in NUMBERS
                },
                answers=_answers(part),
            ),
        )


def _answers(part: pl.DataFrame) -> Answers | None:
    if not {*ANSWERS} <= {*part.columns} or part["label"].null_count() == part.height:
        return None
    return Answers.of({name: part[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ANSWERS})
