"""What a notebook does with results: repr, sorted summary, charts, the report, saving, progress."""

from dataclasses import replace

import polars as pl
import pyarrow.parquet as pq
import pytest

import camrobust
from camrobust.contract.errors import UserError
from camrobust.contract.saved import KEY
from tests.photos import write_photos
from tests.toys import pooled


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Two CAMs and the floor on three photos."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 3)
    sizes = {"resize": 64, "crop": 64}
    return camrobust.evaluate(pooled(), folder, ["random", "gradcam", "hirescam"], ["gaussian_noise:1,5"], **sizes)


def test_a_result_says_how_much_it_holds_and_has_the_best_first(result):
    assert repr(result) == "Evaluation(3 images × 1 model × 3 CAMs × 2 variants = 18 rows)"
    empty = replace(result, scores=result.scores.clear())
    assert repr(empty) == "Evaluation(0 images × 0 models × 0 CAMs × 0 variants = 0 rows)"
    values = result.summary()["robustness_adjusted"].to_list()
    known = [value for value in values if value is not None]
    assert values == sorted(known, reverse=True) + [None] * (len(values) - len(known))


@pytest.mark.parametrize("kind", ["curves", "heatmap"])
def test_charts_are_those_of_the_report(kind, result, tmp_path):
    result.chart(kind).save(str(tmp_path / "x.svg"))
    drawn = (tmp_path / "x.svg").read_text("utf-8")
    assert drawn.startswith("<svg")
    assert "currentColor" not in drawn
    with pytest.raises(UserError, match="chart: there is no figure 'pie' of these scores; there are curves, heatmap"):
        result.chart("pie")


def test_the_report_is_a_page_with_its_figures(result, tmp_path):
    page = result.report(tmp_path / "page")
    assert page == tmp_path / "page" / "index.html"
    assert "gradcam" in page.read_text("utf-8")
    assert (tmp_path / "page" / "figures" / "leaderboard.csv").is_file()
    assert result.report(str(tmp_path / "other" / "mine.html")).read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report: '.*file' is a file, not a folder; choose another path"):
        result.report(tmp_path / "file" / "x")


def test_a_report_replaces_an_earlier_one_but_no_file_of_the_users(result, tmp_path):
    page = result.report(tmp_path / "page")
    page.with_name("notes.txt").write_text("mine")
    page.with_name("figures").joinpath("leaderboard.csv").write_text("an earlier one")
    assert result.report(tmp_path / "page") == page
    assert "gradcam" in page.with_name("figures").joinpath("leaderboard.csv").read_text()
    assert page.with_name("notes.txt").read_text() == "mine"
    page.write_text("<title>mine</title>")
    with pytest.raises(UserError, match=r"report: '.*index.html' exists, and nothing says that camrobust wrote it; ch"):
        result.report(tmp_path / "page")
    assert page.read_text() == "<title>mine</title>"


def test_a_notebook_has_the_order_of_the_page_where_no_cam_has_an_rm(result):
    """Without flips there is no RM, and adjusted consistency decides."""
    late = pl.col("cam").replace("gradcam", "zcam").replace("hirescam", "ycam")
    kept = replace(result, scores=result.scores.with_columns(late, kept_class=pl.lit(value=True)))
    board = kept.summary()
    assert board["robustness_adjusted"].null_count() == 3
    assert board["cam"].to_list() == ["ycam", "zcam", "random"]
    page = kept._repr_html_()
    places = [page.index(f"<td>{cam}</td>") for cam in board["cam"]]
    assert places == sorted(places)


def test_a_saved_result_comes_back_whole(result, tmp_path):
    more = replace(result, scores=result.scores.with_columns(mine=pl.lit(0.5, pl.Float32)), seed=7, average="micro")
    more.save(tmp_path / "r.parquet")
    again = camrobust.load(tmp_path / "r.parquet")
    assert again.scores.equals(more.scores)
    assert replace(again, scores=more.scores) == replace(more, scores=more.scores, same_as=again.same_as)
    assert again.summary().equals(more.summary())
    assert pl.read_parquet(tmp_path / "r.parquet").equals(more.scores)
    with pytest.raises(UserError, match=r"save: there is no folder '.*nowhere'; make it, or choose another path"):
        more.save(tmp_path / "nowhere" / "r.parquet")


