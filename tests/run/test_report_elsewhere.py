"""A report in the user's folder, written over an earlier one."""

import os

import pytest

from camrobust.contract.errors import UserError
from camrobust.report.paper import PDF
from camrobust.run.report_elsewhere import PAGE, check_replaced, write_page, write_pdf


def files(version):
    return [("figures/a.svg", version), ("index.html", b"<title>x" + PAGE + version)]


def test_other_names_of_an_earlier_report_keep_it(tmp_path):
    """As in a snapshot of hard links, where both names are one file."""
    page, kept = tmp_path / "page" / "index.html", tmp_path / "kept"
    write_page(page, files(b"first"))
    kept.mkdir()
    written = [(path, kept / path.name) for path in (page, page.parent / "figures" / "a.svg")]
    for path, other in written:
        os.link(path, other)
    write_page(page, files(b"second"))
    for path, other in written:
        assert (path.read_bytes()[-6:], other.read_bytes()[-5:]) == (b"second", b"first")
    assert {path.name for path in page.parent.rglob("*")} == {"index.html", "figures", "a.svg"}


def test_a_pipe_is_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "index.html")
    with pytest.raises(UserError, match="exists, and nothing says that camrobust wrote it"):
        write_page(tmp_path / "index.html", files(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_link_to_a_page_elsewhere_does_not_make_figures_ours(tmp_path):
    write_page(tmp_path / "page" / "index.html", files(b"x"))
    (tmp_path / "site" / "figures").mkdir(parents=True)
    (tmp_path / "site" / "figures" / "a.svg").write_bytes(b"mine")
    (tmp_path / "site" / "camrobust.html").symlink_to(tmp_path / "page" / "index.html")
    with pytest.raises(UserError, match=r"'.*a\.svg' exists, and nothing says that camrobust wrote it"):
        write_page(tmp_path / "site" / "index.html", files(b"y"))
    assert (tmp_path / "site" / "figures" / "a.svg").read_bytes() == b"mine"


def test_a_pdf_that_appeared_while_the_page_was_printed_is_kept(tmp_path):
    check_replaced(tmp_path / "x.pdf")
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4 mine")
    with pytest.raises(UserError, match="exists, and nothing says that camrobust wrote it"):
        write_pdf(tmp_path / "x.pdf", b"%PDF-1.4" + PDF)
    assert (tmp_path / "x.pdf").read_bytes() == b"%PDF-1.4 mine"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_page(tmp_path / "index.html", files(b"x"))
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "figures"}
