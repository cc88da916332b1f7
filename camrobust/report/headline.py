"""The first sentences of the report."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from camrobust.contract.run_record import DescribedRecord
from camrobust.report.findings import estimate


def twins_of(run: DescribedRecord) -> list[dict[str, str]]:
    """Models and CAMs that give the same maps as a CAM before them."""
    return [{"model": model, "cam": cam} for model, twins in run.same_as.items() for cam in twins]


def headline(run: DescribedRecord, ranked: pl.DataFrame, by_level: pl.DataFrame) -> list[str]:
    """Two or three sentences that say what the numbers show.

    Args:
        run: run.json or combined.json.
        ranked: the summary table by_cam, best first.
        by_level: the summary table.
    """
    is_control = pl.col("cam").is_in(run.controls)
    rows, floors = ranked.filter(~is_control), ranked.filter(is_control)
    if not rows.height:
        return ["No CAM was scored, so there is nothing to compare."]
    kept = kept_thing(run)
    flips = _flips(rows, twins_of(run), kept, controls=floors.height > 0)
    return [_best(rows, floors, run), flips, *_worst(by_level, rows.row(0, named=True), kept)]


def _interval(row: Mapping[str, Any], name: str) -> str:
    return estimate(row, name) + (" (too few images for an interval)" if row[f"{name}_lower"] is None else "")


def _best(rows: pl.DataFrame, floors: pl.DataFrame, run: DescribedRecord) -> str:
    best = rows.row(0, named=True)
    if best["robustness_adjusted"] is not None:
        return _first(rows, floors, run, "robustness")
    if best["consistency_adjusted"] is not None:
        unmeasured = "No prediction flipped, so responsiveness and robustness cannot be measured. "
        return unmeasured + _first(rows, floors, run, "consistency")
    return "No pair of maps could be compared; see the shares of flat maps and of flips in the table."


def _first(rows: pl.DataFrame, floors: pl.DataFrame, run: DescribedRecord, what: str) -> str:
    """The first row beside its control, and whether that row, or any other, is more than chance."""
    best, measure = rows.row(0, named=True), f"{what}_adjusted"
    twins = [cam for cam, other in run.same_as.get(best["model"], {}).items() if other == best["cam"]]
    also = f" ({' and '.join(twins)} give{'s' if len(twins) == 1 else ''} the same maps)" if twins else ""
    who = f"{best['cam']}{also} on {best['model']} ({best['dataset']})"
    floor = _floor(best, floors, measure)
    value = _interval(best, measure)
    if floor is not None:
        value += f"; the control {floor['cam']} has {_interval(floor, measure)}"
    above = [_above(row, _floor(row, floors, measure), measure) for row in rows.iter_rows(named=True)]
    if above[0]:
        return f"The highest adjusted {what} is that of {who}: {value}."
    if any(above):
        return f"{who} has the highest adjusted {what}, but the interval does not rule out chance: {value}."
    more = "robust" if what == "robustness" else "consistent"
    return f"No CAM is shown to be more {more} than chance: the highest adjusted {what}, that of {who}, is {value}."


def _floor(row: Mapping[str, Any], floors: pl.DataFrame, measure: str) -> dict[str, Any] | None:
    """The highest control of the same model and dataset."""
    same = (pl.col("model") == row["model"]) & (pl.col("dataset") == row["dataset"])
    here = floors.filter(same).drop_nulls(measure).sort(measure, descending=True)
    return here.row(0, named=True) if here.height else None


def _above(row: Mapping[str, Any], floor: Mapping[str, Any] | None, measure: str) -> bool:
    """Whether its whole interval lies above its control's value and above 0; false without an interval."""
    low = row[f"{measure}_lower"]
    return low is not None and low > max(0.0, floor[measure] if floor else 0.0)


def kept_thing(run: DescribedRecord) -> str:
    """What a pair keeps where it did not flip: a class, unless a model of the run puts out labels or values."""
    kinds = {run.head_of(model).partition(":")[0] for model in run.models}
    return "class" if kinds <= {"softmax", "binary"} else "decision"


def _flips(rows: pl.DataFrame, twins: list[dict[str, str]], kept: str, *, controls: bool) -> str:
    pairs, rates = rows["n_pairs"].to_numpy(), rows["flip_rate"].fill_null(0).to_numpy()
    flips = float((rates * pairs).sum() / max(1, pairs.sum()))
    overlap = rows.filter(pl.col("robustness_adjusted_lower").is_not_null() & ~pl.struct("model", "cam").is_in(twins))
    what = "their predicted class" if kept == "class" else f"the {kept}"
    text = f"{flips:.0%} of the perturbed images changed {what}"
    if overlap.height > 1:
        reach = overlap["robustness_adjusted_lower"][0]
        level = int((overlap["robustness_adjusted_upper"][1:] >= reach).sum())
        text += f"; the intervals of {level} of the other {overlap.height - 1} rows overlap with that of the first"
        left_out = ["controls left out"] * controls + ["methods with the same maps counted once"] * bool(twins)
        text += f" ({', '.join(left_out)})" if left_out else ""
    return text + "."


def _worst(by_level: pl.DataFrame, best: Mapping[str, Any], kept: str) -> list[str]:
    here = by_level.filter(
        (pl.col("model") == best["model"]) & (pl.col("cam") == best["cam"]) & (pl.col("dataset") == best["dataset"])
    ).drop_nulls("consistency_adjusted")
    if here.height < 2:
        return []
    worst = here.sort("consistency_adjusted").row(0, named=True)
    return [
        f"Its maps are least stable under {worst['perturbation']} at {worst['strength']}: where the {kept} was kept, "
        f"they agree to {worst['consistency_adjusted']:.2f} (1 = same ranking, 0 = chance)."
    ]
