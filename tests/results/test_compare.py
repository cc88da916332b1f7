import json
import re

import numpy as np
import polars as pl
import pytest
from rich.cells import cell_len
from scipy import stats

from camrobust.contract.comparison_schema import DIFFERENCES
from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.results.compare import compare_runs
from camrobust.results.folder import open_run
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.differences import MEASURES, RAW, differences
from tests.documents import change_document
from tests.results.test_reduce import write_run
from tests.synthetic import scores


def profiles(table, alone=False):
    return reduce_frame(table.lazy(), SummarySettings(alone=alone)).profiles


def means(table, cam, same, column="rbo_adjusted"):
    rows = table.filter((pl.col("cam") == cam) & (pl.col("kept_class") == same) & pl.col(column).is_not_null())
    value = pl.col(column) if same else 1 - pl.col(column)
    return dict(rows.group_by("image_id").agg(value.mean()).iter_rows())


def pair(seed=0, shift=0.1, cam="a"):
    table = scores(images=30, cams=("a", "b"), flip=0.4, seed=seed)
    moved = pl.when(pl.col("cam") == cam).then(pl.col("rbo_adjusted") - shift).otherwise(pl.col("rbo_adjusted"))
    return table, table.with_columns(rbo_adjusted=moved)


def test_a_run_does_not_differ_from_itself():
    table, _ = pair()
    found = differences(profiles(table), profiles(table))
    assert found.columns == [column.name for column in DIFFERENCES]
    assert found.height == 2 * 3
    assert found.select("difference", "difference_lower", "difference_upper").to_numpy() == pytest.approx(0, abs=1e-12)
    assert found["p"].to_list() == [1.0] * 6
    assert found["n_images"].to_list() == [30] * 6


def test_differences_are_those_of_the_means_over_images_and_tests_are_scipys():
    first = scores(images=40, cams=("a", "b"), flip=0.5, seed=1)
    second = scores(images=40, cams=("a", "b"), flip=0.5, seed=2)
    found = differences(profiles(first), profiles(second))
    for cam in ("a", "b"):
        C = [means(table, cam, True) for table in (first, second)]
        R = [means(table, cam, False) for table in (first, second)]
        C_mean, R_mean = ([np.mean(list(one.values())) for one in side] for side in (C, R))
        wanted = {"consistency_adjusted": C_mean, "responsiveness_adjusted": R_mean,
                  "robustness_adjusted": np.multiply(C_mean, R_mean)}  # fmt: skip
        for measure, (before, after) in wanted.items():
            row = found.row(by_predicate=(pl.col("cam") == cam) & (pl.col("measure") == measure), named=True)
            assert (row["first"], row["second"]) == pytest.approx((before, after), rel=1e-5)
            assert row["difference"] == pytest.approx(after - before, abs=1e-6)
            assert row["difference_lower"] < row["difference"] < row["difference_upper"]
        both = [image for image in C[0] if image in C[1]]
        d = np.float32([C[1][image] - C[0][image] for image in both])
        row = found.row(by_predicate=(pl.col("cam") == cam) & (pl.col("measure") == "consistency_adjusted"), named=True)
        assert row["p"] == pytest.approx(stats.wilcoxon(d, zero_method="pratt", method="exact").pvalue, rel=0.05)
    for measure in found["measure"].unique():
        rows = found.filter(pl.col("measure") == measure).sort("p")
        assert rows["p_corrected"][0] == pytest.approx(min(1, 2 * rows["p"][0]))


def test_where_every_image_has_both_the_interval_is_that_of_a_paired_t():
    first, second = (scores(images=40, cams=("a",), flip=0.0, seed=seed) for seed in (1, 2))
    before, after = (means(table, "a", True) for table in (first, second))
    assert before.keys() == after.keys()
    assert len(before) == 40
    low, high = stats.ttest_1samp([after[image] - before[image] for image in before], 0).confidence_interval()
    found = differences(profiles(first), profiles(second))
    row = found.row(by_predicate=pl.col("measure") == "consistency_adjusted", named=True)
    assert (row["difference_lower"], row["difference_upper"]) == pytest.approx((low, high), rel=1e-4)
    responsive = found.row(by_predicate=pl.col("measure") == "responsiveness_adjusted", named=True)
    assert responsive["difference"] is None


def test_an_interval_of_a_product_holds_in_ninety_five_of_a_hundred():
    inside = 0
    for seed in range(60):
        first, second = (scores(images=60, cams=("a",), flip=0.5, seed=seed * 2 + side) for side in (0, 1))
        found = differences(profiles(first), profiles(second))
        row = found.row(by_predicate=pl.col("measure") == "robustness_adjusted", named=True)
        inside += row["difference_lower"] <= 0 <= row["difference_upper"]
    assert 52 <= inside <= 60


