"""The page as a PDF, page by page: by its text and by its picture."""

import os

import numpy as np
import polars as pl
import pytest

from camrobust.contract.errors import UserError
from camrobust.report import paper
from camrobust.report.page import build_report
from camrobust.summary.aggregate import SummarySettings, reduce_frame
from camrobust.summary.characteristics import characterise
from camrobust.summary.significance import significance_tests
from tests.report.test_page import run_of
from tests.summary.test_characteristics import photos
from tests.synthetic import failures, images, maps, scores

NAMES = ("gradcam", "gradcam++", "ablationcam", "eigencam", "layercam", "xgradcam", "hirescam", "eigengradcam",
         "scorecam", "random")  # fmt: skip
HEADINGS = ("Leaderboard", "Against severity", "CAM × perturbation", "More than chance?",
            "What characteristics of the images explain", "Gallery", "How this was made", "Most stable")  # fmt: skip
BESIDE = {
    "Against severity": "Agreement of maps against severity",
    "CAM × perturbation": "Agreement of maps by CAM and perturbation",
    "More than chance?": "Mean ranks of the distinct CAMs",
    "What characteristics of the images explain": "Properties of images against",
}
"""Headings, and what their figure begins with, on the same page."""
MARGIN_PX = 8
"""At 72 dpi; the page has 34 points of margin."""
needs_browser = pytest.mark.skipif(paper.find_browser() is None, reason="needs a browser: apt-get install chromium")


def report_of(models, datasets, perturbations, count=14):
    """A report with all sections."""
    table = scores(images=count, models=models, datasets=datasets, cams=NAMES, perturbations=perturbations,
                   levels=(1, 2, 3, 4, 5), seed=1, bad=0.02)  # fmt: skip
    pictures = photos(table)
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tables = {
        **reduction.tables,
        "tests": significance_tests(reduction.profiles, ["random"]),
        "characteristics": characterise(reduction.profiles, pictures),
    }
    kept = table.filter(pl.col("image_id").is_in([f"image-{n}" for n in range(6)]) & (pl.col("dataset") == datasets[0]))
    run = run_of(models=models, cams=NAMES)
    return build_report(run, tables, table.lazy(), images(table), failures("broken"), maps(kept, NAMES), name="a run")


def check_pages(report):
    """Nothing is cut, no heading stands alone at the end of a page, nothing is there to be clicked.

    Returns:
        The text of every page.
    """
    pypdfium2 = pytest.importorskip("pypdfium2", reason="needs pypdfium2: pip install '.[dev]'")
    document = pypdfium2.PdfDocument(paper.printed(report.page))
    texts = []
    for page in document:
        text = page.get_textpage().get_text_bounded()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        grey = np.asarray(page.render(scale=1).to_pil().convert("L"))
        assert page.get_width() > page.get_height()
        assert (grey < 200).mean() > 0.001, "an empty page"
        edges = (grey[:MARGIN_PX], grey[-MARGIN_PX:], grey[:, :MARGIN_PX], grey[:, -MARGIN_PX:])
        assert all((edge > 250).all() for edge in edges), "something reaches into the margin"
        assert lines[-1] not in HEADINGS
        texts.append(text)
    whole = " ".join(" ".join(texts).split())
    for control in ("Save this view", "Files:", "Dark", "Scrolls sideways", "↕"):
        assert control not in whole
    for heading in HEADINGS:
        assert heading in whole
    for row in report.leaderboard.iter_rows(named=True):
        assert f"{row['consistency']:.2f}" in whole
    for heading, begin in BESIDE.items():
        assert [begin in text for text in texts if heading in text] == [True], heading
    # The last column of the leaderboard, and the last line of the page.
    assert "images" in texts[0] or "images" in texts[1]
    assert "gallery_images: 4" in whole
    return texts


@needs_browser
def test_a_page_is_printed_whole():
    texts = check_pages(report_of(("resnet18",), ("photos",), ("gaussian_noise", "contrast")))
    assert "a run" in texts[0]


@needs_browser
@pytest.mark.skipif(not os.environ.get("CAMROBUST_ALL"), reason="a minute: 5 models, 2 datasets, 10 CAMs, 40 variants")
def test_the_page_of_a_wide_run_is_printed_whole():
    eight = ("gaussian_noise", "shot_noise", "contrast", "fog", "pixelate", "brightness", "frost", "motion_blur")
    report = report_of(tuple(f"resnet{n}" for n in (18, 34, 50, 101, 152)), ("photos", "drawings"), eight)
    assert len(report.page.encode()) < 10_000_000
    texts = check_pages(report)
    assert sum("Scroll" in text for text in texts) == 0
    for perturbation in eight:
        assert any(perturbation in text for text in texts)


def test_without_a_browser_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(paper, "find_browser", lambda: None)
    with pytest.raises(UserError, match=r"^report: a PDF is printed by a browser, and none is installed .* print it$"):
        paper.printed("")


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nexit 0\n", "no script"])
def test_a_browser_that_fails_is_one_sentence(tmp_path, monkeypatch, script):
    browser = tmp_path / "chromium"
    browser.write_text(script)
    browser.chmod(0o755)
    monkeypatch.setattr(paper, "find_browser", lambda: str(browser))
    with pytest.raises(UserError, match=r"^report: .* did not print the page"):
        paper.printed("<p>x")
