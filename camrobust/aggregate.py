"""Scores to summary tables: lazy, streaming, one pass over the rows.

Consistency is the mean agreement r over pairs that kept their class, responsiveness the mean of 1 - r over pairs whose
class flipped, robustness (RM) their product; raw from `rbo`, adjusted from `rbo_adjusted`. `macro` averages within an
image first, `micro` over all pairs. Where a group has no such pair the measure is null, never 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from camrobust.errors import UserError
from camrobust.schema import SUMMARIES, SUMMARY_COUNTS, SUMMARY_MEASURES
from camrobust.stats import Array, RatioSums, covariance, interval, product_variance

IMAGE = ("dataset", "image_id")
FORMS = {"": "rbo", "_adjusted": "rbo_adjusted"}
RANGE = {"": (0.0, 1.0), "_adjusted": (-np.inf, np.inf)}
"""Raw measures lie in [0, 1]. Adjusted ones are not clipped: less agreement than chance is below 0, and so 1 - r is
above 1."""


def scan_scores(files: Sequence[str], storage_options: dict[str, Any] | None = None) -> pl.LazyFrame:
    """The score rows of some files.

    Args:
        files: addresses below a scores/dataset=…/model=…/ folder.
        storage_options: what polars needs to open them.

    Raises:
        UserError: there are none.
    """
    if not files:
        raise UserError("scores: the run holds no score rows; see its failures, or run it again")
    schema = {"dataset": pl.String, "model": pl.String}
    return pl.scan_parquet(list(files), hive_partitioning=True, hive_schema=schema, storage_options=storage_options)


def summarise(
    scores: pl.LazyFrame, average: str = "macro", controls: Sequence[str] = ("random",), level: float = 0.95
) -> dict[str, pl.DataFrame]:
    """The summary tables of `schema.SUMMARIES`.

    Args:
        scores: rows as `schema.SCORES`.
        average: "macro" (per image first) or "micro" (over all pairs).
        controls: CAMs that explain nothing; they stay out of by_model and by_dataset, which average over CAMs.
        level: confidence of the intervals, (0, 1).

    Returns:
        By name: the group's columns, every measure of `schema.SUMMARY_MEASURES` with `_lower` and `_upper`, and the
        counts. The intervals are clustered by image: Student's t around linearised ratio estimates, the delta method
        for RM.

    Raises:
        ValueError: another average.
    """
    if average not in ("macro", "micro"):
        raise ValueError(f"summarise: average must be macro or micro, got '{average}'")
    tables = {}
    for name, keys in SUMMARIES.items():
        rows = scores if "cam" in keys else scores.filter(~pl.col("cam").is_in(list(controls)))
        sums = _sums(rows, keys, average).collect(engine="streaming")
        tables[name] = _table(sums, keys, level)
    return tables


def _per_image(rows: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Sums within every image of a group: s_, agreement over same pairs; f_, disagreement over flipped pairs."""
    ok, same = pl.col("status") == "ok", pl.col("same")
    measures = []
    for form, column in FORMS.items():
        r = pl.col(column).cast(pl.Float64)
        measures += [
            r.filter(ok & same).sum().alias(f"s{form}"),
            (1 - r).filter(ok & ~same).sum().alias(f"f{form}"),
            # Adjusted agreement is undefined where every segment is tied or there is one segment only.
            r.filter(ok & same).count().cast(pl.Float64).alias(f"ns{form}"),
            r.filter(ok & ~same).count().cast(pl.Float64).alias(f"nf{form}"),
        ]
    counts = [
        pl.len().alias("pairs"),
        (~same).sum().alias("flips"),
        (pl.col("status") == "flat_map").sum().alias("flat"),
        (pl.col("status") == "not_finite").sum().alias("bad"),
    ]
    group = list(dict.fromkeys((*keys, *IMAGE)))
    defined = [
        pl.when(pl.col(column).is_nan()).then(None).otherwise(pl.col(column)).alias(column) for column in FORMS.values()
    ]
    return rows.with_columns(defined).group_by(group).agg(*measures, *counts)


