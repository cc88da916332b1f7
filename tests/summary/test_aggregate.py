import math

import numpy as np
import polars as pl
import pytest

from camrobust.contract.schema import (
    SCORES,
    SUMMARIES,
    SUMMARY_ACCURACY,
    SUMMARY_ATTACKS,
    SUMMARY_COUNTS,
    SUMMARY_MEASURES,
    SUMMARY_SPREAD,
    summary_columns,
)
from camrobust.summary.aggregate import SummarySettings, reduce_frame, reduce_scores, shares_kept, summarise
from camrobust.summary.pairs import Placed
from camrobust.summary.rows import blocks_of
from tests.reference.aggregate import group
from tests.synthetic import frame, score_rows, scores


def same_number(found, wanted):
    return (found is None and wanted is None) or (found is not None and math.isclose(found, wanted, abs_tol=1e-6))


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("table", SUMMARIES)
def test_every_table_equals_the_loops(table, average):
    rows = score_rows(images=7, models=("m", "n"), datasets=("d", "e"), perturbations=("p", "q"), seed=4)
    found = summarise(frame(SCORES, rows).lazy(), average)[table]
    keys = SUMMARIES[table]
    used = rows if "cam" in keys else [row for row in rows if row["cam"] != "random"]
    groups = {tuple(row[key] for key in keys) for row in used}
    assert found.height == len(groups)
    for line in found.iter_rows(named=True):
        members = [row for row in used if tuple(row[key] for key in keys) == tuple(line[key] for key in keys)]
        for form, column in (("", "rbo"), ("_adjusted", "rbo_adjusted")):
            for name, (value, low, high) in group(members, column, average).items():
                assert same_number(line[f"{name}{form}"], value), (name, form)
                assert same_number(line[f"{name}{form}_lower"], low), (name, form)
                assert same_number(line[f"{name}{form}_upper"], high), (name, form)
        ok = [row for row in members if row["status"] == "ok"]
        assert line["n_pairs"] == len(members)
        assert line["n_images"] == len({(row["dataset"], row["image_id"]) for row in members})
        assert line["n_same"] == sum(row["kept_class"] for row in ok)
        assert line["n_flipped"] == sum(not row["kept_class"] for row in ok)
        assert math.isclose(line["flip_rate"], sum(not row["kept_class"] for row in members) / len(members))
        for column, status in {"flat_share": "flat_map", "ambiguous_share": "ambiguous"}.items():
            assert math.isclose(line[column], sum(r["status"] == status for r in members) / len(members))
        assert math.isclose(line["not_finite_share"], sum(r["status"] == "not_finite" for r in members) / len(members))


def tiny(*pairs):
    """Rows of one CAM from (image, same, rbo)."""
    (row, *_) = score_rows(images=1, cams=("gradcam",), levels=(1,), bad=0)
    row |= {"status": "ok"}
    varying = [{"image_id": i, "kept_class": s, "rbo": r, "rbo_adjusted": r} for i, s, r in pairs]
    return frame(SCORES, [row | pair | {"replicate": n} for n, pair in enumerate(varying)])


def test_macro_and_micro_by_hand():
    table = tiny(("a", True, 1.0), ("a", True, 0.5), ("b", True, 0.25), ("a", False, 0.5), ("b", False, 0.0))
    macro, micro = (summarise(table.lazy(), average)["by_cam"].row(0, named=True) for average in ("macro", "micro"))
    assert macro["consistency"] == pytest.approx((0.75 + 0.25) / 2)
    assert micro["consistency"] == pytest.approx(1.75 / 3)
    assert macro["responsiveness"] == micro["responsiveness"] == pytest.approx(0.75)
    assert macro["robustness"] == pytest.approx(0.5 * 0.75)


def test_without_a_flip_responsiveness_and_rm_are_null_and_never_0_or_1():
    line = summarise(tiny(("a", True, 0.5), ("b", True, 0.7)).lazy())["by_cam"].row(0, named=True)
    assert line["consistency"] == pytest.approx(0.6)
    assert line["responsiveness"] is None
    assert line["robustness"] is None
    assert line["robustness_adjusted"] is None
    assert (line["n_same"], line["n_flipped"], line["flip_rate"]) == (2, 0, 0)
    line = summarise(tiny(("a", False, 0.5)).lazy())["by_cam"].row(0, named=True)
    assert line["consistency"] is None
    assert line["responsiveness"] == 0.5
    assert line["responsiveness_lower"] is None


def test_columns_are_the_schemas_and_rows_order_changes_nothing():
    table = scores(images=9, seed=2)
    first = summarise(table.lazy())
    second = summarise(table.sample(fraction=1, shuffle=True, seed=1).lazy())
    measures = [f"{measure.name}{end}" for measure in SUMMARY_MEASURES for end in ("", "_lower", "_upper")]
    accuracy = [f"{column.name}{end}" for column in SUMMARY_ACCURACY for end in ("", "_lower", "_upper")]
    others = [column.name for column in (*SUMMARY_SPREAD, *SUMMARY_COUNTS)] + accuracy + ["n_labelled"]
    for name, keys in SUMMARIES.items():
        more = {"by_level": ["attacked_cam"], "by_cam": [column.name for column in SUMMARY_ATTACKS]}
        assert first[name].columns == [*keys, *measures, *others, *more.get(name, [])]
        assert first[name].columns == [column.name for column in summary_columns(name)]
        assert first[name].drop(keys).to_numpy() == pytest.approx(second[name].drop(keys).to_numpy(), nan_ok=True)


