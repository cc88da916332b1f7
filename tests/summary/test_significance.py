import numpy as np
import polars as pl
import pytest
from scipy import stats

from camrobust.contract.comparison_schema import TESTS
from camrobust.contract.schema import SCORES
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.ranktests import holm
from camrobust.summary.significance import significance_tests
from tests.synthetic import frame, score_rows, scores


def compared(table, **settings):
    return significance_tests(reduce_frame(table.lazy(), SummarySettings(**settings)).profiles)


def test_columns_are_the_schemas_and_every_comparison_is_there():
    found = compared(scores(images=12, models=("m", "n"), datasets=("d", "e"), cams=("a", "b", "random"), seed=3))
    assert found.columns == [column.name for column in TESTS]
    kinds = found.group_by("factor", "test").agg(pl.len())
    here = {(factor, test): n for factor, test, n in kinds.rows()}
    measures = 3
    assert here["cam", "friedman"] == here["cam", "iman_davenport"] == 4 * measures
    assert here["cam", "wilcoxon"] == here["cam", "nemenyi"] == here["cam", "conover"] == 4 * 3 * measures
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
