"""The page as a PDF, printed by a browser that is installed.

A browser is what the page is written for, so the PDF has its figures as vectors and its text as text. A library that
lays out HTML without one cannot run the figures' script.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short

PDF = b"\n% camrobust report\n"
"""How every PDF ends: a comment of the format."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
            "microsoft-edge-stable", "msedge", "brave-browser", "brave")  # fmt: skip
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking",
         "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--no-pdf-header-footer", "--window-size=1280,900",
         "--virtual-time-budget=60000")  # fmt: skip
"""No name is looked up: the page needs no network. The budget is the browser's own time, in which figures are drawn."""
PATIENCE_S = 180


def find_browser() -> str | None:
    """The path of an installed browser of the Chromium family."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or next((path for path in APPLICATIONS if Path(path).is_file()), None)


def needed_browser() -> str:
    """The path of an installed browser.

    Raises:
        UserError: there is none.
    """
    browser = find_browser()
    if browser is None:
        raise UserError(
            "report: a PDF is printed by a browser, and none is installed (Chromium, Chrome, Edge or Brave); install "
            "one, or open the page of --format html and print it"
        )
    return browser


def printed(page: str) -> bytes:
    """The page as a PDF.

    Args:
        page: HTML that needs no other file.

    Raises:
        UserError: there is no browser, or it fails.
    """
    browser = needed_browser()
    with tempfile.TemporaryDirectory(prefix="camrobust-print-") as folder:
        source, target = Path(folder, "index.html"), Path(folder, "report.pdf")
        source.write_text(page, encoding="utf-8")
        # Chromium refuses its sandbox to the superuser.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        command = [browser, *FLAGS, *sandbox, f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}",
                   source.as_uri()]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"report: {short(browser)} did not print the page ({type(error).__name__})") from error
        content = target.read_bytes() if target.is_file() else b""
        if done.returncode or not content.startswith(b"%PDF-"):
            raise UserError(
                f"report: {short(browser)} did not print the page (exit code {done.returncode}); open the page of "
                "--format html and print it"
            )
        return content + PDF
