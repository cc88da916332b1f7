import re
from html.parser import HTMLParser

import numpy as np
import pytest

from camrobust.report.gallery import RAMP, colour, overlay
from camrobust.report.page import build_report
from camrobust.schema import MAPS, SCORES
from camrobust.summary.aggregate import summarise
from tests.synthetic import failures, frame, images, maps, scores

HOSTILE = [
    '<script>alert("x")</script>.jpg',
    'it\'s "quoted" & more.png',
    "\u202egpj.exe",
    "a" * 300,
    "</script><b>",
    "e",
]
RUN = {"digest": "d1", "config": {"gallery": 4, "seed": 0}, "models": ["m<i>"], "cams": ["gradcam", "random"], "controls": ["random"],  # noqa: E501
       "variants": [{}] * 3, "same_as": {"m<i>": {}}, "target_layers": {"m<i>": "layer4"}, "versions": {"torch": "2"},
       "hardware": {"system": "x"}}  # fmt: skip


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def build(table, gallery=True, broken=(), run=RUN):
    pictures = maps(table) if gallery else frame(MAPS, [])
    summaries = summarise(table.lazy())
    return build_report(run, summaries, table.lazy(), images(table), failures(*broken), pictures)


@pytest.fixture(scope="module")
def page():
    return build(scores(models=("m<i>",), ids=HOSTILE), broken=["<img onerror=1>.jpg"])


def test_the_page_needs_nothing_else(page):
    reader = Reader(page)
    assert all(link.startswith("data:image/jpeg;base64,") for link in reader.links)
    assert not [tag for tag, _ in reader.tags if tag in ("link", "iframe", "object")]
    assert len(page) < 10_000_000


def test_hostile_names_are_text(page):
    reader = Reader(page)
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 2
    assert not [tag for tag, _ in reader.tags if tag in ("i", "b") and tag == "i"]
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert "<img onerror=1>.jpg" in reader.text
    assert '<script>alert("x")' not in page


def test_pictures_have_alternative_texts_and_tables_have_scopes(page):
    reader = Reader(page)
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert pictures
    assert all(attributes.get("alt") for attributes in pictures)
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    assert ("html", {"lang": "en"}) in reader.tags


def test_numbers_of_the_leaderboard_are_those_of_the_summary():
    table = scores(images=8, bad=0)
    line = summarise(table.lazy())["by_cam"].row(0, named=True)
    page = build(table)
    for name in ("robustness_adjusted", "consistency_adjusted", "responsiveness", "robustness"):
        assert f"{line[name]:.2f}" in page
    assert f"{line['consistency_lower']:.2f} to {line['consistency_upper']:.2f}" in page
    assert "floor: random weights" in page


def test_a_run_without_flips_says_so():
    page = build(scores(flip=-1, bad=0))
    assert "No prediction flipped, so responsiveness and robustness cannot be measured." in page


def test_a_run_without_pictures_scores_or_severities_still_builds():
    assert "No pictures: either none were kept" in build(scores(), gallery=False)
    assert "No CAM was scored, so there is nothing to compare." in build(frame(SCORES, []), gallery=False)
    table = scores(levels=(None,)) if False else scores()
    page = build(table.with_columns(severity=None).cast({"severity": table.schema["severity"]}))
    assert "const chart = null;" in page
    assert build(scores(bad=2))


def test_twins_are_named():
    run = RUN | {"same_as": {"m<i>": {"hirescam": "gradcam"}}}
    page = build(scores(models=("m<i>",), cams=("gradcam", "hirescam"), bad=0), gallery=False, run=run)
    assert re.search(r"<th scope=\"row\">hirescam<small>same maps as gradcam</small>", page)


def test_colours_run_from_dark_to_light():
    ends = colour(np.array([[0.0, 1.0]]))
    assert ends[0, 0].tolist() == RAMP[0].tolist()
    assert ends[0, 1].tolist() == RAMP[-1].tolist()
    lightness = colour(np.linspace(0, 1, 50)[None])[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > -1).all()


def test_an_overlay_of_a_flat_or_broken_map_is_still_a_picture():
    photo = np.full((20, 30, 3), 90, np.uint8)
    for values in (np.zeros((7, 7)), np.full((7, 7), np.nan), np.random.default_rng(0).random((7, 7))):
        assert overlay(photo, values).size == (30, 20)
