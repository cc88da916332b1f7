"""The one measure that verdict, sentences and leaderboard speak of, and the comparisons with the control on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from camrobust.contract.units import counted
from camrobust.summary.floor import TEST
from camrobust.summary.ranktests import least_p

LEVEL = 0.05
NAMES = {"robustness_adjusted": "adjusted RM", "consistency_adjusted": "adjusted consistency"}
"""Measures in the order in which they are preferred, and what they are called everywhere."""
Row = Mapping[str, Any]


def leading_measure(by_cam: pl.DataFrame, controls: Sequence[str]) -> str:
    """The measure that orders the leaderboard: RM; adjusted consistency where no CAM has an RM."""
    rows = by_cam.filter(~pl.col("cam").is_in(list(controls)))
    return next((name for name in NAMES if rows[name].count()), next(iter(NAMES)))


def ranked_by(by_cam: pl.DataFrame, measure: str) -> pl.DataFrame:
    """The leaderboard, best first."""
    others = [name for name in NAMES if name != measure]
    return by_cam.sort(
        [measure, *others, "model", "dataset", "cam"], descending=[True] * 2 + [False] * 3, nulls_last=True
    )


@dataclass(frozen=True)
class Floor:
    """The comparisons of all distinct CAMs of one model on one dataset with its controls, on one measure.

    Attributes:
        rows: lines of the table tests.
    """

    rows: list[dict[str, Any]]

    @classmethod
    def families(cls, tests: pl.DataFrame | None, measure: str) -> "dict[tuple[str, str], Floor]":
        """By model and dataset; none where the run has no control, or where an earlier version wrote the table."""
        if tests is None:
            return {}
        here = tests.filter((pl.col("test") == TEST) & (pl.col("measure") == measure))
        groups = here.partition_by("model", "dataset", as_dict=True, maintain_order=True)
        return {(str(model), str(dataset)): cls(rows.to_dicts()) for (model, dataset), rows in groups.items()}

    def of_cam(self, cam: str) -> dict[str, Any] | None:
        """The comparison of a CAM with the control that it exceeds least."""
        rows = [row for row in self.rows if row["first"] == cam]
        return min(rows, key=lambda row: row["difference"], default=None)

    @property
    def cams(self) -> list[str]:
        """The distinct CAMs that were compared."""
        return [*dict.fromkeys(row["first"] for row in self.rows)]

    def above(self) -> list[str]:
        """CAMs that lie above every control, at 5 % after Holm over the comparisons."""
        return [cam for cam in self.cams if all(_above(row) for row in self.rows if row["first"] == cam)]

    def clear(self) -> list[str]:
        """CAMs whose interval of the difference lies above 0; the intervals are not corrected for one another."""
        return [cam for cam in self.cams if all(_clear(row) for row in self.rows if row["first"] == cam)]

    @property
    def comparisons(self) -> int:
        """The size of the family that Holm corrects."""
        return sum(row["p"] is not None for row in self.rows)

    @property
    def images(self) -> int:
        """Most images behind a comparison."""
        return max((row["n_images"] for row in self.rows), default=0)

    def in_reach(self) -> bool:
        """Whether any comparison could come below 5 % after Holm, if the maps differed on all images."""
        return bool(self.comparisons) and least_p(self.images) * self.comparisons < LEVEL

    def why_not(self) -> str:
        """Why no comparison can reach 5 %."""
        if self.images < 2:
            return "fewer than two images have a value for both, so nothing can be tested"
        least = least_p(self.images)
        return (
            f"with {self.images} images the smallest possible p is {shown_p(least)}, and Holm's correction over "
            f"{counted(self.comparisons, 'comparison')} makes that "
            f"{shown_p(min(1.0, least * self.comparisons))}: no test can reach 5 %, however much the maps differ"
        )


def shown_p(p: float) -> str:
    """A p-value in two significant digits, without an exponent.

    >>> shown_p(0.0078125), shown_p(0.5), shown_p(1.0)
    ('0.0078', '0.50', '1.0')
    """
    digits = 1 if p >= 1 else 2
    while p < 10 ** (1 - digits) and digits < 6:
        digits += 1
    return f"{p:.{digits}f}"


def _above(row: Row) -> bool:
    return row["p_corrected"] is not None and row["p_corrected"] < LEVEL and (row["effect"] or 0) > 0


def _clear(row: Row) -> bool:
    return row["difference_lower"] is not None and row["difference_lower"] > 0
