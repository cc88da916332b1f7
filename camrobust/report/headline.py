"""The first sentences of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from camrobust.contract.heads import chooses_class
from camrobust.contract.run_record import DescribedRecord
from camrobust.contract.units import counted, percent
from camrobust.report.findings import estimate, probability
from camrobust.report.measure import NAMES, Floor, leading_measure
from camrobust.summary.treatments import treatments, twins_under


def twins_of(run: DescribedRecord) -> list[dict[str, str]]:
    """Models and CAMs that give the same maps as a CAM that stands for them."""
    return [{"model": model, "cam": cam} for model, cam in twins_under(run.models, run.cams, run.same_as)]


def headline(
    run: DescribedRecord, ranked: pl.DataFrame, by_level: pl.DataFrame, tests: pl.DataFrame | None = None
) -> list[str]:
    """Two or three sentences that say what the numbers show.

    Args:
        run: run.json or combined.json.
        ranked: the summary table by_cam, best first.
        by_level: the summary table.
        tests: `schema.TESTS`; None where there are none.
    """
    is_control = pl.col("cam").is_in(run.controls)
    is_twin = pl.struct("model", "cam").is_in(twins_of(run))
    rows, floors = ranked.filter(~is_control & ~is_twin), ranked.filter(is_control)
    if not rows.height:
        return ["No CAM was scored, so there is nothing to compare."]
    kept, best = kept_thing(run), rows.row(0, named=True)
    verdict = _verdict(rows, floors, run, tests)
    left_out = ["controls left out"] * (floors.height > 0)
    left_out += ["methods with the same maps counted once"] * (rows.height + floors.height < ranked.height)
    flips = _flips(rows, leading_measure(rows, ()), kept, left_out)
    return [*verdict, flips, *_worst(by_level, best, kept)]


def _interval(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    return estimate(row, name, digits) + (" (too few images for an interval)" if row[f"{name}_lower"] is None else "")


def _verdict(rows: pl.DataFrame, floors: pl.DataFrame, run: DescribedRecord, tests: pl.DataFrame | None) -> list[str]:
    """Which row is first, and whether that row, or any other, lies above its control."""
    best, measure = rows.row(0, named=True), leading_measure(rows, ())
    if best[measure] is None:
        return ["No pair of maps could be compared; see the shares of flat maps and of flips in the table."]
    unmeasured = "No prediction flipped, so responsiveness and RM cannot be measured. "
    before = "" if measure == "robustness_adjusted" else unmeasured
    who, value, name = _who(best, run), _interval(best, measure), NAMES[measure]
    control = _control(best, floors, measure)
    beside = f"; the control {control['cam']} has {_interval(control, measure)}" if control else ""
    first = f"{before}The highest {name} is that of {who}: {value}{beside}."
    if control is None:
        low = best[f"{measure}_lower"]
        more = "" if low is not None and low > 0 else " This is not shown to be more than chance."
        return [first + more]
    return [first, *_against_control(best, Floor.families(tests, measure), rows)]


def _who(best: Mapping[str, Any], run: DescribedRecord) -> str:
    twins = treatments(run.cams, run.same_as.get(best["model"], {})).get(best["cam"], [])
    also = f" ({' and '.join(twins)} give{'s' if len(twins) == 1 else ''} the same maps)" if twins else ""
    return f"{best['cam']}{also} on {best['model']} ({best['dataset']})"


def _control(row: Mapping[str, Any], floors: pl.DataFrame, measure: str) -> dict[str, Any] | None:
    """The highest control of the same model and dataset."""
    same = (pl.col("model") == row["model"]) & (pl.col("dataset") == row["dataset"])
    here = floors.filter(same).drop_nulls(measure).sort(measure, descending=True)
    return here.row(0, named=True) if here.height else None


def _against_control(
    best: Mapping[str, Any], families: Mapping[tuple[str, str], Floor], rows: pl.DataFrame
) -> list[str]:
    """The first row's paired difference from its control; then any other row that lies above its own."""
    family = families.get((best["model"], best["dataset"]), Floor([]))
    line = family.of_cam(best["cam"])
    if line is None:
        return []
    difference = f"Image by image it exceeds {line['second']} by {_interval(line, 'difference')}"
    if best["cam"] in family.above():
        p, many = probability(line["p_corrected"]), counted(family.comparisons, "comparison")
        return [f"{difference}: more than chance ({p} after Holm over {many})."]
    above = {key: other.above() for key, other in families.items()}
    others = [
        f"{row['cam']} on {row['model']} ({row['dataset']})"
        for row in rows.iter_rows(named=True)
        if row["cam"] in above.get((row["model"], row["dataset"]), ())
    ]
    told = [f"{others[0]} does exceed its control."] if others else []
    if not family.in_reach():
        return [f"{difference}; {family.why_not()}.", *told]
    p = probability(line["p_corrected"])
    if told:
        return [f"{difference}, which may be chance ({p} after Holm).", *told]
    return [f"{difference}, which may be chance ({p} after Holm): no CAM is shown to exceed the control."]


def kept_thing(run: DescribedRecord) -> str:
    """What a pair keeps where it did not flip: a class, unless a model of the run puts out labels or values."""
    return "class" if all(chooses_class(run.head_of(model)) for model in run.models) else "decision"


def _flips(rows: pl.DataFrame, measure: str, kept: str, left_out: Sequence[str]) -> str:
    pairs, rates = rows["n_pairs"].to_numpy(), rows["flip_rate"].fill_null(0).to_numpy()
    flips = float((rates * pairs).sum() / max(1, pairs.sum()))
    overlap = rows.drop_nulls(f"{measure}_lower")
    what = "their predicted class" if kept == "class" else f"the {kept}"
    text = f"{percent(flips)} of the perturbed images changed {what}"
    if overlap.height > 1:
        reach = overlap[f"{measure}_lower"][0]
        level = int((overlap[f"{measure}_upper"][1:] >= reach).sum())
        others = counted(overlap.height - 1, "other row")
        text += f"; the first row's interval overlaps with that of {level} of {others}"
        text += f" ({', '.join(left_out)})" if left_out else ""
    return text + "."


def _worst(by_level: pl.DataFrame, best: Mapping[str, Any], kept: str) -> list[str]:
    here = by_level.filter(
        (pl.col("model") == best["model"]) & (pl.col("cam") == best["cam"]) & (pl.col("dataset") == best["dataset"])
    ).drop_nulls("consistency_adjusted")
    if here.height < 2:
        return []
    worst = here.sort("consistency_adjusted").row(0, named=True)
    level = worst["strength"] if worst["severity"] is None else f"severity {worst['severity']} ({worst['strength']})"
    return [
        f"The maps of {best['cam']} are least stable under {worst['perturbation']} at {level}: where the {kept} was "
        f"kept, they agree to {worst['consistency_adjusted']:.2f} (1 = same ranking, 0 = chance)."
    ]
