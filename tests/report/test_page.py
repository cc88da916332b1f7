import json
import os
import re
import subprocess
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from readme_renderer.markdown import variants

from camrobust.bench.scale import rows as volume
from camrobust.contract.quoting import UNSAFE, UNSAFE_IN_LINES, shell_word
from camrobust.contract.schema import CLEAN, MAPS, SCORES
from camrobust.report.gallery import exhibits
from camrobust.report.leaderboard import latex, lines, markdown
from camrobust.report.page import build_report
from camrobust.report.pictures import RAMP, colour, overlay
from camrobust.report.reproduce import commands
from camrobust.results.folder import open_run
from camrobust.results.reduce import combined_record
from camrobust.run.summarise import aggregate
from camrobust.summary.aggregate import SummarySettings, reduce_frame, summarise
from camrobust.summary.significance import significance_tests
from tests.documents import VARIANT, run_record
from tests.synthetic import failures, frame, images, maps, scores

HOSTILE = [
    '<script>alert("x")</script>.jpg',
    'it\'s "quoted" & more.png',
    "\u202egpj.exe",
    "a" * 300,
    "</script><b>",
    "e",
]


def run_of(models=("m<i>",), cams=("gradcam", "random"), **changes):
    """run.json of what `build` draws."""
    variants = [VARIANT | {"replicate": number} for number in range(3)]
    fixed = {"models": models, "cams": cams, "variants": variants, "config": {"gallery_images": 4}}
    return run_record(9, **fixed | changes)


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


def build(table, gallery=True, broken=(), run=None):
    pictures = maps(table) if gallery else frame(MAPS, [])
    summaries = summarise(table.lazy())
    return build_report(run or run_of(), summaries, table.lazy(), images(table), failures(*broken), pictures).page


@pytest.fixture(scope="module")
def page():
    return build(scores(models=("m<i>",), ids=HOSTILE), broken=["<img onerror=1>.jpg"])


def test_the_page_needs_nothing_else(page):
    reader = Reader(page)
    links = [link for link in reader.links if not link.startswith(("#", "figures/"))]
    assert links
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert not [tag for tag, _ in reader.tags if tag in ("link", "iframe", "object")]
    assert len(page) < 10_000_000


def test_hostile_names_are_text(page):
    reader = Reader(page)
    assert len([tag for tag, _ in reader.tags if tag == "script"]) == 3
    assert not [tag for tag, _ in reader.tags if tag == "i"]
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
    assert "responsiveness 0 = same ranking, 1 = as chance moves it; RM can exceed 1" in page


def test_one_of_a_kind_has_no_plural():
    """One image, one model, one CAM beside the control, one comparison."""
    for count in (1, 2):
        table = scores(images=count, models=("m",), bad=0)
        reduction = reduce_frame(table.lazy(), SummarySettings())
        tables = {**reduction.tables, "tests": significance_tests(reduction.profiles, ["random"])}
        report = build_report(run_of(models=("m",), variants=[VARIANT]), tables, table.lazy(), images(table),
                              failures("x"), frame(MAPS, []))  # fmt: skip
        drawn = [content.decode() for name, content in report.files() if name.endswith(".svg")]
        assert drawn
        text = re.sub(r"\s+", " ", Reader(report.page.partition("<main>")[2]).text + " ".join(drawn))
        assert not re.findall(r"(?<![\d,.])1 (?:images|models|variants|comparisons|rows|others|distinct CAMs)", text)
        assert f"{count} image{'s' * (count > 1)}, 1 model, 2 CAM methods, 1 perturbed variant of each image" in text
        assert f"n = {count} image{'s' * (count > 1)}<" in text


def test_sections_have_one_name_and_begin_with_the_first_of_the_leaderboard():
    """Model n has the better maps, dataset e the best of them."""
    better = {("n", "d"): 0.05, ("n", "e"): 0.1}
    table = pl.concat([
        scores(images=8, models=(model,), datasets=(dataset,), bad=0, seed=1).with_columns(
            pl.col("rbo_adjusted") + pl.when(pl.col("kept_class")).then(better.get((model, dataset), 0)).otherwise(0)
        )
        for model in ("m", "n") for dataset in ("d", "e")
    ])  # fmt: skip
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tables = {**reduction.tables, "tests": significance_tests(reduction.profiles, ["random"])}
    report = build_report(run_of(models=("m", "n")), tables, table.lazy(), images(table), failures(), frame(MAPS, []))
    assert report.leaderboard.row(0, named=True)["model"] == "n"
    assert report.page.count(">Models and datasets<") == 2
    for figure in report.figures:
        if figure.name in ("curves", "heatmap", "ranks"):
            assert figure.numbers.select("model", "dataset").row(0) == ("n", "e"), figure.name
    bullets = re.findall("<li>(.*?)</li>", report.page)
    assert bullets[0].startswith("n on e, adjusted RM")