def test_a_planted_change_is_found_and_leads():
    found = differences(*map(profiles, pair(shift=0.1)))
    leading = found.filter(pl.col("measure") == "consistency_adjusted").row(0, named=True)
    assert leading["cam"] == "a"
    assert leading["difference"] == pytest.approx(-0.1, abs=1e-6)
    assert leading["effect"] == pytest.approx(-1)
    assert leading["p_corrected"] < 1e-4
    other = found.filter((pl.col("measure") == "consistency_adjusted") & (pl.col("cam") == "b"))
    assert other["difference"][0] == pytest.approx(0, abs=1e-12)


def test_runs_that_share_no_image_are_independent():
    first, second = pair()
    second = second.with_columns(pl.col("image_id") + "'")
    row = differences(profiles(first), profiles(second)).row(0, named=True)
    assert (row["n_images"], row["n_first"], row["n_second"], row["test"]) == (0, 30, 30, "cliffs_delta")
    paired = differences(*map(profiles, pair())).row(0, named=True)
    assert row["difference"] == pytest.approx(paired["difference"])
    assert row["difference_upper"] - row["difference_lower"] > paired["difference_upper"] - paired["difference_lower"]


def test_runs_on_disk_are_compared_at_what_they_share(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", cams=("gradcam", "layercam", "random"), levels=(1, 3))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["levels"] == 2
    assert found["only_first"] == ["gaussian_noise at sigma=0.5"]
    assert found["only_second"] == ["cam layercam"]
    assert {row["cam"] for row in found["table"]} == {"gradcam", "random"}
    assert "cams" in found["settings"]
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out, err = capsys.readouterr()
    assert "robustness_adjusted: second minus first" in out
    assert "only in the second: cam layercam" in err
    again = compare_runs(*(open_run(str(tmp_path / name)) for name in ("a", "a")))
    assert (again.settings, again.versions, again.only_first) == ([], {}, [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"changes": {"metric": {"rbo_p": 0.8}}}, "measured differently \\(different: metric.rbo_p\\)"),
        ({"levels": (2, 4)}, "share no perturbation at the same strength"),
        ({"models": ("n",)}, "share no CAM of a model of the same name"),
    ],
)
def test_runs_that_cannot_be_compared_get_a_sentence(tmp_path, changes, sentence):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **changes)
    with pytest.raises(UserError, match=sentence):
        compare_runs(*(open_run(str(tmp_path / name)) for name in ("a", "b")))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "nothing")]) == 2


def write_more(folder, monkeypatch, images):
    monkeypatch.setattr("tests.results.test_reduce.scores", lambda **keywords: scores(**keywords | {"images": images}))
    return write_run(folder)


def test_images_of_one_run_only_are_counted(tmp_path, monkeypatch):
    runs = [write_more(tmp_path / name, monkeypatch, images) for name, images in (("a", 8), ("b", 12))]
    assert "images of d, m: 8 in both, 0 only in the first, 4 only in the second" in compare_runs(*runs).lines()
    assert not any(line.startswith("images") for line in compare_runs(runs[0], runs[0]).lines())


def test_many_images_are_compared_on_the_same_sample_of_both(tmp_path, monkeypatch):
    monkeypatch.setattr("camrobust.summary.aggregate.KEPT", 30)
    few, many = (write_more(tmp_path / name, monkeypatch, images) for name, images in (("a", 40), ("b", 80)))
    found = compare_runs(few, many)
    (counts,) = found.table.select("n_images", "n_first", "n_second").unique().rows()
    assert counts[0] == counts[1] < counts[2] < 80
    assert found.sampled == ["d"]
    assert any(line.startswith("compared on a sample") for line in found.lines())


