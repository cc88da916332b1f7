"""`camrobust bench signs RUN`: how often the maps of a run turned into their opposite, by model and CAM."""

from typing import Any

import polars as pl

from camrobust.contract.errors import UserError
from camrobust.results.folder import open_run

REVERSED = -0.5
"""Pearson's correlation of two maps below which one is the other's opposite."""


def signs(output: str) -> list[dict[str, Any]]:
    """Count the pairs of a run whose maps are opposites, and those that were not compared.

    Args:
        output: address of the run folder.

    Returns:
        One row per model and CAM: pairs; `opposite`, those with a Pearson correlation below `REVERSED`; `ambiguous` and
        `flat`, those with that status.

    Raises:
        UserError: there is no run in this folder, or it has no score rows.
    """
    folder = open_run(output)
    rows = folder.scores(folder.committed())
    if not rows.height:
        raise UserError(f"bench signs: {output} has no score rows; run a configuration with this output first")
    counted = rows.group_by("model", "cam").agg(
        pl.len().alias("pairs"),
        (pl.col("pearson") < REVERSED).sum().alias("opposite"),
        (pl.col("status") == "ambiguous").sum().alias("ambiguous"),
        (pl.col("status") == "flat_map").sum().alias("flat"),
    )
    return counted.sort("model", "cam").to_dicts()
