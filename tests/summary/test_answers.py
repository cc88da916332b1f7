"""Accuracy in the summary tables, against loops over rows, and Wilson's interval against scipy's."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest, norm

from camrobust.contract.schema import SCORES, SUMMARIES
from camrobust.summary.aggregate import SummarySettings, reduce_frame, summarise
from camrobust.summary.pairs import Placed
from tests.synthetic import frame, score_rows


def labelled_rows(seed=0, unlabelled=0.2, **keywords):
    """Score rows in which some images have a label and some predictions are it; logits are NaN now and then."""
    rows = score_rows(**{"images": 12, "models": ("m", "n"), "perturbations": ("p", "q"), "seed": seed} | keywords)
    generator = np.random.default_rng(seed)
    images = {row["image_id"]: int(generator.integers(3)) for row in rows}
    without = {image for image in images if generator.random() < unlabelled}
    clean = {(row["image_id"], row["model"]): int(generator.integers(3)) for row in rows}
    there = {}
    for row in rows:
        key = (row["image_id"], row["model"])
        variant = (*key, row["perturbation"], row["severity"])
        there.setdefault(variant, (int(generator.integers(3)), 0.5 if generator.random() > 0.1 else float("nan")))
        row |= {"label": None if row["image_id"] in without else images[row["image_id"]], "predicted_clean": clean[key]}
        row["predicted_perturbed"], row["confidence_perturbed"] = there[variant]
    return rows


def right(row, variant):
    known = not math.isnan(row[f"confidence_{variant}"])
    return known and row[f"predicted_{variant}"] == row["label"]


def wilson(answers):
    """The share of right answers and its interval, from (image, right) pairs, by loops."""
    images = {}
    for image, hit in answers:
        images.setdefault(image, []).append(hit)
    n = sum(map(len, images.values()))
    if not n:
        return None, None, None
    p = sum(hit for _, hit in answers) / n
    variance = sum((sum(hits) - p * len(hits)) ** 2 for hits in images.values()) / n**2
    effective = min(p * (1 - p) / variance, n) if 0 < p < 1 and variance > 1e-15 else len(images)
    z = norm.ppf(0.975)
    middle = (p + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z * math.sqrt(p * (1 - p) / effective + z * z / (4 * effective**2)) / (1 + z * z / effective)
    ends = (max(0, middle - half), min(1, middle + half)) if len(images) > 1 else (None, None)
    return p, *ends


@pytest.mark.parametrize("table", SUMMARIES)
@pytest.mark.parametrize("single", [True, False])
def test_accuracy_equals_a_loop_over_rows(table, single, monkeypatch):
    if not single:
        monkeypatch.setattr(Placed, "single", lambda *_: False)
    rows = labelled_rows(seed=3)
    found, keys = summarise(frame(SCORES, rows).lazy())[table], SUMMARIES[table]
    used = rows if "cam" in keys else [row for row in rows if row["cam"] != "random"]
    assert found["n_labelled"].min() > 0
    for line in found.iter_rows(named=True):
        members = [row for row in used if all(row[key] == line[key] for key in keys) and row["label"] is not None]
        assert line["n_labelled"] == len(members)
        for variant in ("clean", "perturbed"):
            share, low, high = wilson([(row["image_id"], right(row, variant)) for row in members])
            assert line[f"accuracy_{variant}"] == pytest.approx(share, abs=1e-12)
            assert line[f"accuracy_{variant}_lower"] == pytest.approx(low, abs=1e-9)
            assert line[f"accuracy_{variant}_upper"] == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize("hits", [0, 1, 17, 40])
def test_one_pair_per_image_has_the_interval_of_a_binomial(hits):
    rows = score_rows(images=40, cams=("gradcam",), levels=(1,))
    for place, row in enumerate(rows):
        row |= {"label": 1, "predicted_clean": 1 if place < hits else 0}
    line = summarise(frame(SCORES, rows).lazy())["by_cam"].row(0, named=True)
    wanted = binomtest(hits, 40).proportion_ci(method="wilson")
    assert (line["accuracy_clean_lower"], line["accuracy_clean_upper"]) == pytest.approx((wanted.low, wanted.high))


def test_without_labels_and_of_models_without_classes_there_is_no_accuracy():
    bare = summarise(frame(SCORES, score_rows()).lazy())["by_cam"]
    assert bare["accuracy_clean"].null_count() == bare.height
    assert bare["n_labelled"].sum() == bare["n_left_out"].sum() == 0
    rows = frame(SCORES, labelled_rows()).lazy()
    tables = reduce_frame(rows, SummarySettings(classless=frozenset({"n"}))).tables
    by_model = dict(tables["by_model"].select("model", "accuracy_clean").iter_rows())
    assert by_model["n"] is None
    alone = summarise(rows.filter(pl.col("model") == "m"))["by_dataset"]
    assert tables["by_dataset"]["accuracy_perturbed"].to_list() == alone["accuracy_perturbed"].to_list()


@pytest.mark.parametrize("single", [True, False])
def test_only_correct_equals_the_table_of_the_rows_that_are_left(single, monkeypatch):
    if not single:
        monkeypatch.setattr(Placed, "single", lambda *_: False)
    rows = frame(SCORES, labelled_rows(seed=5, bad=0.2))
    kept = rows.filter(pl.col("predicted_clean") == pl.col("label"))
    every = summarise(rows.lazy())
    found = reduce_frame(rows.lazy(), SummarySettings(only="correct"))
    wanted = reduce_frame(kept.lazy(), SummarySettings())
    own = ["n_left_out", "n_labelled", *(name for name in every["by_cam"].columns if name.startswith("accuracy"))]
    for name, keys in SUMMARIES.items():
        both = found.tables[name].join(wanted.tables[name], on=keys, nulls_equal=True, suffix=" wanted")
        assert both.height == wanted.tables[name].height > 0
        for column in wanted.tables[name].drop(*keys, *own, pl.selectors.string()).columns:
            np.testing.assert_allclose(both[column].to_numpy(), both[f"{column} wanted"].to_numpy(), atol=1e-12)
        assert found.tables[name].select(*keys, *own[1:]).equals(every[name].select(*keys, *own[1:]))
        assert (found.tables[name]["n_pairs"] + found.tables[name]["n_left_out"]).to_list() == every[name][
            "n_pairs"
        ].to_list()
    for mine, theirs in zip(found.profiles, wanted.profiles, strict=True):
        places = [mine.images.index(image) for image in theirs.images]
        for measure in mine.measures:
            np.testing.assert_array_equal(mine.measures[measure][places], theirs.measures[measure])