def test_other_weights_under_one_name_are_listed(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    for run, digest in zip(runs, ("1", "2"), strict=True):
        change_document(run, weights_sha256={"m": digest})
    found = compare_runs(*runs)
    assert found.settings == ["weights_sha256.m"]
    assert "settings that differ: weights_sha256.m" in found.lines()


def test_raw_measures_follow_the_adjusted_ones_and_do_not_change_them():
    first = scores(images=40, cams=("a", "b"), flip=0.5, seed=1)
    second = scores(images=40, cams=("a", "b"), flip=0.5, seed=2)
    plain = differences(profiles(first), profiles(second))
    found = differences(profiles(first), profiles(second), raw=True)
    assert found[: plain.height].equals(plain)
    assert found["measure"].unique(maintain_order=True).to_list() == [*MEASURES, *RAW]
    C, R = ([np.mean(list(means(table, "a", same, "rbo").values())) for table in (first, second)] for same in (1, 0))
    for measure, (before, after) in {"consistency": C, "responsiveness": R, "robustness": np.multiply(C, R)}.items():
        row = found.row(by_predicate=(pl.col("cam") == "a") & (pl.col("measure") == measure), named=True)
        assert (row["first"], row["second"]) == pytest.approx((before, after), rel=1e-5)
    # All made-up rows are adjusted with E = 0.3, so raw and adjusted differences are proportional.
    for measure in ("consistency", "responsiveness"):
        pairs = [found.filter(pl.col("measure") == name).sort("cam") for name in (measure, f"{measure}_adjusted")]
        assert pairs[0]["difference"].to_numpy() == pytest.approx(0.7 * pairs[1]["difference"].to_numpy(), rel=1e-4)


def two_perturbations(cam="a", name="fog", shift=0.15):
    table = scores(images=30, cams=("a", "b"), perturbations=("fog", "snow"), flip=0.4)
    planted = (pl.col("cam") == cam) & (pl.col("perturbation") == name)
    return table, table.with_columns(rbo_adjusted=pl.col("rbo_adjusted") - pl.when(planted).then(shift).otherwise(0))


def test_a_perturbation_alone_is_what_a_run_of_it_alone_gives_and_holm_covers_the_table():
    first = scores(images=30, cams=("a", "b"), perturbations=("fog", "snow"), seed=1)
    second = scores(images=30, cams=("a", "b"), perturbations=("fog", "snow"), seed=2)
    found = differences(profiles(first, alone=True), profiles(second, alone=True), raw=True)
    assert found.height == 2 * 2 * 6
    order = ["measure", "cam"]
    for name in ("fog", "snow"):
        only = [table.filter(pl.col("perturbation") == name) for table in (first, second)]
        wanted = differences(*map(profiles, only), raw=True).drop("perturbation", "p_corrected").sort(order)
        got = found.filter(pl.col("perturbation") == name).drop("perturbation", "p_corrected").sort(order)
        assert got.equals(wanted)
    for (_,), rows in found.group_by("measure"):
        assert rows["p_corrected"].min() == pytest.approx(min(1, 4 * rows["p"].min()))
    assert differences(profiles(first), profiles(second))["perturbation"].null_count() == 2 * 3


def test_a_change_planted_under_one_perturbation_is_found_there_only():
    found = differences(*(profiles(table, alone=True) for table in two_perturbations()))
    rows = found.filter(pl.col("measure") == "consistency_adjusted")
    assert rows.row(0, named=True)["perturbation"] == "fog"
    assert rows.row(0, named=True)["cam"] == "a"
    assert rows["difference"].to_list() == pytest.approx([-0.15, 0, 0, 0], abs=1e-6)
    assert rows["p_corrected"][0] < 1e-4
    assert rows["p_corrected"][1:].to_list() == [1, 1, 1]


def test_each_perturbation_alone_and_raw_on_the_command_line(tmp_path, monkeypatch, capsys):
    names = [str(tmp_path / name) for name in ("a", "b")]
    write_run(names[0], perturbations=("gaussian_noise", "gaussian_blur", "contrast"))
    write_run(names[1], perturbations=("gaussian_noise", "gaussian_blur"))
    assert main(["compare", *names, "--by", "perturbation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["table"]
    assert {row["perturbation"] for row in found} == {"gaussian_noise", "gaussian_blur"}
    assert len(found) == 2 * 2 * 3
    assert main(["compare", *names, "--by", "perturbation", "--raw"]) == 0
    out = capsys.readouterr().out
    assert out.count("gaussian_blur") == 2 * 6
    assert "\nresponsiveness: second minus first" in out
    assert main(["compare", *names]) == 0
    out = capsys.readouterr().out
    assert "perturbation" not in out
    assert out.count("second minus first") == 3
    for by in ([], ["--by", "perturbation"]):
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["compare", *names, *by]) == 0
        out, err = capsys.readouterr()
        assert max(map(cell_len, out.splitlines())) <= 80
        assert "robustness_adjusted: second minus first, m on d" in out
        # What changed, and by how much for certain, is there at any width; what is left out is said once.
        assert len(re.findall(r"[+-]0\.\d{3} \[[+-]0\.\d{3}, [+-]0\.\d{3}\]", out)) == 2 * 3 * (2 if by else 1)
        assert err.count("left out for want of width") == 1
    runs = [open_run(name) for name in names]
    with pytest.raises(ValueError, match="compare: by must be 'perturbation' or None, got 'level'"):
        compare_runs(*runs, by="level")


OTHER = ["image-1", "image-4", "image-5"]


def larger(ids):
    """A change of the images table that gives some ids another photo."""
    return lambda photos: photos.with_columns(width=pl.col("width") + pl.col("image_id").is_in(ids).cast(pl.Int32))


def brighter(photos, *datasets):
    """The images table with other photos under all ids of some datasets."""
    chosen = pl.col("dataset").is_in(datasets or ["d"])
    return photos.with_columns(brightness=pl.col("brightness") + 0.1 * chosen.cast(pl.Float32))


def test_ids_that_stand_for_different_photos_are_left_out(tmp_path):
    planted = pl.when(pl.col("image_id").is_in(OTHER)).then(-0.5).otherwise(pl.col("rbo_adjusted"))
    first = write_run(tmp_path / "a")
    second = write_run(
        tmp_path / "b", moved=lambda table: table.with_columns(rbo_adjusted=planted), other=larger(OTHER)
    )
    found = compare_runs(first, second)
    assert found.other_photos == {"d": (3, 8)}
    sentence = "3 of the 8 image ids that both have stand for different photos (size or properties)"
    assert f"images of d left out: {sentence}" in found.lines()
    assert set(found.table["difference"]) == {0}
    assert found.table.select("n_images", "n_first", "n_second").unique().rows() == [(5, 5, 5)]
    less = write_run(tmp_path / "c", moved=lambda table: table.filter(~pl.col("image_id").is_in(OTHER)))
    assert found.table.equals(compare_runs(less, less).table)
    assert not compare_runs(first, first).other_photos


def test_runs_over_other_photos_are_refused(tmp_path, capsys):
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", other=lambda photos: brighter(photos)),
    ]
    with pytest.raises(UserError, match="share no photo: every image id that both have stands for different photos"):
        compare_runs(*runs)
    assert main(["compare", *(run.uri for run in runs)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "compare runs of the same photos" in line


def test_a_dataset_of_other_photos_is_left_out_whole(tmp_path):
    def twice(table):
        return pl.concat([table, table.with_columns(dataset=pl.lit("e"))])

    sets = {"changes": {"datasets": [{"name": name, "images": "photos"} for name in "de"]}, "moved": twice}
    found = compare_runs(
        write_run(tmp_path / "a", **sets),
        write_run(tmp_path / "b", **sets, other=lambda photos: brighter(photos, "e")),
    )
    assert {*found.table["dataset"]} == {"d"}
    assert any(line.startswith("dataset e left out: 8 of the 8 image ids") for line in found.lines())


def test_models_of_two_names_are_compared_in_pairs(tmp_path, capsys):
    def moved(table):
        return table.with_columns(rbo_adjusted=pl.col("rbo_adjusted") - 0.2)

    first = write_run(tmp_path / "a", models=("old=1", "other"))
    second = write_run(tmp_path / "b", models=("new", "more"), moved=moved)
    alike = [write_run(tmp_path / name, models=("m",), moved=change)
             for name, change in (("c", lambda table: table), ("d", moved))]  # fmt: skip
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--map", "old=1=new", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in found["table"]} == {"old=1 → new"}
    assert (found["only_first"], found["only_second"]) == (["model other"], ["model more"])
    rows = compare_runs(first, second, pairs=["old=1=new"]).table.drop("model")
    assert rows.select("cam", "measure", "n_images").equals(
        compare_runs(*alike).table.select("cam", "measure", "n_images")
    )
    both = compare_runs(first, second, pairs=["old=1=new", "other=more"]).table
    assert {*both["model"]} == {"old=1 → new", "other → more"}
    for pairs, sentence in (
        (
            ["old1=new"],
            "compare: --map: unknown model of the first run 'old1'; did you mean 'old=1'? known: old=1, other",
        ),
        (
            ["other=news"],
            "compare: --map: unknown model of the second run 'news'; did you mean 'new'? known: more, new",
        ),
        (["other=new", "old=1=new"], "each model can stand in one pair, got 'old=1=new'; leave one out"),
        (["other"], "--map must be OLD=NEW, the names of two models, got 'other'"),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            compare_runs(first, second, pairs=pairs)
    with pytest.raises(
        UserError, match=r"pair models by --map OLD=NEW \(the first has old=1, other, the second new, m"
    ):
        compare_runs(first, second)
