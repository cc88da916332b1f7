"""Does an image id stand for the same photo in two runs? By what the images table says of each."""

import polars as pl

SIZES = ("width", "height")
ROUNDING = {
    "brightness": 1e-4,
    "contrast": 1e-4,
    "colourfulness": 0.02,
    "edge_density": 1e-4,
    "high_frequency": 1e-4,
}
"""Property to a difference that says nothing, in its own unit."""
SHARE = 1e-3
"""Of the larger value: what properties may differ by besides. Decoders and resizers of other versions round pixels
otherwise; two photos hardly come so close in all five properties."""


def other_photos(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """The images that both runs have, and whether their id stands for different photos.

    Args:
        first: rows as `schema.IMAGES`.
        second: those of the other run.

    Returns:
        dataset, image_id and other: sizes differ, or a property does by more than rounding. What is null or NaN on a
        side tells nothing.
    """
    keys = ["dataset", "image_id"]
    mine, theirs = (one.select(*keys, *SIZES, *ROUNDING).unique(keys, keep="first") for one in (first, second))
    both = mine.join(theirs, on=keys, suffix="'")
    sizes = [pl.col(name) != pl.col(f"{name}'") for name in SIZES]
    return both.select(*keys, other=pl.any_horizontal(*sizes, *map(_differs, ROUNDING)).fill_null(value=False)).sort(
        keys
    )


def _differs(name: str) -> pl.Expr:
    one, other = (pl.col(column).cast(pl.Float64).fill_nan(None) for column in (name, f"{name}'"))
    return (one - other).abs() > ROUNDING[name] + SHARE * pl.max_horizontal(one.abs(), other.abs())
