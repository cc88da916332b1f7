import json
import re

import polars as pl
import pytest

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.contract.schema import COMMITS, SUMMARIES
from camrobust.interface.cli import main
from camrobust.results.arrow import empty_frame, make_table
from camrobust.results.commits import put_commit
from camrobust.results.folder import open_run
from camrobust.results.levels import common_levels
from camrobust.results.reduce import check_combinable
from camrobust.run.summarise import aggregate, combine, report, summaries
from camrobust.summary.aggregate import summarise
from tests.documents import VARIANT, change_document, run_document, run_record, write_json
from tests.synthetic import images, scores

LEVELS = (1, 3, 5)


def write_run(
    folder, cams=("gradcam", "random"), models=("m",), levels=LEVELS, changes=(), perturbations=("gaussian_noise",),
    moved=lambda table: table, other=lambda photos: photos,
):  # fmt: skip
    """A run folder with made-up rows, complete for `verify`.

    `moved` changes the score rows, `other` those of the images.
    """
    config = parse_config(
        {
            "output": str(folder), "datasets": [{"name": "d", "images": "photos"}],
            "models": [{"name": name, "builder": "tests.toys:pooled"} for name in models], "cams": list(cams),
            "perturbations": [f"{name}:" + ",".join(map(str, levels)) for name in perturbations],
        } | dict(changes)
    )  # fmt: skip
    run = open_run(str(folder))
    table = moved(scores(images=8, cams=cams, models=models, levels=levels, perturbations=perturbations))
    variants = [{"perturbation": name, "severity": n, "strength": f"sigma={n / 10:g}", "replicate": 0}
                for name in perturbations for n in levels]  # fmt: skip
    photos = other(images(table))
    write_json(run, "run.json", run_document(
        photos.height, models, cams, variants, digest=config.digest(), config=config.model_dump(mode="json"),
        numbers=config.numbers(), controls=["random"], families={"gaussian_noise": "noise"},
    ))  # fmt: skip
    run.write_table(
        "manifest.parquet", photos.select("dataset", "image_id", uri="image_id", label=pl.lit(None, pl.Int32))
    )
    units = table.group_by("dataset", "image_id", maintain_order=True).agg(rows=pl.len())
    units = units.with_columns(part=pl.lit(0), failures=pl.lit(0)).select(empty_frame(COMMITS).columns)
    put_commit(run.store, units, table, {"images": photos.to_arrow()})
    return run


