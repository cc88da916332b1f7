import re

import numpy as np
import polars as pl
import pytest

from camrobust.contract.schema import MAPS
from camrobust.report.charts import severity_curves
from camrobust.report.diagrams import characteristics_chart, critical_differences
from camrobust.report.findings import characteristics_sentences, probability, test_sentences
from camrobust.report.headline import headline
from camrobust.report.page import build_report
from camrobust.summary.aggregate import SummarySettings, reduce_frame, summarise
from camrobust.summary.characteristics import characterise
from camrobust.summary.floor import TEST
from camrobust.summary.significance import significance_tests
from tests.report.test_page import run_of
from tests.summary.test_characteristics import photos
from tests.synthetic import failures, frame, scores

sentences = test_sentences
del test_sentences  # a function of the package, not a test


@pytest.fixture(scope="module")
def made():
    table = scores(images=25, cams=("a", "b", "random"), models=("m", "n"), datasets=("d", "e"), seed=1)
    pictures = photos(table)
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tables = {
        **reduction.tables,
        "tests": significance_tests(reduction.profiles, ["random"]),
        "characteristics": characterise(reduction.profiles, pictures),
    }
    return table, pictures, tables


def test_sentences_say_what_the_table_says(made):
    tests = made[2]["tests"]
    first, floor, *_ = sentences(tests, "consistency_adjusted")
    here = tests.filter(
        (pl.col("model") == "m") & (pl.col("dataset") == "d") & (pl.col("measure") == "consistency_adjusted")
        & (pl.col("factor") == "cam")
    )  # fmt: skip
    friedman = here.filter(pl.col("test") == "friedman").row(0, named=True)
    assert first.startswith("m on d, adjusted consistency, ")
    assert f"{friedman['n_images']} images that have a value for all 3 distinct CAMs" in first
    assert f"Kendall's W of the CAMs' ranks is {friedman['effect']:.2f}" in first
    ranks = here.filter((pl.col("test") == "mean_rank") & (pl.col("first") != "random")).sort("effect")
    assert f"{ranks['first'][0]} ranks first of the CAMs, {ranks['first'][1]} second" in first
    pair = here.filter(pl.col("test") == "wilcoxon").row(0, named=True)
    assert {pair["first"], pair["second"]} == {"a", "b"}
    assert f"{abs(pair['difference']):.3f}" in first
    above = here.filter((pl.col("test") == TEST) & (pl.col("p_corrected") < 0.05) & (pl.col("effect") > 0)).height
    assert floor == (
        f"m on d, adjusted consistency: {above} of 2 distinct CAMs exceed the control random (paired differences, 5 % "
        "level, Holm over 2 comparisons)."
    )
    assert "Cliff's δ" in sentences(tests, "consistency_adjusted")[-1]


def test_the_verdict_and_the_count_agree_where_all_cams_lie_far_above_the_floor():
    """The demo's page: eight images, nine CAMs, of which the maps lie far above those of the control."""
    names = tuple("abcdefghi")
    table = pl.concat([
        scores(images=8, cams=names, bad=0, seed=1),
        scores(images=8, cams=("random",), bad=0, seed=1).with_columns(pl.col("rbo", "rbo_adjusted") - 0.6),
    ])  # fmt: skip
    reduction, run = reduce_frame(table.lazy(), SummarySettings()), run_of(models=("m",), cams=(*names, "random"))
    tests = significance_tests(reduction.profiles, ["random"])
    said = "the smallest possible p is 0.0078, and Holm's correction over 9 comparisons makes that 0.070"
    told = [*headline(run, reduction.tables["by_cam"], reduction.tables["by_level"], tests),
            *sentences(tests, "consistency_adjusted")]  # fmt: skip
    assert "0 of 9" not in " ".join(told)
    assert sum(said in sentence for sentence in told) >= 1
    twins = {"m": dict.fromkeys(names[1:5], "a")}
    tests = significance_tests(reduction.profiles, ["random"], twins)
    (floor,) = (one for one in sentences(tests, "consistency_adjusted") if "exceed the control" in one)
    assert floor.startswith("m on d, adjusted consistency: 5 of 5 distinct CAMs exceed the control random")


