"""A report in the user's own folder: only files that camrobust wrote are replaced, and no link is followed.

A file is written beside its name and then renamed, so another name of the old one (a hard link, as in a snapshot of the
folder) keeps the old content, and a report that is cut short leaves no half file.
"""

import secrets
from collections.abc import Iterable
from os import SEEK_END
from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.io.local_folder import written
from camrobust.report.paper import PDF

PAGE = b": camrobust report</title>"
"""How the title of every page ends."""
HEAD_BYTES = 16 * 2**10
"""The title ends before this."""
SUFFIXES = (".html", ".htm")


def check_replaced(name: Path, option: str = "--output") -> None:
    """Refuse to write a page or a PDF over a file that is not one of ours.

    Args:
        name: of the page or the PDF.
        option: which the user may set otherwise.

    Raises:
        UserError: there is such a file.
    """
    if name.is_symlink() or (name.exists() and not name.is_dir() and not _is_ours(name)):
        raise _foreign(name, option)


def write_pdf(name: Path, content: bytes) -> None:
    """Write a PDF; errors are those of `write_page`."""
    check_replaced(name)
    _write(name, content)


def write_page(name: Path, files: Iterable[tuple[str, bytes]], option: str = "--output") -> None:
    """Write a page and, beside it, its figures.

    Figures replace others only where a page of ours lies in the folder: then they are ours, too.

    Args:
        name: of the page.
        files: names below the report's folder and contents, the page last.
        option: which the user may set otherwise.

    Raises:
        UserError: a file that is not ours would be replaced.
        OSError: a file cannot be written.
    """
    *figures, (_, page) = files
    folder = name.parent
    check_replaced(name, option)
    below = folder / "figures"
    places = [below, *(folder / place for place, _ in figures)]
    link = next((place for place in places if place.is_symlink()), None)
    there = next((place for place in places[1:] if place.exists()), None)
    foreign = link or (there if there is not None and not _has_page(folder) else None)
    if foreign is not None:
        raise _foreign(foreign, option)
    below.mkdir(parents=True, exist_ok=True)
    # The page comes first: should writing be interrupted, it says whose the figures are.
    _write(name, page)
    for place, content in figures:
        _write(folder / place, content)


def _write(path: Path, content: bytes) -> None:
    with written(path.with_name(f".{secrets.token_hex(8)}.tmp"), content) as beside:
        beside.replace(path)


def _has_page(folder: Path) -> bool:
    return any(_is_ours(one) for one in folder.iterdir() if one.suffix.lower() in SUFFIXES)


def _is_ours(path: Path) -> bool:
    """Whether a file is a page or a PDF that camrobust wrote; a link is none."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        if PAGE in file.read(HEAD_BYTES):
            return True
        file.seek(max(0, file.seek(0, SEEK_END) - len(PDF)))
        return file.read() == PDF


def _foreign(path: Path, option: str) -> UserError:
    return UserError(
        f"report: '{short(str(path))}' exists, and nothing says that camrobust wrote it; choose another {option}, or "
        "remove it"
    )
