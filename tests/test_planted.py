"""Planted truths come out of the whole job: from made-up rows, from tensors, and from a run folder."""

import numpy as np
import polars as pl
import pytest
import yaml

import camrobust
from camrobust.contract.schema import IMAGES, SCORES
from camrobust.run.summarise import summaries
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.characteristics import characterise
from camrobust.summary.significance import significance_tests
from tests import in_process, toys
from tests.interface.test_api import images as pictures
from tests.photos import write_photos
from tests.runs import report
from tests.synthetic import frame

NOISE = ["gaussian_noise:2", {"gaussian_noise": [4], "replicates": 3}]


def upside_down(m, p=0.9):
    """RBO_ext of a ranking of m segments with its reverse: the top d have max(0, 2d - m) segments in common."""
    total = sum(max(0, 2 * d - m) / d * p**d for d in range(1, m + 1))
    return p**m + (1 - p) / p * total


def holds(line, name, truth, slack=0.0):
    low, high = line[f"{name}_lower"], line[f"{name}_upper"]
    return low - slack <= truth <= high + slack


@pytest.fixture(scope="module")
def measured():
    photos = pictures(16, seed=4)
    return {
        kind: camrobust.evaluate(getattr(toys, kind)(), photos, ["gradcam", "random"], NOISE, target_layer="features")
        for kind in ("still", "turning", "restless")
    }


def test_a_map_that_never_moves(measured):
    line = measured["still"].summary().filter(pl.col("cam") == "gradcam").row(0, named=True)
    assert line["n_same"] > 10
    assert line["n_flipped"] > 10
    for form in ("", "_adjusted"):
        assert line[f"consistency{form}"] == pytest.approx(1, abs=1e-6)
        assert line[f"responsiveness{form}"] == pytest.approx(0, abs=1e-6)
        assert line[f"robustness{form}"] == pytest.approx(0, abs=1e-6)


def test_a_map_that_moves_with_the_class_and_only_with_it(measured):
    result = measured["turning"]
    line = result.summary().filter(pl.col("cam") == "gradcam").row(0, named=True)
    assert line["consistency"] == pytest.approx(1, abs=1e-6)
    flipped = result.scores.filter((pl.col("cam") == "gradcam") & ~pl.col("kept_class"))
    expected = (
        flipped.with_columns(truth=1 - pl.col("n_segments").map_elements(upside_down, pl.Float64))
        .group_by("image_id").agg(pl.col("truth").mean())["truth"].mean()
    )  # fmt: skip
    assert line["responsiveness"] == pytest.approx(expected, abs=1e-5)
    assert line["robustness"] == pytest.approx(expected, abs=1e-5)
    assert line["responsiveness_adjusted"] > 1


def test_a_map_that_is_drawn_anew_is_at_chance(measured):
    line = measured["restless"].summary().filter(pl.col("cam") == "gradcam").row(0, named=True)
    # Segments differ in size, so two independent maps agree a little more than independent permutations.
    assert holds(line, "consistency_adjusted", 0, slack=0.05)
    assert holds(line, "responsiveness_adjusted", 1, slack=0.05)
    assert abs(line["consistency_adjusted"]) < 0.2


def test_the_random_cam_gives_the_floor(measured):
    # Random weights turn the still map upside down half of the time, and the restless one is new each time.
    truth = measured["still"].scores.group_by("image_id").agg(pl.col("n_segments").first())["n_segments"]
    turned = np.mean([(1 + upside_down(m)) / 2 for m in truth])
    floor, other = (
        measured[kind].summary().filter(pl.col("cam") == "random").row(0, named=True) for kind in ("still", "restless")
    )
    assert holds(floor, "consistency", turned, slack=0.05)
    assert holds(floor, "responsiveness", 1 - turned, slack=0.05)
    assert holds(other, "consistency_adjusted", 0, slack=0.05)
    pairs = measured["still"].summary("tests").filter(
        (pl.col("test") == "wilcoxon_control") & (pl.col("measure") == "consistency_adjusted")
    )  # fmt: skip
    assert pairs.select("first", "second").row(0) == ("gradcam", "random")
    assert pairs["effect"][0] == 1
    assert pairs["p_corrected"][0] < 0.01


