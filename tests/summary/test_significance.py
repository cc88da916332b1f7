import numpy as np
import polars as pl
import pytest
from scipy import stats

from camrobust.contract.comparison_schema import TESTS
from camrobust.contract.schema import SCORES
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.ranktests import holm
from camrobust.summary.significance import NO_TWINS, significance_tests
from tests.synthetic import frame, score_rows, scores


def compared(table, same_as=NO_TWINS, controls=("random",)):
    return significance_tests(reduce_frame(table.lazy(), SummarySettings()).profiles, controls, same_as)


def test_columns_are_the_schemas_and_every_comparison_is_there():
    found = compared(scores(images=12, models=("m", "n"), datasets=("d", "e"), cams=("a", "b", "random"), seed=3))
    assert found.columns == [column.name for column in TESTS]
    kinds = found.group_by("factor", "test").agg(pl.len())
    here = {(factor, test): n for factor, test, n in kinds.rows()}
    measures = 3
    assert here["cam", "friedman"] == here["cam", "iman_davenport"] == 4 * measures
    assert here["cam", "nemenyi"] == here["cam", "conover"] == 4 * 3 * measures
    assert here["cam", "wilcoxon"] == 4 * measures
    assert here["cam", "wilcoxon_control"] == 4 * 2 * measures
    assert here["model", "wilcoxon"] == 2 * 3 * measures
    assert ("model", "friedman") not in here
    assert here["dataset", "kruskal_wallis"] == here["dataset", "cliffs_delta"] == 2 * 3 * measures


def test_the_image_is_the_block_averaged_first():
    rows = score_rows(images=9, cams=("a", "b"), bad=0, flip=-1, seed=5)
    line = compared(frame(SCORES, rows)).filter(
        (pl.col("test") == "wilcoxon") & (pl.col("measure") == "consistency_adjusted")
    ).row(0, named=True)  # fmt: skip
    means = {
        cam: np.array([
            np.mean([row["rbo_adjusted"] for row in rows if row["cam"] == cam and row["image_id"] == f"image-{n}"])
            for n in range(9)
        ])
        for cam in ("a", "b")
    }  # fmt: skip
    assert line["n_images"] == 9
    assert line["difference"] == pytest.approx((means["a"] - means["b"]).mean(), abs=1e-6)


def test_incomplete_blocks_are_left_out_and_counted():
    table = scores(images=10, cams=("a", "b", "c"), bad=0, flip=-1)
    cut = table.filter(~((pl.col("cam") == "b") & pl.col("image_id").is_in(["image-1", "image-4"])))
    found = compared(cut).filter((pl.col("measure") == "consistency_adjusted") & (pl.col("factor") == "cam"))
    assert set(found["n_images"]) == {8}
    assert set(found["n_dropped"]) == {2}
    assert compared(cut.filter(pl.col("cam") != "b"))["n_dropped"].sum() == 0


def test_p_is_corrected_within_one_comparison():
    found = compared(scores(images=20, cams=("a", "b", "c", "d"), models=("m", "n")))
    family = found.filter(
        (pl.col("test") == "wilcoxon") & (pl.col("factor") == "cam") & (pl.col("model") == "m")
        & (pl.col("measure") == "consistency_adjusted")
    )  # fmt: skip
    assert family.height == 6
    assert family["p_corrected"].to_numpy() == pytest.approx(holm(family["p"].to_numpy()))
    nemenyi = found.filter(pl.col("test") == "nemenyi")
    assert nemenyi["p"].to_list() == nemenyi["p_corrected"].to_list()


@pytest.mark.parametrize(
    "keywords",
    [{"images": 1}, {"cams": ("a",)}, {"flip": -1}, {"flip": 2}, {"bad": 2}, {"images": 2, "cams": ("a", "b", "c")}],
)
def test_degenerate_runs_have_a_table_without_nonsense(keywords):
    found = compared(scores(**keywords))
    assert found.columns == [column.name for column in TESTS]
    assert not found.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True)
    if keywords in ({"images": 1}, {"cams": ("a",)}, {"bad": 2}):
        assert found.is_empty()
    if keywords == {"flip": -1}:
        assert set(found["measure"]) == {"consistency_adjusted"}


def test_equal_maps_do_not_differ():
    rows = list(score_rows(images=6, cams=("a",), bad=0))
    twins = [*rows, *({**row, "cam": "b"} for row in rows), *({**row, "cam": "c"} for row in rows)]
    found = compared(frame(SCORES, twins)).filter(pl.col("factor") == "cam")
    pairs = found.filter(pl.col("test").is_in(["wilcoxon", "nemenyi"]))
    assert pairs.height == 3 * 2 * 3
    assert (pairs["effect"] == 0).all()
    assert (pairs["p"] > 0.999).all()
    assert found.filter(pl.col("test") == "friedman")["effect"].null_count() == 3