def test_what_is_no_saved_result_gets_a_sentence(result, tmp_path):
    result.scores.write_parquet(tmp_path / "plain.parquet")
    (tmp_path / "text.parquet").write_text("no")
    hostile = result.scores.to_arrow().replace_schema_metadata({KEY: b'{"average": "median"}'})
    pq.write_table(hostile, tmp_path / "hostile.parquet")
    pq.write_table(hostile.replace_schema_metadata({KEY: b'{"more_columns": ["rbo"]}'}), tmp_path / "twice.parquet")
    pq.write_table(hostile.select(["cam"]).replace_schema_metadata({KEY: b"{}"}), tmp_path / "short.parquet")
    for name, sentence in (
        ("plain", "is not a saved evaluation; give a file of Evaluation.save, or a run folder"),
        ("text", "text.parquet is not a table as camrobust writes it"),
        ("hostile", "is not a saved evaluation"),
        ("twice", "is not a saved evaluation"),
        ("short", "the column .* is missing"),
        ("missing", "holds no run.json"),
    ):
        with pytest.raises(UserError, match=sentence):
            camrobust.load(tmp_path / f"{name}.parquet")


def test_progress_is_a_bar_per_step(tmp_path, capsys):
    write_photos(tmp_path, 2)
    camrobust.evaluate(pooled(), tmp_path, perturbations=["contrast:1"], resize=64, crop=64, progress=True)
    bars = capsys.readouterr().err
    assert "segments: 100%" in bars
    assert "maps: 100%" in bars
    camrobust.evaluate(pooled(), tmp_path, perturbations=["contrast:1"], resize=64, crop=64)
    assert capsys.readouterr().err == ""


def test_a_notebook_names_photos_says_what_is_predicted_and_what_it_leaves_out(tmp_path):
    write_photos(tmp_path, 8)
    photos = sorted(tmp_path.iterdir())
    page = camrobust.explain(pooled(), photos, resize=64, crop=64)._repr_html_()
    for photo in photos[:6]:
        assert f"<td>{photo.name}<br>class " in page
    assert photos[6].name not in page
    assert "<p>The first 6 of 8 images.</p>" in page
    chosen = camrobust.explain(pooled(), photos[:1], targets=3, resize=64, crop=64)
    assert "; explained: class 3<" in chosen._repr_html_()
    assert "The first" not in chosen._repr_html_()
    assert repr(chosen) == "Maps(gradcam: (1, 8, 8))" or repr(chosen).startswith("Maps(gradcam: (1, ")
    named = camrobust.explain(pooled(), photos[:1], image_ids=["<b>"], resize=64, crop=64)
    assert "<td>&lt;b&gt;<br>" in named._repr_html_()


def test_a_notebook_says_which_curves_it_shows(result):
    several = pl.concat([result.scores, result.scores.with_columns(model=pl.lit("<i>"))])
    page = replace(result, scores=several)._repr_html_()
    assert "<code>chart('curves')</code> has a choice of all" in page
    assert "Curves of model " in page
    none = replace(result, scores=result.scores.with_columns(severity=pl.lit(None, pl.Int8)))
    assert "No curves: no strength was given as a severity." in none._repr_html_()


def test_a_summary_of_what_the_model_gets_right(tmp_path):
    write_photos(tmp_path, 4)
    settings = {"perturbations": ["gaussian_noise:1"], "resize": 64, "crop": 64}
    right = camrobust.evaluate(pooled(), tmp_path, **settings)
    clean = right.scores.sort("image_id")["predicted_clean"].to_list()
    labelled = camrobust.evaluate(
        pooled(), tmp_path, labels=[clean[0], (clean[1] + 1) % 10, clean[2], None], **settings
    )
    assert labelled.summary(only="correct")["n_images"].to_list() == [2]
    assert replace(labelled, only="correct").summary().equals(labelled.summary(only="correct"))
    labelled.save(tmp_path / "r.parquet")
    assert camrobust.load(tmp_path / "r.parquet").heads == {labelled.scores["model"][0]: "softmax"}
    with pytest.raises(UserError, match="summary: only='correct' needs labels, and no image has one"):
        right.summary(only="correct")
    with pytest.raises(ValueError, match="only must be 'all' or 'correct', got 'right'"):
        right.summary(only="right")