def test_only_comparisons_below_5_percent_are_bold():
    table = pl.concat([
        scores(images=12, cams=("a", "b"), models=("m",), bad=0, seed=1),
        scores(images=12, cams=("random",), models=("m",), bad=0, seed=1).with_columns(pl.col("rbo_adjusted") - 0.6),
    ])  # fmt: skip
    reduction = reduce_frame(table.lazy(), SummarySettings())
    tests = significance_tests(reduction.profiles, ["random"])
    run = run_of(models=("m",), cams=("a", "b", "random"))
    page = build_report(run, {**reduction.tables, "tests": tests}, table.lazy(), images(table), failures(),
                        frame(MAPS, [])).page  # fmt: skip
    rows = re.findall(r'<tr( class="clear")?><th scope="row">.*?<td>([^<]*)</td><td>\d+</td></tr>', page)
    assert len(rows) == 3
    assert {bool(bold) for bold, _ in rows} == {True, False}
    assert all(bool(bold) == (float(p.removeprefix("< ")) < 0.05) for bold, p in rows)


def test_pairs_of_ambiguous_maps_are_told():
    assert "% ambiguous" not in build(scores(images=8, bad=0))
    table = scores(images=8, bad=0).with_columns(
        pl.when(pl.col("severity") == 1).then(pl.lit("ambiguous")).otherwise("status").alias("status")
    )
    assert "33.3 % ambiguous" in build(table)


def test_a_run_without_flips_says_so():
    page = build(scores(flip=-1, bad=0))
    assert "No prediction flipped, so responsiveness and RM cannot be measured." in page


def test_a_run_without_pictures_scores_or_severities_still_builds():
    assert "No pictures: none were kept" in build(scores(), gallery=False)
    assert "No CAM was scored, so there is nothing to compare." in build(frame(SCORES, []), gallery=False)
    table = scores()
    page = build(table.with_columns(severity=None).cast({"severity": table.schema["severity"]}))
    assert "Strengths were given by parameter, not by severity, so there is no curve" in page
    assert "No pair of maps could be compared" in build(scores(bad=2))


def test_twins_are_named():
    run = run_of(same_as={"m<i>": {"hirescam": "gradcam"}})
    page = build(scores(models=("m<i>",), cams=("gradcam", "hirescam"), bad=0), gallery=False, run=run)
    assert '<th scope="row">gradcam<small>same maps: hirescam</small></th>' in page
    assert '<th scope="row">hirescam' not in page


def test_ranks_begin_at_1_and_leave_out_the_floor_and_what_has_no_value():
    table = scores(images=12, cams=("a", "b", "random"), bad=0, seed=2)
    table = pl.concat([table, scores(images=12, cams=("c",), bad=2).with_columns(cam=pl.lit("c"))])
    by_cam = summarise(table.lazy())["by_cam"]
    found = lines(by_cam, ["random"], {})
    assert [(line["cam"], line["rank"]) for line in found if line["rank"]] == [
        (cam, place + 1)
        for place, cam in enumerate(
            by_cam.filter(pl.col("cam").is_in(["a", "b"])).sort("robustness_adjusted", descending=True)["cam"]
        )
    ]
    assert {line["cam"] for line in found if not line["rank"]} == {"c", "random"}
    whiskers = [line["cells"][0]["whisker"] for line in found if line["rank"]]
    assert all(0 <= place <= 100 for one in whiskers for place in one.values())


def test_whiskers_of_values_that_are_all_0_or_missing():
    by_cam = summarise(scores(images=8, cams=("a", "b"), bad=0).lazy())["by_cam"]
    for value in (0.0, None):
        columns = [f"robustness_adjusted{end}" for end in ("", "_lower", "_upper")]
        flat = by_cam.with_columns(pl.lit(value if not place else None, pl.Float64).alias(name)
                                   for place, name in enumerate(columns))  # fmt: skip
        assert len(lines(flat, [], {})) == 2