def test_the_difference_between_datasets_has_welchs_interval_and_within_one_that_of_a_paired_t():
    table = scores(images=30, cams=("a", "b"), datasets=("d", "e"), bad=0, flip=-1, seed=7)
    profiles = reduce_frame(table.lazy(), SummarySettings()).profiles
    found = significance_tests(profiles).filter(pl.col("measure") == "consistency_adjusted")
    a, b = (profiles[0].of_cam("consistency_adjusted", cam).astype(float) for cam in ("a", "b"))
    x, y = (profile.of_cam("consistency_adjusted", "a").astype(float) for profile in profiles)
    for test, wanted in (
        ("cliffs_delta", stats.ttest_ind(x, y, equal_var=False).confidence_interval()),
        ("wilcoxon", stats.ttest_rel(a, b).confidence_interval()),
    ):
        line = found.filter(pl.col("test") == test).row(0, named=True)
        assert (line["difference_lower"], line["difference_upper"]) == pytest.approx(
            (wanted.low, wanted.high), abs=1e-15
        )


def test_constant_datasets_have_a_difference_without_width():
    rows = [row | {"rbo_adjusted": 0.5, "dataset": name} for name in "de" for row in score_rows(bad=0, flip=-1)]
    found = compared(frame(SCORES, rows)).filter(
        (pl.col("test") == "cliffs_delta") & (pl.col("measure") == "consistency_adjusted")
    )
    assert found.height == 2
    assert set(found.select("difference", "difference_lower", "difference_upper").row(0)) == {0}


def wide(**keywords):
    """Three CAMs, of which two are the same maps under every model, and a control."""
    table = scores(cams=("a", "c", "random"), **keywords)
    return pl.concat([table, table.filter(pl.col("cam") == "a").with_columns(cam=pl.lit("b"))])


def test_methods_with_the_same_maps_are_one_treatment():
    table = wide(images=25, models=("m", "n"), datasets=("d", "e"), seed=2)
    found = compared(table, {name: {"b": "a"} for name in "mn"})
    without = compared(table.filter(pl.col("cam") != "b"))
    assert found.equals(without)
    assert {*found["first"].drop_nulls(), *found["second"].drop_nulls(), *found["cam"].drop_nulls()} == {
        "a", "c", "random", "m", "n", "d", "e"
    }  # fmt: skip


def test_models_are_compared_under_twins_that_do_not_coincide_in_all_of_them():
    table = wide(images=25, models=("m", "n"), seed=2)
    found = compared(table, {"m": {"b": "a"}, "n": {}})
    models = found.filter((pl.col("factor") == "model") & (pl.col("test") == "wilcoxon"))
    assert set(models["cam"]) == {"a", "b", "c", "random"}
    ranks = found.filter((pl.col("test") == "mean_rank") & (pl.col("factor") == "cam"))
    assert set(ranks.filter(pl.col("model") == "m")["first"]) == {"a", "c", "random"}
    assert set(ranks.filter(pl.col("model") == "n")["first"]) == {"a", "b", "c", "random"}


def test_comparisons_with_the_control_are_a_family_of_their_own():
    table = scores(images=30, cams=("a", "b", "c", "random"), seed=4)
    profile = reduce_frame(table.lazy(), SummarySettings()).profiles[0]
    found = compared(table)
    for measure in ("consistency_adjusted", "robustness_adjusted"):
        here = found.filter((pl.col("measure") == measure) & (pl.col("factor") == "cam"))
        family = here.filter(pl.col("test") == "wilcoxon_control")
        assert family.select("first", "second").rows() == [(cam, "random") for cam in "abc"]
        values = {cam: profile.of_cam(measure, cam).astype(float) for cam in ("a", "b", "c", "random")}
        for line in family.iter_rows(named=True):
            d = values[line["first"]] - values["random"]
            d = d[~np.isnan(d)]
            assert line["n_images"] == len(d)
            assert line["p"] == pytest.approx(stats.wilcoxon(d).pvalue)
        assert family["p_corrected"].to_numpy() == pytest.approx(holm(family["p"].to_numpy()))
        pairs = here.filter(pl.col("test") == "wilcoxon")
        assert "random" not in {*pairs["first"], *pairs["second"]}
        assert pairs["p_corrected"].to_numpy() == pytest.approx(holm(pairs["p"].to_numpy()))


def test_the_difference_from_the_control_is_that_of_the_leaderboard_with_the_interval_of_a_bootstrap():
    table = scores(images=60, cams=("a", "random"), seed=6, bad=0.02)
    reduction = reduce_frame(table.lazy(), SummarySettings())
    board = {row["cam"]: row for row in reduction.tables["by_cam"].iter_rows(named=True)}
    values = {cam: [reduction.profiles[0].of_cam(f"{side}_adjusted", cam).astype(float)
                    for side in ("consistency", "responsiveness")] for cam in board}  # fmt: skip
    generator = np.random.default_rng(0)
    for measure, sides in (("consistency_adjusted", [0]), ("robustness_adjusted", [0, 1])):
        row = compared(table).filter((pl.col("measure") == measure) & (pl.col("test") == "wilcoxon_control"))
        line = row.row(0, named=True)
        assert line["difference"] == pytest.approx(board["a"][measure] - board["random"][measure], abs=1e-6)
        drawn = []
        for _ in range(2000):
            chosen = generator.integers(0, 60, 60)
            a, floor = (np.prod([np.nanmean(values[cam][side][chosen]) for side in sides]) for cam in ("a", "random"))
            drawn.append(a - floor)
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert (line["difference_lower"], line["difference_upper"]) == pytest.approx(
            (low, high), abs=0.1 * (high - low)
        )
