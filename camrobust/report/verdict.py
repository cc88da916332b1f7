"""The first sentences of the report."""

from collections.abc import Mapping
from typing import Any

import polars as pl


def twins_of(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """Models and CAMs that give the same maps as a CAM before them."""
    return [{"model": model, "cam": cam} for model, same in run.get("same_as", {}).items() for cam in same]


def verdict(run: Mapping[str, Any], ranked: pl.DataFrame, by_level: pl.DataFrame) -> list[str]:
    """Two or three sentences that the numbers carry.

    Args:
        run: run.json.
        ranked: by_cam, best first.
        by_level: the summary table.
    """
    rows = ranked.filter(~pl.col("cam").is_in(list(run.get("controls", []))))
    if not rows.height:
        return ["No CAM was scored, so there is nothing to compare."]
    best = rows.row(0, named=True)
    return [_best(best, run), _flips(rows, twins_of(run)), *_worst(by_level, best)]


def _interval(row: Mapping[str, Any], name: str) -> str:
    if row[f"{name}_lower"] is None:
        return f"{row[name]:.2f} (too few images for an interval)"
    return f"{row[name]:.2f} (95 % interval {row[f'{name}_lower']:.2f} to {row[f'{name}_upper']:.2f})"


def _best(best: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    twins = [cam for cam, other in run.get("same_as", {}).get(best["model"], {}).items() if other == best["cam"]]
    also = f", which {', '.join(twins)} equal{'s' if len(twins) == 1 else ''} exactly here," if twins else ""
    who = f"{best['cam']}{also} on {best['model']} ({best['dataset']})"
    if best["robustness_adjusted"] is not None:
        return f"The highest adjusted robustness is that of {who}: {_interval(best, 'robustness_adjusted')}."
    if best["consistency_adjusted"] is not None:
        return (
            "No prediction flipped, so responsiveness and robustness cannot be measured. "
            f"The most consistent maps are those of {who}: {_interval(best, 'consistency_adjusted')}, adjusted."
        )
    return "No pair of maps could be compared; see the shares of flat maps and of flips in the table."


def _flips(rows: pl.DataFrame, twins: list[dict[str, str]]) -> str:
    pairs, rates = rows["n_pairs"].to_numpy(), rows["flip_rate"].to_numpy()
    flips = float((rates * pairs).sum() / max(1, pairs.sum()))
    overlap = rows.filter(pl.col("robustness_adjusted_lower").is_not_null() & ~pl.struct("model", "cam").is_in(twins))
    text = f"{flips:.0%} of the perturbed images changed their predicted class"
    if overlap.height > 1:
        reach = overlap["robustness_adjusted_lower"][0]
        level = int((overlap["robustness_adjusted_upper"][1:] >= reach).sum())
        text += f"; the intervals of {level} of the other {overlap.height - 1} rows overlap with that of the first"
        text += " (methods with the same maps counted once)" if twins else ""
    return text + "."


def _worst(by_level: pl.DataFrame, best: Mapping[str, Any]) -> list[str]:
    here = by_level.filter(
        (pl.col("model") == best["model"]) & (pl.col("cam") == best["cam"]) & (pl.col("dataset") == best["dataset"])
    ).drop_nulls("consistency_adjusted")
    if here.height < 2:
        return []
    worst = here.sort("consistency_adjusted").row(0, named=True)
    return [
        f"Its maps hold least under {worst['perturbation']} at {worst['parameter']}, where those that kept their class "
        f"agree to {worst['consistency_adjusted']:.2f} (1 = same ranking, 0 = chance)."
    ]
