"""The files of the figures: every one opens, and holds the numbers that are drawn."""

import re
from io import BytesIO
from xml.etree import ElementTree

import polars as pl
import pytest
from PIL import Image

from camrobust.contract.schema import MAPS
from camrobust.report.colours import look
from camrobust.report.page import build_report
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.characteristics import characterise
from camrobust.summary.significance import significance_tests
from tests.report.test_page import HOSTILE, run_of
from tests.summary.test_characteristics import photos
from tests.synthetic import failures, frame, scores


@pytest.fixture(scope="module")
def report():
    names = ("a", HOSTILE[0], "random")
    table = scores(images=25, cams=names, models=("m", HOSTILE[1]), perturbations=("x", HOSTILE[3]), seed=1)
    pictures = photos(table)
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tables = {
        **reduction.tables,
        "tests": significance_tests(reduction.profiles),
        "characteristics": characterise(reduction.profiles, pictures),
    }
    run = run_of(cams=names, models=("m", HOSTILE[1]))
    return build_report(run, tables, table.lazy(), pictures, failures(), frame(MAPS, []))


@pytest.fixture(scope="module")
def files(report):
    return dict(report.files())


def test_every_figure_is_there_in_all_forms_and_the_page_comes_last(files):
    figures = ("models", "curves", "heatmap", "ranks", "traits")
    forms = {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "pdf", "png", "csv")}
    forms |= {f"figures/leaderboard.{kind}" for kind in ("csv", "tex", "md")}
    assert forms | {"index.html"} == set(files)
    assert list(files)[-1] == "index.html"
    for link in forms:
        assert f'href="{link}"'.encode() in files["index.html"]


def test_the_pictures_have_marks_in_colours_that_read_on_white(files):
    for name, content in files.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(content)
            assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 5
            assert b"currentColor" not in content
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")
        if name.endswith(".png"):
            with Image.open(BytesIO(content)) as picture:
                assert min(picture.size) > 100
                assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 5


def test_the_numbers_are_those_of_the_figures(report, files):
    for figure in report.figures:
        read = pl.read_csv(BytesIO(files[f"figures/{figure.name}.csv"]), schema=figure.numbers.schema)
        assert read.equals(figure.numbers)
    board = pl.read_csv(BytesIO(files["figures/leaderboard.csv"]))
    assert board["robustness_adjusted"].drop_nulls().is_sorted(descending=True)


def test_every_picture_stands_alone(report, files):
    """Measure with its range, model, dataset and the number of images are written in the picture."""
    for figure in report.figures:
        text = files[f"figures/{figure.name}.svg"].decode()
        assert "n = 25 images" in text
        assert "dataset d" in text
        if figure.name != "models":
            assert "model it" in text
        assert "@measure" not in text
        said = {
            "models": "lines: 95 % intervals",
            "traits": "lines: 95 % intervals",
            "curves": "bands: 95 % intervals of ",
        }
        assert said.get(figure.name, "") in text
        assert any(word in text for word in (">adjusted RM<", "mean rank", "rank correlation (-1 to 1)"))


@pytest.mark.parametrize("flip", [-1, 0.4])
def test_no_text_is_cut_and_every_panel_has_its_axis(flip):
    """Without flips the measure is consistency, whose title is the longest."""
    names, noises = ("gradcam-elementwise", "eigengradcam", "random"), ("gaussian_noise", "jpeg_compression")
    table = scores(images=12, cams=names, models=("efficientnet_lite0", "n"), perturbations=noises, flip=flip, bad=0)
    pictures = photos(table)
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tables = {
        **reduction.tables,
        "tests": significance_tests(reduction.profiles, ["random"]),
        "characteristics": characterise(reduction.profiles, pictures),
    }
    run = run_of(cams=names, models=("efficientnet_lite0", "n"))
    report = build_report(run, tables, table.lazy(), pictures, failures(), frame(MAPS, []))
    drawn = dict(report.files())
    panels = {"models": ("cam", "adjusted"), "curves": ("perturbation", "severity"), "traits": ("property", "rank ")}
    for figure in report.figures:
        texts = re.findall(r"<(?:text|tspan)\b[^>]*>([^<]+)<", drawn[f"figures/{figure.name}.svg"].decode())
        assert not [text for text in texts if "…" in text]
        key, title = panels.get(figure.name, ("", ""))
        if key:
            count = sum(text.startswith(title) for text in texts)
            assert count == figure.numbers[key].n_unique(), figure.name


def test_a_cam_has_one_colour_in_every_figure(report, files):
    colour = look("a").colour
    for figure in report.figures:
        if figure.name != "heatmap":
            assert colour in files[f"figures/{figure.name}.svg"].decode().lower()