def test_the_title_is_the_runs_name_and_day():
    table = scores()
    built = build_report(run_of(), summarise(table.lazy()), table.lazy(), images(table), failures(), frame(MAPS, []),
                         name="</title>mine", drawn="2026-02-01").page  # fmt: skip
    assert "<title>&lt;/title&gt;mine, 2026-01-01: camrobust report</title>" in built
    assert "<h1><bdi>&lt;/title&gt;mine</bdi>" in built


NASTY = [
    "a|b",
    "<script>",
    "[x](https://e.vil)",
    r"\input{/etc/passwd}",
    "50%_$x^2$ & #~",
    "=cmd()",
    "x\n| y",
    "\x1b[2J",
    "@all",
]


def test_names_are_text_in_tables_for_papers():
    table = scores(images=6, models=NASTY, cams=("gradcam", "random"), bad=0)
    by_cam = summarise(table.lazy())["by_cam"]
    tex, text = (write(by_cam, ["random"], {}) for write in (latex, markdown))
    assert r"\textbackslash{}input\{/etc/passwd\}" in tex
    assert r"50\%\_\$x\textasciicircum{}2\$ \& \#\textasciitilde{}" in tex
    body = tex.split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert len(body) == 2 * len(NASTY)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {7}
    assert not set("<>\x1b") & {*tex}
    rows = text.splitlines()
    assert len(rows) == 2 + 2 * len(NASTY)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert not re.search(r"(?<!\\)\]\(", text)
    for harm in ("<script>", "\x1b", "@all", "https://e"):
        assert harm not in text


INERT = [r"\input{/etc/passwd}", "`x'", '"a', "a--b---c,,d", "?`!`", "www.e.vil", "WWW.e.vil/x", "http://e.vil",
         "a@e.vil", ":smile:", "- x", "1. x", "# x", "&amp;", "&#64;you", "<!--", "**b**", "``", "\\|", "a\\", "[^1]",
         "$x$"]  # fmt: skip


def test_markdown_shows_every_name_as_it_is():
    """Through comrak, an implementation of GitHub's Markdown with its links, emoji and tables."""
    table = scores(images=6, models=INERT, cams=("gradcam",), bad=0)
    html = variants["GFM"](markdown(summarise(table.lazy())["by_cam"], [], {}))
    reader = Reader(re.sub(r'<a href="mailto:[^"]*">([^<]*)</a>', r"\1", html))
    assert {tag for tag, _ in reader.tags} == {"table", "thead", "tbody", "tr", "th", "td"}
    shown = re.findall(r"<td>gradcam</td>\s*<td>(.*?)</td>", html)
    assert sorted(Reader(cell).text for cell in shown) == sorted(INERT)


def test_latex_joins_no_letters_and_gives_quotes_no_meaning():
    table = scores(images=6, models=INERT, cams=("gradcam",), bad=0)
    body = latex(summarise(table.lazy())["by_cam"], [], {}).split("\\midrule\n")[1]
    for joined in ("`", "'", '"', "--", ",,"):
        assert joined not in body
    assert "a-{}-b-{}-{}-c,{},d" in body
    assert r"\char96{}x\char39{}" in body


def test_tables_for_papers_hold_the_leaderboards_numbers():
    table = scores(images=12, cams=("gradcam", "hirescam", "random"), bad=0, seed=2)
    by_cam = summarise(table.lazy())["by_cam"]
    row = by_cam.filter(pl.col("cam") == "gradcam").row(0, named=True)
    cell = f"{row['robustness_adjusted']:.2f} [{row['robustness_adjusted_lower']:.2f}, "
    twins = {"m": {"hirescam": "gradcam"}}
    assert f"| 1 | gradcam; = hirescam | {cell}" in markdown(by_cam, ["random"], twins)
    assert f"1 & gradcam; = hirescam & {cell}".replace("-", "$-$") in latex(by_cam, ["random"], twins)


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


def test_nothing_secret_is_shown():
    config = {
        "models": [{"name": "m", "arguments": {"hf_token": "hf_abc", "num_tokens_kept": 7, "api-key": "key-one"}}],
        "datasets": [{"images": "https://me:pw1@store/x?sig=s1&v=2"}],
    }
    page = build(scores(), gallery=False, run=run_of(config=config), broken=["x"])
    for secret in ("hf_abc", "key-one", "me:pw1", "sig=s1"):
        assert secret not in page
    assert "hf_token: (hidden)" in page
    assert "num_tokens_kept: 7" in page
    assert "https://(hidden)@store/x?sig=(hidden)&amp;v=2" in page


