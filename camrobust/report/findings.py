"""Sentences about the tests and the characteristics; effect sizes and intervals come first."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from camrobust.contract.units import counted
from camrobust.report.measure import LEVEL, NAMES, Floor
from camrobust.summary.floor import TEST

GROUPS_SHOWN, ROWS_SHOWN = 40, 50
"""Most pairs of a model and a dataset in a table of tests, and most comparisons of each."""
SHOWN = 4
"""Most groups that sentences are written for; the tables have all."""
Row = Mapping[str, Any]


def probability(p: float | None) -> str:
    """A p-value as it is written in a sentence."""
    return "p unknown" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def estimate(row: Row, name: str, digits: int = 2) -> str:
    """A value and its interval as they are written in a sentence."""
    if row[name] is None:
        return "unknown"
    value = f"{row[name]:.{digits}f}"
    low, high = row[f"{name}_lower"], row[f"{name}_upper"]
    return value if low is None or high is None else f"{value} (95 % interval {low:.{digits}f} to {high:.{digits}f})"


def accuracy_sentences(by_model: pl.DataFrame) -> list[str]:
    """Say how often each model is right, and what `summary.only` leaves out.

    Args:
        by_model: the summary table.
    """
    known = by_model.drop_nulls("accuracy_clean")
    sentences = [
        f"{row['model']} on {row['dataset']} predicts the label of {_share(row, 'accuracy_clean')} of the clean images "
        f"and of {_share(row, 'accuracy_perturbed')} of the perturbed ones."
        for row in known.head(SHOWN).iter_rows(named=True)
    ]
    if known.height > SHOWN:
        more = counted(known.height - SHOWN, "more model")
        sentences.append(f"The accuracy of {more} is in summary/by_model.csv.")
    left_out, kept = int(by_model["n_left_out"].sum()), int(by_model["n_pairs"].sum())
    if left_out:
        sentences.append(
            f"All numbers but accuracy leave out {left_out:,} of {left_out + kept:,} pairs, because the model gets "
            "their clean image wrong or it has no label (summary.only: correct)."
        )
    return sentences


def _share(row: Row, name: str) -> str:
    low, high = row[f"{name}_lower"], row[f"{name}_upper"]
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f} %)"
    return f"{100 * row[name]:.1f} %{interval}"


def test_sentences(tests: pl.DataFrame, measure: str) -> list[str]:
    """Say which differences are more than chance.

    Args:
        tests: `comparison_schema.TESTS`.
        measure: the one that orders the leaderboard.
    """
    groups = tests.filter(pl.col("factor") == "cam").select("dataset", "model").unique(maintain_order=True)
    sentences, families = [], Floor.families(tests, measure)
    for dataset, model in groups.head(SHOWN).iter_rows():
        here = tests.filter(
            (pl.col("dataset") == dataset)
            & (pl.col("model") == model)
            & (pl.col("factor") == "cam")
            & (pl.col("measure") == measure)
        )
        where = f"{model} on {dataset}, {NAMES[measure]}"
        sentences += _cams(here, where) + floor_sentence(families.get((model, dataset), Floor([])), where)
    if groups.height > SHOWN:
        more = counted(groups.height - SHOWN, "more pair of a model and a dataset is",
                       "more pairs of a model and a dataset are")  # fmt: skip
        sentences.append(f"{more} in summary/tests.csv.")
    return [*sentences, *_others(tests, measure)]


def _cams(here: pl.DataFrame, where: str) -> list[str]:
    ranks = here.filter(pl.col("test") == "mean_rank").sort("effect", "first")
    if ranks.is_empty():
        return []
    n, dropped = int(ranks["n_images"][0]), int(ranks["n_dropped"][0])
    images = counted(n, "image that has", "images that have")
    text = f"{where}, over {images} a value for all {ranks.height} distinct CAMs"
    left_out = "1 other is" if dropped == 1 else f"{dropped:,} others are"
    text += f" ({left_out} left out): " if dropped else ": "
    omnibus = here.filter(pl.col("test") == "friedman")
    if omnibus.height:
        text += _omnibus(omnibus.row(0, named=True), here.filter(pl.col("test") == "iman_davenport"))
    return [text + _first_two(here.filter(pl.col("test") == "wilcoxon"), ranks)]


def floor_sentence(family: Floor, where: str) -> list[str]:
    """How many CAMs lie above the control; why no number can be given where there are too few images."""
    if not family.rows:
        return []
    controls = " and ".join(dict.fromkeys(row["second"] for row in family.rows))
    cams, comparisons = counted(len(family.cams), "distinct CAM"), counted(family.comparisons, "comparison")
    if family.in_reach():
        many = len(family.above())
        above = f"{many} of {cams} {'exceeds' if many == 1 else 'exceed'} the control {controls}"
        return [f"{where}: {above} (paired differences, 5 % level, Holm over {comparisons})."]
    clear = (
        f"the interval of the difference from the control {controls} lies above 0 for {len(family.clear())} of {cams}"
    )
    return [f"{where}: {clear}; {family.why_not()}."]


def test_tables(tests: pl.DataFrame, measure: str) -> list[dict[str, Any]]:
    """The comparisons that a reader asks for first: every CAM with the control, and the first CAM with every other."""
    here = tests.filter((pl.col("factor") == "cam") & (pl.col("measure") == measure))
    floor, pairs = [], []
    groups = here.partition_by("dataset", "model", as_dict=True, maintain_order=True)
    for (dataset, model), group in [*groups.items()][:GROUPS_SHOWN]:
        where = {"dataset": dataset, "model": model}
        compared = group.filter(pl.col("test") == TEST).sort("difference", descending=True, nulls_last=True)
        compared = compared.head(ROWS_SHOWN)
        floor.append({**where, "rows": [_test_row(row) for row in compared.iter_rows(named=True)]})
        pairs.append({**where, "rows": [_test_row(row) for row in _first_and_others(group)]})
    tables = (
        ("Every CAM against the control", "Holm over the comparisons of a model on a dataset. CAMs with the same maps "
         "are one.", floor),
        ("The first CAM by mean rank against the others", "Holm over all pairs of a model on a dataset.", pairs),
    )  # fmt: skip
    found = [
        {"title": title, "remark": remark, "groups": [group for group in groups if group["rows"]]}
        for title, remark, groups in tables
    ]
    return [table for table in found if table["groups"]]


def _first_and_others(group: pl.DataFrame) -> list[Row]:
    """The pairs of the CAM with the best mean rank, in the order of the others' ranks."""
    pairs = group.filter(pl.col("test") == "wilcoxon")
    compared = {*pairs["first"], *pairs["second"]}
    ranks = group.filter((pl.col("test") == "mean_rank") & pl.col("first").is_in(list(compared))).sort(
        "effect", "first"
    )
    names = ranks["first"].to_list()
    found = [_pair(pairs, names[0], other) for other in names[1 : ROWS_SHOWN + 1]]
    return [row for row in found if row is not None]


