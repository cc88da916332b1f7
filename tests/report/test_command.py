"""`camrobust report` as a user types it, with a browser and without one."""

import webbrowser
from pathlib import Path

import pytest

from camrobust.report import paper
from tests import in_process
from tests.photos import write_photos
from tests.runs import TINY, config

FAKE = """#!/bin/sh
for one in "$@"; do case $one in --print-to-pdf=*) printf '%%PDF-1.4 made up' > "${one#*=}";; esac; done
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run of one model and two CAMs on three photos."""
    folder = tmp_path_factory.mktemp("reported")
    write_photos(folder / "set", 3)
    path = config(folder, folder / "set", models=["tests.toys:pooled"], cams=["gradcam", "random"],
                  perturbations=["gaussian_noise:1"], **TINY)  # fmt: skip
    assert in_process.run(path).exit_code == 0
    return folder / "out"


@pytest.fixture
def browser(tmp_path, monkeypatch):
    """A browser that prints at once."""
    program = tmp_path / "bin" / "chromium"
    program.parent.mkdir()
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setattr(paper, "find_browser", lambda: str(program))


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ([], "{run}/report/00000002/index.html"),
        (["--format", "html"], "{run}/report/00000002/index.html"),
        (["--format", "pdf"], "{run}/report/00000002/report.pdf"),
        (["--output", "{here}/new/folder"], "{here}/new/folder/index.html"),
        (["--output", "{here}/mine.html"], "{here}/mine.html"),
        (["--output", "{here}/mine.pdf"], "{here}/mine.pdf"),
        (["--output", "{here}/MINE.PDF"], "{here}/MINE.PDF"),
        (["--output", "{here}/folder", "--format", "pdf"], "{here}/folder/report.pdf"),
        (["--output", "{here}/v0.pdf", "--format", "html"], "{here}/v0.pdf/index.html"),
    ],
)
def test_what_is_written_where(run, browser, typed, written, tmp_path, capsys):
    (tmp_path / "v0.pdf").mkdir()
    places = {"run": run, "here": tmp_path}
    code, out, err = in_process.camrobust(capsys, "report", run, *(one.format(**places) for one in typed))
    path = written.format(**places)
    assert (code, out, err) == (0, f"{path}\n", "")
    assert Path(path).read_bytes()[:5] == (b"%PDF-" if path.lower().endswith("pdf") else b"<!doc")


@pytest.mark.parametrize("name", ["folder", "mine.html", "mine.pdf"])
def test_the_same_command_again_replaces_its_own_files_and_no_others(run, browser, name, tmp_path, capsys):
    place = tmp_path / name
    assert in_process.camrobust(capsys, "report", run, "--output", place)[0] == 0
    folder = place if name == "folder" else tmp_path
    (folder / "figures").mkdir(exist_ok=True)
    for own in ("notes.txt", "figures/own.png"):
        (folder / own).write_text("mine")
    assert in_process.camrobust(capsys, "report", run, "--output", place)[::2] == (0, "")
    assert [(folder / own).read_text() for own in ("notes.txt", "figures/own.png")] == ["mine"] * 2


@pytest.mark.parametrize(
    ("theirs", "typed"),
    [
        ("index.html", "{here}"),
        ("figures/leaderboard.csv", "{here}"),
        ("thesis.html", "{here}/thesis.html"),
        ("thesis.pdf", "{here}/thesis.pdf"),
    ],
)
def test_a_file_that_camrobust_did_not_write_is_not_replaced(run, browser, theirs, typed, tmp_path, capsys):
    file = tmp_path / theirs
    file.parent.mkdir(exist_ok=True)
    file.write_text("%PDF-1.4 mine")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = in_process.camrobust(capsys, "report", run, "--output", typed.format(here=tmp_path))
    assert (code, out) == (2, "")
    assert err == (
        f"camrobust: report: '{file}' exists, and nothing says that camrobust wrote it; choose another --output, or "
        "remove it\n"
    )
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert file.read_text() == "%PDF-1.4 mine"


@pytest.mark.parametrize("link", ["index.html", "report.pdf", "figures", "figures/leaderboard.csv"])
def test_no_link_is_followed(run, browser, link, tmp_path, capsys):
    here, aim = tmp_path / "here", tmp_path / "aim"
    form = "pdf" if link.endswith("pdf") else "html"
    assert in_process.camrobust(capsys, "report", run, "--output", here, "--format", form)[0] == 0
    (here / link).rename(aim)
    (here / link).symlink_to(aim)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, out, err = in_process.camrobust(capsys, "report", run, "--output", here, "--format", form)
    assert (code, out) == (2, "")
    assert err.startswith(f"camrobust: report: '{here / link}' exists, and nothing says that camrobust wrote it; ")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--output", "{here}/x.pdf", "--format", "html"], "report: --output ends in .pdf, but --format is html; give"),
        (["--output", "s3://bucket/page"], "report: --output must be a folder or a file of this machine"),
        (["--output", "{here}/file/page.html"], "is a file, not a folder; choose another --output"),
        (["--output", "{here}/file"], "is a file, not a folder; choose another --output"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_anything_is_drawn(run, typed, sentence, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    code, out, err = in_process.camrobust(capsys, "report", run, *(one.format(here=tmp_path) for one in typed))
    assert (code, out) == (2, "")
    assert sentence in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_without_a_browser_a_pdf_is_one_sentence_and_nothing_is_made(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "find_browser", lambda: None)
    code, out, err = in_process.camrobust(capsys, "report", run, "--output", tmp_path / "new" / "x.pdf")
    assert (code, out) == (2, "")
    assert err.startswith("camrobust: report: a PDF is printed by a browser, and none is installed")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("starts", [True, False])
def test_open_shows_what_was_written(run, starts, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda address: (shown.append(address), starts)[1])
    page = tmp_path / "my page.html"
    code, out, err = in_process.camrobust(capsys, "report", run, "--output", page, "--open")
    assert shown == [page.as_uri()]
    assert out == f"{page}\n"
    assert (code, "no browser could be started to show it" in err) == ((0, False) if starts else (2, True))
    assert page.is_file()
