"""What changed from one run to another, image by image: `camrobust compare`.

Estimates are those of the leaderboard with average macro, over the images that both runs have. Their difference has an
interval by the delta method, clustered by image: an image pulls both runs' estimates, and what it pulls them by alike
cancels. Where hardly an image is shared the runs are taken as independent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from camrobust.contract.schema import DIFFERENCES
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import cliffs_delta, holm, wilcoxon

MEASURES = ("robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted")
RAW = ("robustness", "consistency", "responsiveness")
FEWEST = 2
"""Shared images below which runs are compared as independent."""
LEVEL = 0.95
Array = NDArray[np.float64]
Line = dict[str, Any]


def differences(first: Sequence[Profile], second: Sequence[Profile], *, raw: bool = False) -> pl.DataFrame:
    """The table `schema.DIFFERENCES`: second minus first of every dataset, model, CAM and perturbation that both have.

    Args:
        first: one profile per dataset and model, or per dataset, model and perturbation.
        second: those of the other run.
        raw: also the measures that are not adjusted for chance.
    """
    measures = (*MEASURES, *RAW) if raw else MEASURES
    others = {_key(one): one for one in second}
    lines: list[Line] = []
    for one in first:
        other = others.get(_key(one))
        if other is not None:
            lines += _of_pair(one, other, measures)
    types = {"string": pl.String, "float64": pl.Float64, "int64": pl.Int64}
    table = pl.DataFrame(lines, schema={one.name: types[one.type] for one in DIFFERENCES}, orient="row")
    parts = [
        rows.with_columns(p_corrected=pl.Series(holm(rows["p"].fill_null(np.nan).to_numpy())))
        for rows in table.partition_by("measure", maintain_order=True)
    ]
    found = pl.concat([table.clear(), *parts]).with_columns(pl.col(pl.Float64).fill_nan(None))
    order = pl.col("measure").replace_strict({name: place for place, name in enumerate(measures)}, return_dtype=pl.Int8)
    return found.sort(order, pl.col("difference").abs(), descending=[False, True], nulls_last=True, maintain_order=True)


def _key(one: Profile) -> tuple[str, str, str | None]:
    return one.dataset, one.model, one.perturbation


def _of_pair(one: Profile, other: Profile, measures: Sequence[str]) -> list[Line]:
    places = {image: place for place, image in enumerate(other.images)}
    shared = [(place, places[image]) for place, image in enumerate(one.images) if image in places]
    paired = len(shared) >= FEWEST
    rows = tuple(map(list, zip(*shared, strict=True))) if paired else (slice(None), slice(None))
    lines = []
    for cam in one.cams:
        if cam not in other.cams:
            continue
        before, after = _Side(one, cam, rows[0], measures), _Side(other, cam, rows[1], measures)
        where = {"dataset": one.dataset, "model": one.model, "cam": cam, "perturbation": one.perturbation}
        counts = {"n_images": len(shared), "n_first": len(one.images), "n_second": len(other.images)}
        lines += [
            {**where, **counts, "measure": name, **_difference(before, after, name, paired=paired)} for name in measures
        ]
    return lines


class _Side:
    """One run's per-image values of one CAM; estimates, and how far each image pulls them."""

    def __init__(self, profile: Profile, cam: str, rows: Any, measures: Sequence[str]) -> None:
        place = profile.cams.index(cam)
        self.values = {name: profile.measure(name)[:, place].astype(np.float64)[rows] for name in measures}

    def estimate(self, name: str) -> tuple[float, Array]:
        """The mean over the images that have one, of RM the product of both, and its influence values."""
        _, product, suffix = name.partition("robustness")
        if not product:
            return _mean(self.values[name])
        (C, pull_c), (R, pull_r) = (_mean(self.values[f"{one}{suffix}"]) for one in ("consistency", "responsiveness"))
        return C * R, R * pull_c + C * pull_r


def _mean(values: Array) -> tuple[float, Array]:
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.full(len(values), np.nan)
    mean = float(values[known].mean())
    return mean, np.where(known, values - mean, 0) / known.mean()


def _difference(first: _Side, second: _Side, name: str, *, paired: bool) -> Line:
    (before, pull_before), (after, pull_after) = first.estimate(name), second.estimate(name)
    pulls = [pull_after - pull_before] if paired else [pull_before, pull_after]
    # Of fewer than two images no variance is known.
    variance = sum(float(pull.var(ddof=1)) / len(pull) if len(pull) > 1 else np.nan for pull in pulls)
    half = float(stdtrit(min(map(len, pulls)) - 1, (1 + LEVEL) / 2)) * np.sqrt(variance)
    difference = after - before
    line = {"first": before, "second": after, "difference": difference, "difference_lower": difference - half,
            "difference_upper": difference + half}  # fmt: skip
    x, y = first.values[name], second.values[name]
    if paired:
        changes = (y - x)[~np.isnan(x) & ~np.isnan(y)]
        if len(changes) < FEWEST:
            return line
        found = wilcoxon(changes)
        return line | {"test": "wilcoxon", "effect": found.effect, "p": found.p}
    x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    if min(len(x), len(y)) < FEWEST:
        return line
    found = cliffs_delta(y, x)
    return line | {"test": "cliffs_delta", "effect": found.effect, "p": found.p}