def test_runs_that_measured_alike_become_one_leaderboard(tmp_path, capsys):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", models=("n",))
    assert (
        main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "both"), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    alone = [aggregate(run)["by_cam"] for run in (first, second)]
    expected = pl.concat(alone).sort(SUMMARIES["by_cam"])
    assert pl.DataFrame(found["by_cam"], schema=expected.schema).equals(expected)
    assert {row["factor"] for row in found["tests"]} == {"cam", "model"}
    assert set(summaries(open_run(str(tmp_path / "both")))) == {*SUMMARIES, "tests", "characteristics"}
    combined = json.loads((tmp_path / "both" / "combined.json").read_text())
    assert combined["combined"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert combined["models"] == ["m", "n"]
    page = (tmp_path / "both" / "report" / "index.html").read_text()
    assert "2 models" in page


def test_levels_may_be_spread_over_runs(tmp_path):
    parts = [write_run(tmp_path / str(level), levels=(level,)) for level in LEVELS]
    found, _ = combine(parts, open_run(str(tmp_path / "all")))
    assert found["by_level"]["severity"].unique().sort().to_list() == list(LEVELS)
    assert set(found["by_cam"]["n_images"]) == {8}
    assert set(found["by_cam"]["n_pairs"]) == {24}


ASKED = {"sigma": [0.1], "samples": 500, "radii": [0.1]}


def certified(folder, value, **changes):
    """A run with certificates, of eight images."""
    run = write_run(folder, changes={"certify": ASKED | changes.pop("certify", {})}, **changes)
    rows = [
        {"dataset": "d", "model": model, "image_id": f"image-{image}", "cam": "gradcam", "sigma": 0.1,
         "radius_share": 0.1, "radius": 0.01, "item": "rank", "n": 500, "alpha": 0.01, "class_radius": 0.2,
         "abstained": False, "certified_rbo_adjusted": value, "flat_share": 0.0, "undecided": 0.5}
        for model in run.run().models for image in range(8)
    ]  # fmt: skip
    units = pl.DataFrame({"dataset": ["d"], "image_id": ["-"], "part": [-1], "rows": [0], "failures": [0]})
    put_commit(run.store, units, scores(images=1).clear(), {"certificates": make_table(CERTIFICATES, rows)})
    return run


def test_images_that_several_runs_certify_count_once(tmp_path):
    parts = [certified(tmp_path / str(level), level / 10, levels=(level,)) for level in LEVELS]
    found, _ = combine([*parts, certified(tmp_path / "n", 0.5, models=("n",))], open_run(str(tmp_path / "all")))
    table = found["certificates"].select("model", "n_images", "certified_consistency").rows()
    assert table == [("m", 8, pytest.approx(0.1)), ("n", 8, pytest.approx(0.5))]
    assert combine(parts[1:], open_run(str(tmp_path / "rest")))[0]["certificates"]["n_images"].to_list() == [8]


def test_runs_with_other_certificates_are_not_pooled(tmp_path):
    first, other = certified(tmp_path / "a", 0.1), certified(tmp_path / "b", 0.1, certify={"samples": 501})
    without = write_run(tmp_path / "c", models=("n",))
    with pytest.raises(UserError, match=r"\(different: certify.samples\)"):
        combine([first, other], open_run(str(tmp_path / "all")))
    with pytest.raises(UserError, match=r"\(different: certify"):
        combine([without, first], open_run(str(tmp_path / "all")))


REFUSED = [
    ({"metric": {"rbo_p": 0.8}, "segments": {"ratio": 0.5}},
     "cannot be combined (different: metric.rbo_p, segments.ratio); combine runs of the same metric, segments and "
     "image settings only"),
    ({"models": [{"name": "m", "builder": "tests.toys:dense"}]}, "cannot be combined (different: models.m.builder); "),
    ({"datasets": [{"name": "d", "images": "elsewhere"}]}, "cannot be combined (different: datasets.d.images); "),
    ({}, "both hold gradcam of m on d under gaussian_noise sigma=0.1, replicate 0; leave one of them out"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_runs_that_do_not_go_together_are_refused(tmp_path, capsys, changes, sentence):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", changes=changes)
    assert main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not (tmp_path / "c").exists()


def test_runs_of_two_versions_of_the_metric_are_not_pooled(tmp_path, capsys):
    parts = [write_run(tmp_path / "a", levels=LEVELS[:1]), write_run(tmp_path / "b", levels=LEVELS[1:])]
    change_document(parts[1], metric=2)
    assert main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c")]) == 2
    assert "cannot be combined (different: metric version); combine runs of the same metric" in capsys.readouterr().err
    change_document(parts[0], metric=2)
    combine(parts, open_run(str(tmp_path / "c")))
    assert json.loads((tmp_path / "c" / "combined.json").read_text())["metric"] == 2


def test_seeds_perturbations_and_intervals_may_differ():
    numbers = parse_config({"output": "x", "datasets": [{"name": "d", "images": "i"}], "models": ["a:b"],
                            "cams": ["gradcam"], "perturbations": ["contrast:1"]}).numbers()  # fmt: skip
    assert "summary" not in numbers
    changed = {**numbers, "seed": 3, "perturbations": ["contrast:2"]}
    check_combinable(
        {
            "a": run_record(numbers=numbers),
            "b": run_record(numbers=changed, variants=[VARIANT | {"perturbation": "contrast"}]),
        }
    )


def test_an_output_is_needed_for_several_and_only_then(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", models=("n",))
    assert main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert main(["aggregate", str(tmp_path / "a"), "--output", str(tmp_path / "c")]) == 2
    sentence = "aggregate: several runs need --output, a folder for their tables; one run keeps its own"
    assert capsys.readouterr().err.count(sentence) == 2
    assert main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "b")]) == 2
    assert "holds a run; choose another --output" in capsys.readouterr().err


def test_intervals_can_be_chosen_without_measuring_again(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    plain = aggregate(run)["by_cam"]
    assert main(["aggregate", str(tmp_path / "a"), "--intervals", "bootstrap"]) == 0
    resampled = summaries(run)["by_cam"]
    assert resampled["consistency"].equals(plain["consistency"])
    assert not resampled["consistency_lower"].equals(plain["consistency_lower"])
    assert resampled.equals(aggregate(run, "bootstrap")["by_cam"])


def test_a_report_asks_for_tables_that_are_not_there(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=re.escape(f"run camrobust aggregate {run.uri} first")):
        report(run)
    aggregate(run)
    assert report(run).endswith("index.html")


def test_a_run_without_scores_says_so(tmp_path):
    run = write_run(tmp_path / "a")
    for file in (tmp_path / "a").glob("commits/*"):
        file.unlink()
    with pytest.raises(UserError, match="scores: the run holds no score rows"):
        aggregate(run)


def test_a_run_given_twice_is_refused(tmp_path):
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match="is given twice, and its rows would count twice; give it once"):
        combine([run, run], open_run(str(tmp_path / "out")))


def test_other_weights_under_one_name_are_refused(tmp_path):
    runs = [write_run(tmp_path / name, cams=(cam,)) for name, cam in (("a", "gradcam"), ("b", "random"))]
    for run, digest in zip(runs, "xy", strict=True):
        change_document(run, weights_sha256={"m": digest})
    records = {run.uri: run.run() for run in runs}
    with pytest.raises(UserError, match=r"cannot be combined \(different: weights_sha256\.m\)"):
        check_combinable(records)


def test_other_networks_under_one_name_are_refused_where_the_runs_say_which_they_had(tmp_path):
    runs = [write_run(tmp_path / name, cams=(cam,)) for name, cam in (("a", "gradcam"), ("b", "random"))]
    change_document(runs[0], state_sha256={"m": "x"})
    check_combinable({run.uri: run.run() for run in runs})
    change_document(runs[1], state_sha256={"m": "y"})
    with pytest.raises(UserError, match=r"cannot be combined \(different: state_sha256\.m\)"):
        check_combinable({run.uri: run.run() for run in runs})


def test_a_folder_may_be_called_like_a_pattern(tmp_path):
    for name in ("run[1]", "run1", "run*"):
        write_run(tmp_path / name)
    alone = aggregate(open_run(str(tmp_path / "run1")))["by_cam"]
    for name in ("run[1]", "run*"):
        assert aggregate(open_run(str(tmp_path / name)))["by_cam"].equals(alone)


FIVE = ("gaussian_noise", "shot_noise", "contrast", "fog", "pixelate")


def pooled(tmp_path, *more):
    """Two models on one leaderboard, of which one was measured under two perturbations and one under five."""
    write_run(tmp_path / "a", perturbations=FIVE[:2])
    write_run(tmp_path / "b", models=("n",), perturbations=FIVE)
    both = tmp_path / "both"
    assert main(["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(both), *more]) == 0
    return both


def test_a_leaderboard_pools_the_strengths_that_everything_was_measured_under(tmp_path, capsys):
    both = pooled(tmp_path)
    said = (
        "Left out, because not every CAM of every model was measured there: contrast (severity 1, severity 3, severity "
        "5), fog (severity 1, severity 3, severity 5), pixelate (severity 1, severity 3, severity 5)."
    )
    assert said in capsys.readouterr().err
    found = summaries(open_run(str(both)))
    assert set(found["by_level"]["perturbation"]) == {*FIVE[:2]}
    assert set(found["by_cam"]["n_pairs"]) == {8 * 2 * 3}
    run = open_run(str(tmp_path / "b"))
    rows = run.scores(run.committed()).filter(pl.col("perturbation").is_in(FIVE[:2]))
    assert found["by_cam"].filter(pl.col("model") == "n").equals(summarise(rows.lazy())["by_cam"])
    page = (both / "report" / "index.html").read_text()
    assert "6 perturbed variants of each image" in page
    assert said in page


def test_all_strengths_are_pooled_only_where_asked_for_and_with_a_warning(tmp_path, capsys):
    both = pooled(tmp_path, "--strengths", "all")
    assert "Rows are means over different noise and cannot be compared: only some were measured under contrast " in (
        capsys.readouterr().err
    )
    assert set(summaries(open_run(str(both)))["by_cam"]["n_pairs"]) == {8 * 2 * 3, 8 * 5 * 3}


def test_runs_without_a_strength_in_common_are_refused(tmp_path, capsys):
    write_run(tmp_path / "a", levels=(1, 3))
    write_run(tmp_path / "b", models=("n",), levels=(5,))
    arguments = ["aggregate", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"camrobust: aggregate: {tmp_path}/a and {tmp_path}/b have no strength of a perturbation in common, so their "
        "means cannot be compared; aggregate them apart, or pool what there is with --strengths all"
    ]
    assert not (tmp_path / "c").exists()


def test_what_is_common_is_asked_of_every_cam_of_every_model_on_every_dataset():
    def run(models, cams, levels, replicates=(0,)):
        variants = [{"perturbation": "x", "severity": n, "strength": f"s={n}", "replicate": r}
                    for n in levels for r in replicates]  # fmt: skip
        return run_record(models=models, cams=cams, variants=variants)

    def common(*runs):
        return sorted(int(strength[-1]) for _, strength in common_levels(runs))

    assert common(run(["m"], ["a"], (1, 2)), run(["m"], ["a"], (3,))) == [1, 2, 3]
    assert common(run(["m"], ["a"], (1, 2)), run(["n"], ["a"], (2, 3))) == [2]
    assert common(run(["m"], ["a", "b"], (1, 2)), run(["m"], ["b"], (3,))) == [1, 2]
    assert common(run(["m"], ["a"], (1, 2)), run(["n"], ["a"], (1, 2), (0, 1))) == []