def _test_row(row: Row) -> dict[str, Any]:
    """A line of the table on the page."""
    cells = {
        name: {"value": row[name], "lower": row[f"{name}_lower"], "upper": row[f"{name}_upper"]}
        for name in ("difference", "effect")
    }
    kept = {name: row[name] for name in ("first", "second", "p", "p_corrected", "n_images")}
    # Not "clear": a template would find the method of that name.
    return kept | cells | {"is_clear": row["p_corrected"] is not None and row["p_corrected"] < LEVEL}


def _omnibus(friedman: Row, others: pl.DataFrame) -> str:
    """The tests of all CAMs at once."""
    if friedman["effect"] is None or friedman["statistic"] is None or others.is_empty():
        return ""
    other = others.row(0, named=True)
    F = "∞" if other["statistic"] is None else f"{other['statistic']:.1f}"
    return (
        f"Kendall's W of the CAMs' ranks is {friedman['effect']:.2f} (0 = images rank them at random, 1 = all alike; "
        f"Friedman χ² = {friedman['statistic']:.1f}, Iman-Davenport F = {F}, {probability(other['p'])}). "
    )


def _pair(pairs: pl.DataFrame, first: str, second: str) -> Row | None:
    """A pair's row, turned so that the first comes first."""
    for a, b, sign in ((first, second, 1), (second, first, -1)):
        row = pairs.filter((pl.col("first") == a) & (pl.col("second") == b))
        if row.height:
            pair = row.row(0, named=True)
            return pair if sign == 1 else _turned(pair)
    return None


def _turned(pair: Row) -> Row:
    """The same pair with the second first."""
    turned = {**pair, "first": pair["second"], "second": pair["first"]}
    for name in ("effect", "difference"):
        for end, other in (("", ""), ("_lower", "_upper"), ("_upper", "_lower")):
            value = pair[f"{name}{other}"]
            turned[f"{name}{end}"] = None if value is None else -value
    return turned


