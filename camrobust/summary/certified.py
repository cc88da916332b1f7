"""Certified consistency against the radius, from rows of certificates that need not all be in memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from camrobust.contract.certificates import CERTIFIED
from camrobust.summary.exact_sums import SMALL, Array, added, sums_at
from camrobust.summary.intervals import interval

GROUP = ("dataset", "model", "cam", "sigma", "radius_share", "radius", "item", "n", "alpha")
USED = (*GROUP, "class_radius", "abstained", "certified_rbo_adjusted", "flat_share", "undecided", "agreement_random",
        "agreement_attacked")  # fmt: skip
"""Columns that the summary reads."""


def certified_consistency(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The table `certificates.CERTIFIED`, sorted by group.

    An image counts with its certified adjusted RBO. It counts with 0 where that is below 0 or undefined, because then
    nothing beyond chance is guaranteed, and where its class is not certified at the radius.

    Args:
        tables: rows of `certificates.CERTIFICATES`, at least the columns `USED`; each is read when it is its turn.

    Returns:
        Estimates, and Student's t intervals over images; null where there are fewer than two. The order of the tables
        and of their rows changes no bit.
    """
    places: dict[tuple[object, ...], int] = {}
    sums = np.zeros((0, len(_SUMMED), len(SMALL)))
    for table in tables:
        if table.is_empty():
            continue
        keys = table.select(GROUP).unique()
        for key in keys.iter_rows():
            places.setdefault(key, len(places))
        more = len(places) - len(sums)
        sums = np.concatenate([sums, np.zeros((more, *sums.shape[1:]))])
        numbered = keys.with_columns(place=pl.Series([places[key] for key in keys.iter_rows()], dtype=pl.Int64))
        rows = table.join(numbered, on=GROUP, how="left").select("place", **_SUMMED)
        where = rows["place"].to_numpy()
        for number, name in enumerate(_SUMMED):
            sums[:, number] += sums_at(where, rows[name].to_numpy(), len(places), SMALL)
    groups = pl.DataFrame([*places], schema=_SCHEMA, orient="row")
    return _table(groups, dict(zip(_SUMMED, added(sums).T, strict=True)))


def class_is_certain(row: Mapping[str, Any]) -> bool:
    """Whether the class of a row of `certificates.CERTIFICATES` is certain within the row's radius."""
    return row["class_radius"] is not None and bool(row["class_radius"] > row["radius"])


_CERTIFIED = (pl.col("class_radius") > pl.col("radius")).fill_null(value=False)
SEEN = ("agreement_random", "agreement_attacked")


def _counted(name: str) -> pl.Expr:
    """A column as it counts in a mean: within [0, 1], and 0 where it is undefined."""
    return pl.col(name).cast(pl.Float64).fill_nan(0).fill_null(0).clip(0, 1)


_GUARANTEED = _counted("certified_rbo_adjusted") * _CERTIFIED
_SUMMED = {
    "images": pl.lit(1.0),
    "certified": _CERTIFIED.cast(pl.Float64),
    "value": _GUARANTEED,
    "square": _GUARANTEED.pow(2),
    "abstained": pl.col("abstained").cast(pl.Float64),
    "flat_share": _counted("flat_share"),
    "undecided": _counted("undecided"),
    **{name: _counted(name) for name in SEEN},
    **{f"{name}_only": _counted(name) * _CERTIFIED for name in SEEN},
    **{f"{name}_tried": pl.col(name).is_not_null().cast(pl.Float64) for name in SEEN},
    **{f"{name}_only_tried": (pl.col(name).is_not_null() & _CERTIFIED).cast(pl.Float64) for name in SEEN},
}
_MEANS = [f"{name}{end}" for name in SEEN for end in ("", "_only")]
_SCHEMA = dict.fromkeys(("dataset", "model", "cam"), pl.String) | {
    "sigma": pl.Float64, "radius_share": pl.Float64, "radius": pl.Float64, "item": pl.String, "n": pl.Int32,
    "alpha": pl.Float64,
}  # fmt: skip


def _table(groups: pl.DataFrame, sums: dict[str, Array]) -> pl.DataFrame:
    images, certified = sums["images"], sums["certified"]
    numbers = {
        **_mean("certified_consistency", images, sums["value"], sums["square"]),
        **_mean("certified_only", certified, sums["value"], sums["square"]),
        "class_certified_share": certified / images,
        "abstained_share": sums["abstained"] / images,
        "flat_share": sums["flat_share"] / images,
        "undecided": sums["undecided"] / images,
        **{name: sums[name] / np.where(sums[f"{name}_tried"], sums[f"{name}_tried"], np.nan) for name in _MEANS},
    }
    table = groups.rename({"n": "samples"}).with_columns(
        pl.col("samples").cast(pl.Int64),
        **{name: pl.Series(name, values, dtype=pl.Float64).fill_nan(None) for name, values in numbers.items()},
        n_images=pl.Series(images.astype(np.int64)),
        n_certified=pl.Series(certified.astype(np.int64)),
    )
    return table.select([column.name for column in CERTIFIED]).sort("dataset", "model", "cam", "sigma", "radius_share")


def _mean(name: str, count: Array, total: Array, squares: Array) -> dict[str, Array]:
    """A mean with its interval, within [0, 1]; NaN where it is undefined."""
    some, several = np.where(count > 0, count, np.nan), np.where(count > 1, count, np.nan)
    mean = total / some
    variance = np.maximum((squares - total**2 / several) / (several - 1), 0)
    lower, upper = interval(mean, variance / several, count, low=0, high=1)
    return {name: mean, f"{name}_lower": lower, f"{name}_upper": upper}
