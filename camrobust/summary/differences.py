"""What changed from one run to another, image by image: `camrobust compare`.

The estimates are those of the leaderboard with average macro, over the images of both runs. The interval of their
difference comes from the delta method, clustered by image: an image influences the estimates of both runs, and the
common part of its influence cancels. Runs that share fewer than two images are compared as independent samples.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from camrobust.contract.comparison_schema import DIFFERENCES
from camrobust.summary.influence import Side
from camrobust.summary.intervals import t_interval
from camrobust.summary.line_tables import Line, line_table
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import cliffs_delta, holm, wilcoxon

MEASURES = ("robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted")
RAW = ("robustness", "consistency", "responsiveness")
FEWEST = 2
"""Shared images that a paired comparison needs."""


def differences(first: Sequence[Profile], second: Sequence[Profile], *, raw: bool = False) -> pl.DataFrame:
    """The table `comparison_schema.DIFFERENCES`: second minus first by dataset, model, CAM and perturbation.

    Args:
        first: profiles of the first run, one per dataset and model, or per dataset, model and perturbation.
        second: profiles of the second run.
        raw: also compare the measures that are not adjusted for chance.
    """
    measures = (*MEASURES, *RAW) if raw else MEASURES
    seconds = {_key(profile): profile for profile in second}
    lines: list[Line] = []
    for profile in first:
        if _key(profile) in seconds:
            lines += _of_pair(profile, seconds[_key(profile)], measures)
    table = line_table(lines, DIFFERENCES)
    parts = [
        rows.with_columns(p_corrected=pl.Series(holm(rows["p"].fill_null(np.nan).to_numpy())))
        for rows in table.partition_by("measure", maintain_order=True)
    ]
    joined = pl.concat([table.clear(), *parts]).with_columns(pl.col(pl.Float64).fill_nan(None))
    order = pl.col("measure").replace_strict({name: place for place, name in enumerate(measures)}, return_dtype=pl.Int8)
    return joined.sort(
        order, pl.col("difference").abs(), descending=[False, True], nulls_last=True, maintain_order=True
    )


def _key(profile: Profile) -> tuple[str, str, str | None]:
    return profile.dataset, profile.model, profile.perturbation


def _of_pair(first: Profile, second: Profile, measures: Sequence[str]) -> list[Line]:
    places = {image: place for place, image in enumerate(second.images)}
    shared = [(place, places[image]) for place, image in enumerate(first.images) if image in places]
    paired = len(shared) >= FEWEST
    rows = tuple(map(list, zip(*shared, strict=True))) if paired else (slice(None), slice(None))
    lines = []
    for cam in first.cams:
        if cam not in second.cams:
            continue
        before, after = Side(first, cam, rows[0], measures), Side(second, cam, rows[1], measures)
        where = {"dataset": first.dataset, "model": first.model, "cam": cam, "perturbation": first.perturbation}
        counts = {"n_images": len(shared), "n_first": len(first.images), "n_second": len(second.images)}
        lines += [
            {**where, **counts, "measure": name, **_difference(before, after, name, paired=paired)} for name in measures
        ]
    return lines


def _difference(first: Side, second: Side, name: str, *, paired: bool) -> Line:
    (before, influence_before), (after, influence_after) = first.estimate(name), second.estimate(name)
    influences = [influence_after - influence_before] if paired else [influence_before, influence_after]
    # The variance of fewer than two images is unknown.
    variance = sum(float(each.var(ddof=1)) / len(each) if len(each) > 1 else np.nan for each in influences)
    difference = after - before
    lower, upper = t_interval(difference, np.sqrt(variance), min(map(len, influences)) - 1)
    line = {"first": before, "second": after, "difference": difference, "difference_lower": lower,
            "difference_upper": upper}  # fmt: skip
    x, y = first.values[name], second.values[name]
    if paired:
        changes = (y - x)[~np.isnan(x) & ~np.isnan(y)]
        if len(changes) < FEWEST:
            return line
        test = wilcoxon(changes)
        return line | {"test": "wilcoxon", "effect": test.effect, "p": test.p}
    x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    if min(len(x), len(y)) < FEWEST:
        return line
    test = cliffs_delta(y, x)
    return line | {"test": "cliffs_delta", "effect": test.effect, "p": test.p}