def _sums(rows: pl.LazyFrame, keys: Sequence[str], average: str) -> pl.LazyFrame:
    """What the estimates, variances and covariances of a group are made from."""
    images = _per_image(rows, keys)
    columns: list[pl.Expr] = []
    for form in FORMS:
        ratios = {}
        for side in ("s", "f"):
            total, count = pl.col(f"{side}{form}"), pl.col(f"n{side}{form}")
            has = count > 0
            if average == "macro":
                a = pl.when(has).then(total / count).otherwise(0.0)
                b = has.cast(pl.Float64)
            else:
                a, b = total, count
            ratios[side] = (a, b)
            names = (f"{side}{form}_{kind}" for kind in ("n", "a", "b", "aa", "ab", "bb"))
            parts = (has.cast(pl.Float64), a, b, a * a, a * b, b * b)
            columns += [part.sum().alias(name) for name, part in zip(names, parts, strict=True)]
        (a, b), (c, d) = ratios["s"], ratios["f"]
        crossed = {"ac": a * c, "ad": a * d, "bc": b * c, "bd": b * d}
        columns += [part.sum().alias(f"x{form}_{kind}") for kind, part in crossed.items()]
    counts = [
        pl.len().alias("n_images"),
        pl.col("pairs").sum().alias("n_pairs"),
        pl.col("ns").sum().cast(pl.Int64).alias("n_same"),
        pl.col("nf").sum().cast(pl.Int64).alias("n_flipped"),
        (pl.col("flips").sum() / pl.col("pairs").sum()).alias("flip_rate"),
        (pl.col("flat").sum() / pl.col("pairs").sum()).alias("flat_share"),
        (pl.col("bad").sum() / pl.col("pairs").sum()).alias("not_finite_share"),
    ]
    return images.group_by(list(keys)).agg(*columns, *counts)


def _table(sums: pl.DataFrame, keys: Sequence[str], level: float) -> pl.DataFrame:
    """Estimates with their intervals, in the order of the schema, sorted by group."""
    found: dict[str, Array] = {}
    total = sums["n_images"].cast(pl.Float64).to_numpy()
    for form in FORMS:
        column = {name: sums[name].to_numpy() for name in sums.columns if name.startswith((f"s{form}_", f"f{form}_"))}
        same, flipped = (_ratio(column, f"{side}{form}") for side in ("s", "f"))
        crossed = tuple(sums[f"x{form}_{kind}"].to_numpy() for kind in ("ac", "ad", "bc", "bd"))
        C, R = same.estimate, flipped.estimate
        var_c, var_r = same.variance(), flipped.variance()
        cov = covariance(same, flipped, crossed, total)  # type: ignore[arg-type]
        rows = (
            ("consistency", C, var_c, same.images),
            ("responsiveness", R, var_r, flipped.images),
            ("robustness", C * R, product_variance(C, R, var_c, var_r, cov), np.minimum(same.images, flipped.images)),
        )
        for name, estimate, variance, images in rows:
            found |= _with_bounds(f"{name}{form}", estimate, interval(estimate, variance, images, level, *RANGE[form]))
    measures = [f"{one.name}{end}" for one in SUMMARY_MEASURES for end in ("", "_lower", "_upper")]
    table = pl.DataFrame({name: found[name] for name in measures}).fill_nan(None)
    counts = sums.select(one.name for one in SUMMARY_COUNTS)
    joined = pl.concat([sums.select(keys), table, counts], how="horizontal")
    return joined.with_columns(pl.col("n_images", "n_pairs").cast(pl.Int64)).sort(keys, nulls_last=True)


def _with_bounds(name: str, estimate: Array, bounds: tuple[Array, Array]) -> Mapping[str, Array]:
    return {name: estimate, f"{name}_lower": bounds[0], f"{name}_upper": bounds[1]}


def _ratio(columns: Mapping[str, Array], prefix: str) -> RatioSums:
    return RatioSums(*(columns[f"{prefix}_{kind}"] for kind in ("n", "a", "b", "aa", "ab", "bb")))