def test_bands_are_those_of_one_cam_and_of_the_floor_where_all_would_hide_the_lines():
    for names, bands in ((("a", "b", "random"), 3), (("a", "b", "c", "random"), 2)):
        by_level = summarise(scores(images=14, cams=names, bad=0, flip=0.5, seed=1).lazy())["by_level"]
        drawn = dict(severity_curves(by_level, names, ["random"]).files())["curves.svg"].decode()
        assert len(re.findall(r'<path[^>]*"area mark" d="M[^"]', drawn)) == bands
        assert f"bands: 95 % intervals of {'all CAMs' if bands == 3 else 'a and of the floor'}<" in drawn


def test_dropped_images_are_said():
    table = scores(images=9, cams=("a", "b"), bad=0, flip=-1)
    table = table.filter(~((pl.col("cam") == "b") & (pl.col("image_id") == "image-2")))
    tests = significance_tests(reduce_frame(table.lazy(), SummarySettings()).profiles)
    assert "(1 other is left out)" in sentences(tests, "consistency_adjusted")[0]


def test_sentences_of_the_characteristics(made):
    table = made[2]["characteristics"]
    shares, strongest, between = characteristics_sentences(table, ["random"])
    rows = table.filter((pl.col("cam") != "random") & (pl.col("measure") == "consistency_adjusted"))
    rows = rows.filter(pl.col("dataset").is_not_null())
    assert f"{100 * rows.filter(pl.col('analysis') == 'all_properties')['share'].max():.0f} %" in shares
    assert f"{rows.filter(pl.col('analysis') == 'spearman')['effect'].abs().max():.2f}" in strongest
    assert "at the same number of segments by" in between
    assert "d - e" in between
    assert characteristics_sentences(table.clear(), []) == [
        "Too few images, or images too alike, to relate their characteristics to the stability of their maps."
    ]


def test_charts_hold_the_tables_numbers(made):
    tests, traits = made[2]["tests"], made[2]["characteristics"]
    ranks = str(critical_differences(tests).complete())
    for value in tests.filter((pl.col("test") == "mean_rank") & (pl.col("factor") == "cam"))["effect"]:
        assert f"{value:.2f}" in ranks
    assert "within the critical difference of" in ranks
    assert "pick_model" in ranks
    chart = characteristics_chart(traits, ["a", "b", "random"])
    assert str(round(traits.filter(pl.col("analysis") == "spearman")["effect"][0], 4)) in str(chart.complete())
    assert critical_differences(tests.clear()) is None
    assert characteristics_chart(traits.clear(), []) is None


@pytest.mark.parametrize("measure", ["robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted"])
def test_the_diagram_first_shows_the_measure_that_is_asked_for(made, measure):
    figure = critical_differences(made[2]["tests"], ["random"], measure)
    (shown,) = (one["value"] for one in figure.specification["params"] if one["name"] == "pick_measure")
    assert shown == {"robustness_adjusted": "adjusted RM", "consistency_adjusted": "adjusted consistency",
                     "responsiveness_adjusted": "adjusted responsiveness"}[measure]  # fmt: skip


def test_the_page_has_both_parts_and_still_builds_without_them(made):
    table, pictures, tables = made
    page = build_report(run_of(), tables, table.lazy(), pictures, failures(), frame(MAPS, [])).page
    assert "More than chance?" in page
    assert "The order by mean rank may differ from the leaderboard's order by mean" in page
    assert "What characteristics of the images explain" in page
    for name in ("curves", "heatmap", "ranks", "traits"):
        assert f'<figure id="{name}">' in page
    empty = {**tables, "tests": tables["tests"].clear(), "characteristics": tables["characteristics"].clear()}
    page = build_report(run_of(), empty, table.lazy(), pictures, failures(), frame(MAPS, [])).page
    assert "More than chance?" not in page
    assert "Too few images" in page


def test_probabilities_in_words():
    assert [probability(p) for p in (None, 0.0004, 0.0421)] == ["p unknown", "p < 0.001", "p = 0.042"]
    assert probability(float(np.float64(0.5))) == "p = 0.500"


def test_floors_and_twins_are_not_drawn_among_the_characteristics(made):
    table, pictures, tables = made
    run = run_of(models=("m", "n"), cams=("a", "b", "random"), same_as={"m": {}, "n": {"b": "a"}})
    report = build_report(run, tables, table.lazy(), pictures, failures(), frame(MAPS, []))
    drawn = {figure.name: figure.numbers for figure in report.figures}
    assert set(drawn["traits"].select("model", "cam").rows()) == {("m", "a"), ("m", "b"), ("n", "a")}
    assert ("n", "b") not in set(drawn["curves"].select("model", "cam").rows())