def test_the_floor_stays_out_of_roll_ups_over_cams():
    table = scores(cams=("gradcam", "random"), bad=0)
    alone = scores(cams=("gradcam", "random"), bad=0).filter(pl.col("cam") == "gradcam")
    assert summarise(table.lazy())["by_model"].equals(summarise(alone.lazy())["by_model"])
    assert set(summarise(table.lazy())["by_cam"]["cam"]) == {"gradcam", "random"}


def test_intervals_cover_the_truth_in_95_of_100_samples():
    # Images differ in how easy they are, so pairs of one image are alike; an interval over pairs would be too short.
    generator = np.random.default_rng(0)
    repeats, images, pairs = 300, 40, 10
    ease = generator.normal(0, 0.12, (repeats, images, 1))
    same = generator.random((repeats, images, pairs)) < 0.6
    value = 0.5 + ease + generator.normal(0, 0.08, (repeats, images, pairs))
    grid = [axis.ravel() for axis in np.meshgrid(range(repeats), range(images), range(pairs), indexing="ij")]
    table = pl.DataFrame(
        {"dataset": [str(n) for n in grid[0]], "model": "m", "cam": "gradcam", "perturbation": "p", "severity": 1,
         "strength": "x", "image_id": [str(n) for n in grid[1]], "kept_class": same.ravel(), "status": "ok",
         "rbo": value.ravel(), "rbo_adjusted": value.ravel()}
    )  # fmt: skip
    for average in ("macro", "micro"):
        found = summarise(table.lazy(), average)["by_cam"]
        for name, truth in (("consistency", 0.5), ("responsiveness", 0.5), ("robustness", 0.25)):
            inside = (found[f"{name}_lower"] <= truth) & (found[f"{name}_upper"] >= truth)
            assert 0.91 <= inside.mean() <= 0.985, (average, name, inside.mean())


def test_median_and_deviation_are_over_the_means_of_images():
    rows = score_rows(images=31, perturbations=("p", "q"), seed=8)
    table = frame(SCORES, rows)
    for name in ("by_level", "by_cam"):
        for line in summarise(table.lazy())[name].iter_rows(named=True):
            here = table.filter(
                pl.all_horizontal(pl.col(key) == line[key] for key in SUMMARIES[name]) & (pl.col("status") == "ok")
            ).with_columns(pl.col("rbo", "rbo_adjusted").cast(pl.Float64))
            for side, same in (("consistency", True), ("responsiveness", False)):
                for form, column in (("", "rbo"), ("_adjusted", "rbo_adjusted")):
                    r = pl.col(column) if same else 1 - pl.col(column)
                    means = (
                        here.filter(pl.col("kept_class") == same)
                        .group_by("image_id")
                        .agg(r.mean().alias("mean"))["mean"]
                    )
                    assert line[f"{side}{form}_median"] == pytest.approx(means.median(), abs=0.0005 + 1e-9)
                    assert line[f"{side}{form}_sd"] == pytest.approx(means.std(), abs=1e-9)


def test_levels_with_and_without_replicates_come_out_alike(monkeypatch):
    table = scores(images=9, models=("m", "n"), perturbations=("p", "q"), seed=6)
    short = summarise(table.lazy())
    monkeypatch.setattr(Placed, "single", lambda *_: False)
    long = summarise(table.lazy())
    for name, keys in SUMMARIES.items():
        assert short[name].select(keys).equals(long[name].select(keys))
        np.testing.assert_allclose(
            *(one[name].select(pl.selectors.float()).to_numpy() for one in (short, long)), atol=1e-12
        )


def test_the_bootstrap_is_seeded_and_near_the_delta_method():
    table = scores(images=60, bad=0, seed=2)

    def by_cam(**settings):
        return reduce_frame(table.lazy(), SummarySettings(**settings)).tables["by_cam"].row(0, named=True)

    plain, resampled = by_cam(), by_cam(intervals="bootstrap")
    assert resampled == by_cam(intervals="bootstrap")
    assert resampled != by_cam(intervals="bootstrap", seed=1)
    for name in (measure.name for measure in SUMMARY_MEASURES):
        assert resampled[name] == plain[name]
        width = plain[f"{name}_upper"] - plain[f"{name}_lower"]
        for end in ("lower", "upper"):
            assert abs(resampled[f"{name}_{end}"] - plain[f"{name}_{end}"]) < 0.2 * width
    single = (
        reduce_frame(tiny(("a", True, 0.5)).lazy(), SummarySettings(intervals="bootstrap"))
        .tables["by_cam"]
        .row(0, named=True)
    )
    assert (single["consistency"], single["consistency_lower"]) == (0.5, None)


def test_a_share_of_the_images_is_kept_for_tests_and_always_the_same():
    table = scores(images=200)
    every = reduce_scores(blocks_of(table), SummarySettings()).profiles[0].images
    sample = reduce_scores(blocks_of(table.reverse()), SummarySettings(), {"d": 0.3}).profiles[0].images
    assert len(every) == 200
    assert 30 < len(sample) < 90
    assert sample == reduce_scores(blocks_of(table), SummarySettings(), {"d": 0.3}).profiles[0].images
    assert shares_kept({"d": 50_000, "e": 10}) == {"d": 0.2, "e": 1}
    assert shares_kept({}) == {}


def test_an_unknown_average_or_interval_is_refused():
    with pytest.raises(ValueError, match="summarise: average must be macro or micro, got 'mean'"):
        summarise(scores().lazy(), "mean")
    with pytest.raises(ValueError, match="summarise: intervals must be delta or bootstrap, got 'exact'"):
        reduce_frame(scores().lazy(), SummarySettings(intervals="exact"))