def test_the_commands_repeat_the_run():
    versions = {"python": "3.11.2", "camrobust": "0.1.0", "torch": "2.13.0+cpu"}
    assert commands(run_of(versions=versions), "runs/a b/run.yaml") == [
        "# Python 3.11.2",
        "pip install camrobust==0.1.0 torch==2.13.0",
        "camrobust run 'runs/a b/run.yaml' --output again",
        "camrobust verify again",
    ]
    hostile = run_of(versions=versions, config={"seed": 3, "plugins": "x\nEND\n$(touch /tmp/x)"})
    written = commands(hostile)[2:-2]
    assert written[0] == f"cat > run.yaml <<'{written[-1]}'"
    assert written[-1] not in written[1:-1]
    assert yaml.safe_load("\n".join(written[1:-1])) == hostile.config.plain
    plugins = {"own.methods": {"package": "own-methods", "version": "1.2"}}
    assert commands(run_of(versions=versions, plugins=plugins), "run.yaml")[2] == (
        "# install the plugin own.methods yourself: package own-methods, version 1.2"
    )
    both = combined_record({"runs/a b": run_of(), "runs/c": run_of(models=("n",))}, "today")
    assert commands(both) == ["camrobust aggregate 'runs/a b' runs/c --output again"]


def test_nothing_of_a_strangers_run_adds_a_line_an_option_or_a_package():
    versions = {"python": "3.11.2\ncurl x | sh", "camrobust": "0.2.0; id", "torch": "2.1\nid", "timm": "$(id)",
                "--index-url=https://e.vil": "1", "evil": "6.6.6"}  # fmt: skip
    assert commands(run_of(versions=versions), "-x \x15\ny'!") == [
        "# Python 3.11.2",
        "pip install camrobust==0.2.0 torch==2.1 timm",
        r"camrobust run $'./-x \x15\x0ay\x27\x21' --output again",
        "camrobust verify again",
    ]
    two = combined_record({"--output=/x": run_of(), "a\x1b[201~\nid": run_of(models=("n",))}, "today")
    assert commands(two) == [r"camrobust aggregate ./--output=/x $'a\x1b[201~\x0aid' --output again"]


def test_a_shell_takes_a_pasted_path_as_it_is():
    paths = ["my run", "it's", "a\x1b[201~\nb", "\t$(id) `id` \\ ! \x7f'\"", "\u202e", "ü\udcff", "日本", "\x15f0", ""]
    words = " ".join(map(shell_word, paths))
    assert not UNSAFE.search(words)
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == [*map(os.fsencode, paths)]


def test_a_name_cannot_turn_the_words_around_it():
    """A mark of direction in a name would reorder the numbers behind it; the lists filter by the name all the same."""
    name = "m\u202ez\x1b"
    page = build(scores(models=(name, "n")), run=run_of(models=(name, "n")))
    head, *_ = page.partition('<script type="application/json"')
    assert not UNSAFE_IN_LINES.search(re.sub(r"<script>.*?</script>", "", head, flags=re.DOTALL))
    assert "m\\u202ez\\x1b" in head
    tags = Reader(page).tags
    offered = [json.loads(found["value"]) for tag, found in tags if tag == "option" and found["value"]]
    rows = [json.loads(found["data-model"]) for tag, found in tags if tag == "tr" and "data-model" in found]
    assert name in offered
    assert [name] in rows


def test_flipped_predictions_with_unmoved_maps_are_shown():
    table = scores(images=9, bad=0, seed=3)
    found = exhibits(maps(table), table.lazy(), "m", "gradcam")
    flipped = table.filter(~pl.col("kept_class") & (pl.col("cam") == "gradcam")).sort("rbo_adjusted", descending=True)
    assert [one.image_id for one in found["flipped"]] == flipped["image_id"].unique(maintain_order=True)[:3].to_list()
    assert found["flipped"][0].cells[1].agreement == f"agreement {flipped['rbo_adjusted'][0]:.2f}"
    assert found["flipped"][0].flip == ("class 1", "class 2")
    assert [len(found[kind]) for kind in ("most", "least")] == [3, 3]
    assert not {one.image_id for one in found["most"]} & {one.image_id for one in found["least"]}


