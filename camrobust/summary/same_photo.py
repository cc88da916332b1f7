"""Does an image id stand for the same photo in two runs? Sizes and properties in the images table decide."""

import polars as pl

SIZES = ("width", "height")
ROUNDING = {
    "brightness": 1e-4,
    "contrast": 1e-4,
    "colourfulness": 0.02,
    "edge_density": 1e-4,
    "high_frequency": 1e-4,
}
"""Largest difference of a property between two readings of one photo, in the unit of the property."""
SHARE = 1e-3
"""Properties may also differ by this share of the larger value, because versions of decoders and resizers round pixels
differently. Two different photos are very unlikely to be so close in all five properties."""


def other_photos(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """The images of both runs, and whether their id stands for different photos.

    Args:
        first: rows as `schema.IMAGES`.
        second: rows of the other run.

    Returns:
        dataset, image_id and other: true if a size differs, or if a property differs by more than rounding. A size or
        property that is null or NaN in one run is not compared.
    """
    keys = ["dataset", "image_id"]
    mine, theirs = (rows.select(*keys, *SIZES, *ROUNDING).unique(keys, keep="first") for rows in (first, second))
    both = mine.join(theirs, on=keys, suffix="'")
    sizes = [pl.col(name) != pl.col(f"{name}'") for name in SIZES]
    return both.select(*keys, other=pl.any_horizontal(*sizes, *map(_differs, ROUNDING)).fill_null(value=False)).sort(
        keys
    )


def _differs(name: str) -> pl.Expr:
    mine, theirs = (pl.col(column).cast(pl.Float64).fill_nan(None) for column in (name, f"{name}'"))
    return (mine - theirs).abs() > ROUNDING[name] + SHARE * pl.max_horizontal(mine.abs(), theirs.abs())
