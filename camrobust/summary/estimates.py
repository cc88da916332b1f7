"""The summary tables: estimates with intervals, spread and counts, from the moments of their groups."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from camrobust.contract.schema import SUMMARY_COUNTS, SUMMARY_MEASURES, SUMMARY_SPREAD
from camrobust.summary.answers import accuracy_table
from camrobust.summary.exact_sums import added
from camrobust.summary.intervals import RatioSums, covariance, interval, percentiles, product_variance
from camrobust.summary.moments import SIDES, Groups, medians
from camrobust.summary.pairs import FORMS, Array

RANGE = {"": (0.0, 1.0), "_adjusted": (-np.inf, np.inf)}
"""Raw measures lie in [0, 1]. Adjusted measures are not clipped: agreement below chance is negative, and then 1 - r
exceeds 1."""


def estimate_table(groups: Groups, keys: Sequence[str], level: float) -> pl.DataFrame:
    """One summary table, with the columns of `schema.summary_columns`, sorted by group.

    Args:
        groups: moments of the groups.
        keys: columns that name a group.
        level: confidence of the intervals, (0, 1).
    """
    columns = _spread(groups)
    for form, suffix in enumerate(FORMS):
        same, flipped = (RatioSums(*added(groups.moments[:, form, side, :6]).T) for side in range(len(SIDES)))
        C, R = same.estimate, flipped.estimate
        bounds = (
            _resampled(groups, form, (same, flipped), level)
            if groups.resamples
            else _linearised(groups, form, (same, flipped), level, RANGE[suffix])
        )
        for name, estimate in {"consistency": C, "responsiveness": R, "robustness": C * R}.items():
            low, high = bounds[name]
            columns |= {f"{name}{suffix}": estimate, f"{name}{suffix}_lower": low, f"{name}{suffix}_upper": high}
    names = [f"{measure.name}{end}" for measure in SUMMARY_MEASURES for end in ("", "_lower", "_upper")]
    names += [column.name for column in SUMMARY_SPREAD]
    table = pl.DataFrame({name: columns[name] for name in names}, schema=dict.fromkeys(names, pl.Float64)).fill_nan(
        None
    )
    schema = {key: pl.Int8 if key == "severity" else pl.String for key in keys}
    labels = pl.DataFrame(list(groups.keys), schema=schema, orient="row")
    parts = [labels, table, _counts(groups.counts), accuracy_table(groups.answers, level)]
    return pl.concat(parts, how="horizontal").sort(keys, nulls_last=True)


def _spread(groups: Groups) -> dict[str, Array]:
    """Median and standard deviation, over images, of the mean of each image."""
    spread = {f"{name}_median": values for name, values in medians(groups.histogram).items()}
    for form, suffix in enumerate(FORMS):
        for side, name in enumerate(SIDES):
            n, total, squares = (added(groups.moments[:, form, side, place]) for place in (0, 6, 7))
            several = np.where(n > 1, n, np.nan)
            variance = (squares - total**2 / several) / (several - 1)
            spread[f"{name}{suffix}_sd"] = np.sqrt(np.maximum(variance, 0))
    return spread


def _linearised(
    groups: Groups, form: int, sides: tuple[RatioSums, RatioSums], level: float, span: tuple[float, float]
) -> dict[str, tuple[Array, Array]]:
    """Bounds by Student's t around linearised ratio estimates, and by the delta method for RM."""
    same, flipped = sides
    C, R = same.estimate, flipped.estimate
    var_c, var_r = same.variance(), flipped.variance()
    ac, ad, bc, bd = added(groups.crossed[:, form]).T
    cov = covariance(same, flipped, (ac, ad, bc, bd), groups.counts[:, 0])
    fewer = np.minimum(same.images, flipped.images)
    return {
        "consistency": interval(C, var_c, same.images, level, *span),
        "responsiveness": interval(R, var_r, flipped.images, level, *span),
        "robustness": interval(C * R, product_variance(C, R, var_c, var_r, cov), fewer, level, *span),
    }


def _resampled(
    groups: Groups, form: int, sides: tuple[RatioSums, RatioSums], level: float
) -> dict[str, tuple[Array, Array]]:
    """Bounds by percentiles of a bootstrap over images."""
    a, b, c, d = added(groups.resampled[:, form]).transpose(1, 0, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        C, R = a / b, c / d
    images = [side.images for side in sides]
    return {
        "consistency": percentiles(C, images[0], level),
        "responsiveness": percentiles(R, images[1], level),
        "robustness": percentiles(C * R, np.minimum(*images), level),
    }


def _counts(counts: Array) -> pl.DataFrame:
    images, pairs, same, flipped, *events, left_out = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [images, pairs, same, flipped, *(event / pairs for event in events), left_out]
    types = {column.name: pl.Int64 if column.type == "int64" else pl.Float64 for column in SUMMARY_COUNTS}
    return pl.DataFrame(
        {name: column.astype(np.int64) if kind == pl.Int64 else column
         for (name, kind), column in zip(types.items(), columns, strict=True)},
        schema=types,
    ).fill_nan(None)  # fmt: skip