def test_classes_have_their_names_in_the_gallery():
    table = scores(images=9, bad=0, seed=3)
    found = exhibits(maps(table), table.lazy(), "m", "gradcam", ["ant", "bee", "bee"])
    assert found["flipped"][0].flip == ("bee (1)", "bee (2)")
    assert {cell.label for one in found["most"] for cell in one.cells} == {"bee (1)"}
    run = run_of(classes={"m": ["ant", HOSTILE[0], ""]})
    page = build(table, run=run)
    reader = Reader(page)
    assert f"{HOSTILE[0]}, 80 %" in reader.text
    assert f"{HOSTILE[0]} became class 2" in reader.text
    assert HOSTILE[0] not in page
    labels = [attributes for tag, attributes in reader.tags if attributes.get("class") == "label"]
    assert {one["title"] for one in labels} == {HOSTILE[0], "class 2"}
    assert "class 1, 80 %" in Reader(build(table)).text


def test_every_model_has_the_outlines_that_only_the_first_brings():
    table = scores(models=("m", "n"), bad=0)
    pictures = maps(table)
    pictures = pictures.with_columns(outlines=pl.when(pl.col("model") == "m").then("outlines"))
    first, second = (exhibits(pictures, table.lazy(), model, "gradcam") for model in ("m", "n"))
    bare = exhibits(pictures.filter(pl.col("model") == "n"), table.lazy(), "n", "gradcam")
    assert second["most"][0].cells[0].photo != bare["most"][0].cells[0].photo
    assert second["most"][0].cells[1].photo == bare["most"][0].cells[1].photo
    assert first["most"]


def test_a_wide_run_makes_a_page_below_ten_megabytes(tmp_path):
    """5 models x 2 datasets x 10 CAMs x 40 levels; the pictures are noise, which no format makes small."""
    run = open_run(str(tmp_path))
    volume.write_document(run, 12)
    for dataset in range(volume.DATASETS):
        volume.write_commit(run.uri, dataset, 0, 12)
    tables = aggregate(run)
    rows = pl.read_parquet(f"{tmp_path}/scores/**/*.parquet", hive_partitioning=True)
    kept = rows.filter(pl.col("dataset") == "dataset0")
    assert tables["by_level"].height == 5 * 2 * 10 * 40
    page = build_report(run.run(), tables, rows.lazy(), images(rows), failures(), noisy_gallery(kept)).page
    assert page.count('<img src="data:') == 2 * 2 * (6 * 4 + 3 * 2)
    assert len(page.encode()) < 10_000_000


def noisy_gallery(table):
    """The gallery of a table, every photo the same 224 px of noise."""
    sink = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(noise).save(sink, "JPEG", quality=90)
    keys = ["dataset", "image_id", "model", "perturbation", "severity", "strength", "replicate"]
    variants = table.select(keys).unique(maintain_order=True)
    clean = variants.unique(["image_id", "model"]).with_columns(
        perturbation=pl.lit(CLEAN), severity=pl.lit(None, pl.Int8), strength=pl.lit("")
    )
    cams = table["cam"].unique().sort().to_list()
    values = np.random.default_rng(1).random((len(cams), 7, 7)).astype("<f2").tobytes()
    return pl.concat([clean, variants]).with_columns(
        predicted=1, confidence=0.5, value=pl.lit(None, pl.Float32), photo=pl.lit(sink.getvalue()),
        outlines=pl.lit(None, pl.Binary), cams=pl.lit(",".join(cams)), height=7, width=7, maps=pl.lit(values),
    )  # fmt: skip


def test_attacks_on_maps_have_columns_of_their_own_and_figures_show_no_transfer():
    table = scores(images=4, models=("m<i>",), perturbations=("gaussian_noise", "cam_attack"))
    attacked = pl.when(pl.col("perturbation") == "cam_attack").then(pl.lit("gradcam"))
    table = table.with_columns(attacked_cam=attacked, strength=pl.col("perturbation") + pl.col("strength"))
    report = build_report(run_of(), summarise(table.lazy()), table.lazy(), images(table), failures(), frame(MAPS, []))
    text = Reader(report.page).text
    assert "its own map" in text
    assert "summary.map_attacks: apart" in text
    for figure in report.figures:
        if "perturbation" in figure.numbers.columns:
            drawn = figure.numbers.filter(pl.col("perturbation") == "cam_attack")
            assert {*drawn["cam"]} == {"gradcam"}
    assert report.leaderboard.filter(pl.col("cam") == "random")["n_transferred"].item() == 12
    calm, stormy = (table.filter(rule) for rule in (attacked.is_null(), attacked.is_not_null()))
    assert "its own map" not in Reader(build(calm, gallery=False)).text
    assert "No pair of maps could be compared" in Reader(build(stormy, gallery=False)).text