def test_a_run_gives_the_planted_values_too(tmp_path):
    write_photos(tmp_path / "photos", 5, size=(72, 72))
    run = {
        "output": str(tmp_path / "out"),
        "datasets": [{"name": "made up", "images": str(tmp_path / "photos")}],
        "models": [
            {"name": kind, "builder": f"tests.toys:{kind}", "target_layer": "features"} for kind in ("still", "turning")
        ],
        "image": {"resize": 64, "crop": 64},
        "cams": ["gradcam", "random"],
        "perturbations": NOISE,
        "gallery_images": 1,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    outcome = in_process.run(tmp_path / "run.yaml")
    assert outcome.exit_code == 0
    found = summaries(outcome.folder)
    lines = {(line["model"], line["cam"]): line for line in found["by_cam"].to_dicts()}
    still, turning = lines["still", "gradcam"], lines["turning", "gradcam"]
    assert still["consistency"] == turning["consistency"] == pytest.approx(1, abs=1e-6)
    assert still["robustness_adjusted"] == pytest.approx(0, abs=1e-6)
    assert turning["responsiveness_adjusted"] > 1
    assert lines["still", "random"]["consistency_adjusted"] < 0.9
    assert found["tests"].height
    assert found["characteristics"].height
    page = report(tmp_path / "out").read_text()
    assert "More than chance?" in page
    assert "What characteristics of the images explain" in page


def planted_rows(images, generator, dataset, means, ease, pairs=12, flip=0.4):
    """Rows with agreement = mean of the CAM + ease of the image + noise, all inside [0, 1]; flipped: 0.3 - ease."""
    image, cam, replicate = (axis.ravel() for axis in np.indices((images, len(means), pairs)))
    same = (generator.random((images, pairs)) > flip)[image, replicate]
    r = np.where(same, np.array(list(means.values()))[cam] + ease[image], 0.3 - ease[image])
    r = r + generator.uniform(-0.1, 0.1, len(image))
    table = pl.DataFrame(
        {
            "dataset": dataset, "model": "m", "image_id": pl.Series([f"{dataset}-{n}" for n in range(images)])[image],
            "cam": pl.Series(list(means))[cam], "perturbation": "gaussian_noise", "severity": None,
            "strength": "sigma=0.1", "replicate": replicate, "kept_class": same, "status": "ok", "rbo": r,
            "rbo_adjusted": r,
            "confidence_clean": 0.5,
            "entropy_clean": 0.7,
        }
    )  # fmt: skip
    empty = frame(SCORES, [])
    rest = [pl.lit(None, kind).alias(name) for name, kind in empty.schema.items() if name not in table.columns]
    return table.with_columns(rest).select(empty.columns).cast(empty.schema)


def photo_table(dataset, images, generator, **known):
    rows = {"dataset": [dataset] * images, "image_id": [f"{dataset}-{n}" for n in range(images)]}
    empty = frame(IMAGES, [])
    for name in empty.schema:
        if name not in rows:
            rows[name] = known.get(name, generator.random(images) * 100)
    return pl.DataFrame({name: pl.Series(name, rows[name]).cast(kind) for name, kind in empty.schema.items()})


@pytest.mark.parametrize("intervals", ["delta", "bootstrap"])
def test_planted_means_lie_in_their_intervals_as_often_as_they_say(intervals):
    inside = {"consistency": [], "responsiveness": [], "robustness": []}
    truth = {"consistency": 0.6, "responsiveness": 0.7, "robustness": 0.42}
    for seed in range(120):
        generator = np.random.default_rng(seed)
        rows = planted_rows(40, generator, "d", {"gradcam": 0.6}, generator.uniform(-0.15, 0.15, 40))
        line = (
            reduce_frame(rows.lazy(), SummarySettings(intervals=intervals, seed=seed))
            .tables["by_cam"]
            .row(0, named=True)
        )
        for name, value in truth.items():
            inside[name].append(holds(line, name, value))
    for name, held in inside.items():
        assert 0.89 <= np.mean(held) <= 0.99, name


def test_planted_differences_and_characteristics_come_out():
    generator = np.random.default_rng(2)
    frames, photos = [], []
    for dataset, shift in (("d", 0.0), ("e", 0.1)):
        ease = generator.uniform(-0.1, 0.1, 400) + shift
        frames.append(planted_rows(400, generator, dataset, {"a": 0.55, "b": 0.5, "random": 0.2}, ease))
        # Segments depend on the ease alone, in both datasets; contrast depends on it by half, other properties do not.
        segments = np.round(400 + 2000 * ease)
        contrast = ease / ease.std() + generator.normal(0, 1, 400)
        photos.append(photo_table(dataset, 400, generator, n_segments=segments, contrast=contrast))
    reduction = reduce_frame(pl.concat(frames).lazy(), SummarySettings())
    tests = significance_tests(reduction.profiles).filter(pl.col("measure") == "consistency_adjusted")
    pair = tests.filter((pl.col("test") == "wilcoxon") & (pl.col("first") == "a") & (pl.col("second") == "b"))
    assert pair.height == 2
    assert ((pair["difference_lower"] < 0.05) & (pair["difference_upper"] > 0.05)).all()
    assert (pair["effect_lower"] > 0).all()
    gap = tests.filter((pl.col("factor") == "dataset") & (pl.col("test") == "cliffs_delta") & (pl.col("cam") == "a"))
    assert gap["difference_lower"][0] < -0.1 < gap["difference_upper"][0]
    table = characterise(reduction.profiles, pl.concat(photos)).filter(
        (pl.col("cam") == "a") & (pl.col("measure") == "consistency_adjusted")
    )  # fmt: skip
    within = table.filter(pl.col("dataset") == "d")
    by = {row["property"]: row for row in within.filter(pl.col("analysis") == "spearman").iter_rows(named=True)}
    assert by["n_segments"]["effect"] > 0.85
    assert 0.4 < by["contrast"]["effect"] < 0.8
    assert by["brightness"]["effect_lower"] < 0 < by["brightness"]["effect_upper"]
    assert by["contrast"]["share_alone"] < 0.02
    assert within.filter(pl.col("analysis") == "all_properties")["share"][0] > 0.75
    plain, given = (table.filter(pl.col("analysis") == name).row(0, named=True) for name in
                    ("dataset", "dataset_given_segments"))  # fmt: skip
    assert plain["effect_lower"] < -0.1 < plain["effect_upper"]
    assert given["effect_lower"] < 0 < given["effect_upper"]
    assert given["share"] < 0.02 < plain["share"]
