"""The page of a whole run in a real browser; its screenshots are kept in .pytest-artifacts/."""

import csv
import shutil
from contextlib import contextmanager

import pytest

from camrobust.contract.quoting import harmless
from tests import in_process, runs
from tests.photos import write_photos
from tests.report.test_paper import report_of
from tests.runs import ROOT, config

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
ARTIFACTS = ROOT / ".pytest-artifacts"
FIGURES = ("models", "curves", "heatmap", "ranks", "traits")
MODELS = ["<script>alert('model')</script>", "a" * 120]
DATASET = '"d" & <b>\'s'
HOSTILE = ["</script><script>alert(1)</script>.jpg", 'it\'s "quoted" &amp; more.jpg', "\u202egpj.exe", "é" * 250]
CLASSES = ["<img src=x onerror=alert(3)>", "\u202egpj.exe", *("ü" * 200 + str(number) for number in range(8))]
PERTURBATIONS = ("gaussian_noise", "shot_noise", "contrast", "fog")
CUT = """[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)
    .map(one => one.getAttribute('aria-label'))"""
LINES = """Object.fromEntries([...document.querySelectorAll('#board tbody th, #board td.text bdi')].map(one => {
    const range = document.createRange();
    range.selectNodeContents(one.firstChild);
    return [one.firstChild.textContent, new Set([...range.getClientRects()].map(box => box.top)).size];
}))"""
SHAPE = """(() => {
    const box = document.querySelector('#curves svg').viewBox.baseVal;
    return box.width / box.height;
})()"""
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run whose names are all hostile: files, dataset, models."""
    folder = tmp_path_factory.mktemp("browser")
    write_photos(folder / "set", 14)
    (folder / "set" / "photo-013.jpg").write_bytes(b"")
    names = [*HOSTILE, *(f"photo {number}" for number in range(len(HOSTILE), 13)), "<img src=x onerror=alert(2)>"]
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["uri", "image_id"])
        rows.writerows((folder / "set" / f"photo-{number:03}.jpg", name) for number, name in enumerate(names))
    path = config(
        folder,
        folder / "manifest.csv",
        datasets=[{"name": DATASET, "images": str(folder / "manifest.csv")}],
        models=[
            {"name": name, "builder": f"tests.toys:{kind}", "classes": CLASSES}
            for name, kind in zip(MODELS, ("pooled", "dense"), strict=True)
        ],
        cams=["gradcam", "hirescam", "eigencam", "random"],
        perturbations=["gaussian_noise:1,5", "contrast:1,5"],
        gallery_images=13,
        max_failure_share=0.5,
    )
    assert in_process.run(path).exit_code == 0
    return runs.report(folder / "out")


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser, one of {', '.join(BROWSERS)}: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(chromium, report):
    """Opens the report and checks at the end that it asked for nothing and complained of nothing."""

    @contextmanager
    def opened(viewport=DESK, scheme="light"):
        with chromium.new_context(viewport=viewport, color_scheme=scheme) as context:
            page, said, asked = context.new_page(), [], []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request: asked.append(request.url[:80]))
            page.goto(report.as_uri())
            page.wait_for_selector("html[data-drawn]")
            yield page
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()[:80]]

    return opened


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"), [("light", DESK, "light"), ("dark", DESK, "dark"), ("phone", PHONE, "light")]
)
def test_it_draws_fits_and_is_accessible(open_page, name, viewport, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with open_page(viewport, scheme) as page:
        for figure in FIGURES:
            assert page.locator(f"#{figure} svg g.role-mark path").count() >= 3, figure
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        ARTIFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"report-{name}.png", full_page=True)
        found = axe.run(page).response["violations"]
        grave = [
            (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
        ]
        assert grave == []


def test_pictures_load_and_names_are_text(open_page):
    with open_page() as page:
        widths = page.eval_on_selector_all("img", "all => all.map(one => one.complete && one.naturalWidth)")
        assert len(widths) > 20
        assert all(widths)
        text = page.inner_text("body")
        for name in (*MODELS, DATASET, "<img src=x onerror=alert(2)>"):
            assert name in text
        shown = page.eval_on_selector_all(".exhibit bdi:not(.label)", "all => all.map(one => one.textContent)")
        assert {*shown} <= {*map(harmless, HOSTILE), DATASET, *(f"photo {number}" for number in range(13))}
        labels = page.eval_on_selector_all(".exhibit .label", "all => all.map(one => one.textContent)")
        assert labels
        assert {*labels} <= {*map(harmless, CLASSES)}
        assert page.locator("svg script").count() == 0
        assert page.locator("bdi script, bdi b, bdi img").count() == 0


def test_the_leaderboard_filters_and_sorts(open_page):
    with open_page() as page:
        visible, all_rows = page.locator("#board tbody tr:visible"), page.locator("#board tbody tr").count()
        assert 4 <= visible.count() == all_rows <= 8
        page.select_option("#filters select[name=model]", label=MODELS[0])
        here = visible.count()
        assert 0 < here < all_rows
        assert {*visible.locator("td.text bdi:first-child").all_inner_texts()} >= {MODELS[0]}
        page.select_option("#filters select[name=cam]", label="hirescam")
        assert visible.count() == 1
        assert "hirescam" in visible.locator("th").inner_text()
        assert page.inner_text("#shown") == f"1 of {all_rows} rows"
        page.select_option("#filters select[name=model]", label="all")
        page.select_option("#filters select[name=cam]", label="all")
        heading = page.locator("#board thead th").nth(2)
        assert heading.inner_text().startswith("RM")
        for order, falls in (("descending", True), ("ascending", False)):
            heading.locator("button").click()
            assert heading.get_attribute("aria-sort") == order
            cells = page.locator("#board tbody tr td:nth-child(3)")
            values = [float(text) for text in cells.evaluate_all("all => all.map(one => one.dataset.value)") if text]
            assert values == sorted(values, reverse=falls)


def test_the_lists_of_a_figure_change_it(open_page):
    with open_page() as page:
        for key, label in (("measure", "raw consistency"), ("model", MODELS[0])):
            before = page.inner_html("#heatmap svg")
            page.locator("#heatmap .controls label", has_text=key).locator("select").select_option(label=label)
            page.wait_for_function("before => document.querySelector('#heatmap svg').innerHTML !== before", arg=before)
        with page.expect_download() as saved:
            page.click("#heatmap button")
        assert saved.value.suggested_filename == "heatmap.svg"


def test_at_1280_px_nothing_is_cut_and_no_name_is_broken(chromium, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(report_of(("efficientnet_lite0",), ("photos",), PERTURBATIONS).page, "utf-8")
    with chromium.new_context(viewport=DESK) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        assert page.evaluate(CUT) == []
        assert page.locator("#curves svg").count() == 1
        lines = page.evaluate(LINES)
        assert {"eigengradcam", "efficientnet_lite0"} <= {*lines}
        assert {*lines.values()} == {1}
        # On a phone the panels stand below each other; on paper they stand side by side, and afterwards as before.
        page.set_viewport_size(PHONE)
        page.reload()
        page.wait_for_selector("html[data-drawn]")
        before = page.evaluate(SHAPE)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(SHAPE) > 1.5 * before
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(SHAPE) == pytest.approx(before, rel=0.02)
        assert page.evaluate("document.querySelector('#curves svg').clientWidth") < 1.1 * PHONE["width"]


def test_the_button_turns_light_to_dark_and_back(open_page):
    with open_page() as page:
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        page.click("#theme")
        assert page.evaluate(colour) != light
        assert page.inner_text("#theme") == "Light"
        page.click("#theme")
        assert page.evaluate(colour) == light
