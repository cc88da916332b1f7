"""Max-sensitivity and related metrics: maximum and mean of the columns `schema.STABILITY` over an image's variants.

The neighbourhood of an image consists of its variants in the run. For a narrow neighbourhood, filter the rows to one
perturbation and level with replicates.

`max_sensitivity` and `mean_sensitivity` are max- and avg-sensitivity (Yeh et al. 2019), `max_lipschitz` is the local
Lipschitz estimate (Alvarez-Melis & Jaakkola 2018), `max_continuity` the strongest variation (Montavon et al. 2018), and
`max_ris`, `max_ros` and `max_rrs` the relative stabilities (Agarwal et al. 2022).
"""

from collections.abc import Sequence

import polars as pl

from camrobust.contract.schema import IMAGE_STABILITY, STABILITY

IMAGE = ("dataset", "model", "cam", "image_id")


def extremes(columns: Sequence[str] = STABILITY) -> list[pl.Expr]:
    """Aggregations of score rows: `max_NAME` and `mean_NAME` of each column; null if no row has a value.

    Args:
        columns: names from `schema.STABILITY`.
    """
    defined = [(name, pl.col(name).fill_nan(None)) for name in columns]
    return [
        expression
        for name, values in defined
        for expression in (values.max().alias(f"max_{name}"), values.mean().alias(f"mean_{name}"))
    ]


def per_image(scores: pl.LazyFrame, by: Sequence[str] = IMAGE, *, same_class: bool = True) -> pl.LazyFrame:
    """One row per image, CAM and model with the columns of `schema.IMAGE_STABILITY`.

    Args:
        scores: rows as `schema.SCORES`.
        by: columns that name a group; add "perturbation" and "severity" for one neighbourhood each.
        same_class: use only variants that kept the predicted class, as Agarwal et al. do; the map of another class is
            expected to differ.

    Returns:
        The columns of the group, the number of variants used, and the maxima and means; sorted by group. A flat map
        has no value: it is neither stable nor unstable.
    """
    rows = scores.filter(pl.col("kept_class")) if same_class else scores
    counted = (pl.col("status") == "ok").sum().cast(pl.Int64).alias("n_pairs")
    grouped = rows.group_by(list(by)).agg(counted, *extremes())
    return grouped.select(*by, *(column.name for column in IMAGE_STABILITY)).sort(list(by), nulls_last=True)