def _first_two(pairs: pl.DataFrame, ranks: pl.DataFrame) -> str:
    compared = {*pairs["first"], *pairs["second"]}
    best, second = [*(cam for cam in ranks["first"].to_list() if cam in compared), None, None][:2]
    row = None if best is None or second is None else _pair(pairs, best, second)
    if row is None:
        return ""
    first = ranks.filter(pl.col("first").is_in([best, second]))["effect"]
    order = (
        f"{best} ranks first of the CAMs, {second} second"
        if first.n_unique() > 1
        else f"{best} and {second} rank first"
    )
    return (
        f"{order}; their difference is {estimate(row, 'difference', 3)}, "
        f"rank-biserial {estimate(row, 'effect')}, {probability(row['p_corrected'])} after Holm."
    )


def _others(tests: pl.DataFrame, measure: str) -> list[str]:
    """The largest difference between two models (within images) and between two datasets."""
    sentences = []
    for factor, test, name in (("model", "wilcoxon", "rank-biserial"), ("dataset", "cliffs_delta", "Cliff's δ")):
        rows = tests.filter(
            (pl.col("factor") == factor) & (pl.col("test") == test) & (pl.col("measure") == measure)
        ).sort(pl.col("effect").abs(), descending=True, nulls_last=True)
        if rows.height:
            row = rows.row(0, named=True)
            where = row["cam"] if factor == "model" else f"{row['cam']} of {row['model']}"
            sentences.append(
                f"The largest difference in {NAMES[measure]} between two {factor}s is that of {row['first']} and "
                f"{row['second']} ({where}): {estimate(row, 'difference', 3)}, {name} {estimate(row, 'effect')}, "
                f"{probability(row['p_corrected'])} after Holm, {counted(row['n_images'], 'image')}."
            )
    return sentences


def characteristics_sentences(characteristics: pl.DataFrame, controls: Sequence[str]) -> list[str]:
    """Say how much the characteristics of images explain of the stability of maps.

    Args:
        characteristics: `comparison_schema.CHARACTERISTICS`.
        controls: CAMs that are a floor; they are left out.
    """
    rows = characteristics.filter(
        ~pl.col("cam").is_in(list(controls))
        & (pl.col("family") == "all")
        & (pl.col("measure") == "consistency_adjusted")
    )
    if rows.is_empty():
        return ["Too few images, or images too alike, to relate their characteristics to the stability of their maps."]
    return [*_shares(rows), *_strongest(rows), *_between(rows)]


def _shares(rows: pl.DataFrame) -> list[str]:
    whole = rows.filter(pl.col("analysis") == "all_properties")
    whole = whole.drop_nulls(["dataset", "share", "share_lower", "share_upper"]).sort("share")
    if whole.is_empty():
        return []
    least, most = whole.row(0, named=True), whole.row(-1, named=True)
    return [
        "Together the properties of an image, and the model's confidence in it, explain between "
        f"{_percent(least)} ({least['cam']} of {least['model']} on {least['dataset']}) and {_percent(most)} "
        f"({most['cam']} of {most['model']} on {most['dataset']}) of the variance of its maps' consistency."
    ]


def _percent(row: Row) -> str:
    share, low, high = (100 * row[name] for name in ("share", "share_lower", "share_upper"))
    return f"{share:.0f} % (95 % interval {low:.0f} to {high:.0f} %)"


def _strongest(rows: pl.DataFrame) -> list[str]:
    alone = rows.filter(pl.col("analysis") == "spearman").drop_nulls(["dataset", "effect", "property"])
    if alone.is_empty():
        return []
    row = alone.sort(pl.col("effect").abs(), descending=True).row(0, named=True)
    clear = int((alone["p_corrected"] < LEVEL).sum())
    return [
        f"The property most strongly tied to consistency is {row['property']}: rank correlation "
        f"{estimate(row, 'effect')} for {row['cam']} of {row['model']} on {row['dataset']} "
        f"({counted(row['n_images'], 'image')}); {clear} of {alone.height} correlations differ from 0 at 5 % after "
        "Holm."
    ]


def _between(rows: pl.DataFrame) -> list[str]:
    keys = ["model", "cam", "property"]
    plain, given = (rows.filter(pl.col("analysis") == name) for name in ("dataset", "dataset_given_segments"))
    both = plain.join(given, on=keys, suffix="_given").sort(pl.col("effect").abs(), descending=True)
    if both.is_empty():
        return []
    row = both.row(0, named=True)
    after = {name: row[f"{name}_given"] for name in ("effect", "effect_lower", "effect_upper")}
    return [
        f"Between datasets the consistency of {row['cam']} of {row['model']} differs by {estimate(row, 'effect', 3)} "
        f"({row['property']}), and at the same number of segments by {estimate(after, 'effect', 3)}."
    ]
