"""What people see on terminals of 80 and 120 columns and in a log file."""

import re
import sys
from io import StringIO

import polars as pl
import pytest
from rich.cells import cell_len

from camrobust.contract.units import counted, duration, size
from camrobust.interface.amounts import in_units
from camrobust.interface.leaderboard import interval, show_leaderboard
from camrobust.interface.terminal import Meter, fitting, progress_parts, say, show_table
from camrobust.results.progress import Progress, Stage
from camrobust.summary.aggregate import summarise
from tests.synthetic import scores

STAGES = {name: Stage(1234.0, 3600.0, 3) for name in ("Load", "Perturb", "Explain", "Commit")}
NOW = Progress(done=12_345, total=50_000, failures=7, seconds=4000.0, stages=STAGES)


@pytest.mark.parametrize("room", [40, 60, 80, 120, 200])
def test_count_rate_and_time_left_are_never_squeezed_out(room):
    line = fitting(NOW, room)
    assert cell_len(line) <= room
    assert line.startswith("12,345 of 50,000 images, 3 h 23 min left")
    assert ("3.1 images/s" in line) == (room >= 60)
    assert ("7 failed, 1 h 7 min" in line) == (room >= 80)
    assert ("images done (workers busy)" in line) == (room == 200)
    assert "1.2 images/min" in progress_parts(Progress(2, 6, 0, 100.0, {}))
    assert progress_parts(NOW)[:3] == ["12,345 of 50,000 images", "3 h 23 min left", "3.1 images/s"]


def test_the_first_and_the_last_line(monkeypatch, capsys):
    meter = Meter()
    meter(Progress(0, 24, 0, 0.0, {}))
    meter(Progress(24, 24, 0, 36.0, STAGES))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "measured 0 of 24 images, 0 s; workers are starting"
    assert last.startswith(
        "measured 24 of 24 images, 0.67 images/s, 36 s; images done (workers busy): Load 1234 (100.0)"
    )


def test_the_bar_fits_into_80_columns(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Meter() as meter:
        meter(NOW)
        meter.bar.refresh()
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", capsys.readouterr().err)]
    lines = [line for line in shown if "images" in line]
    assert lines
    assert all(
        cell_len(line) <= 80 and "12,345 of 50,000 images, 3 h 23 min left, 3.1 images/s" in line for line in lines
    )


class Terminal(StringIO):
    def isatty(self):
        return True


def test_what_is_said_after_an_interruption_is_seen(monkeypatch):
    """A run gives standard error a stream of its own, and takes it back before the bar is removed."""
    outside, inside = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", outside)
    with Meter() as meter:
        sys.stderr = inside
        meter(NOW)
        sys.stderr = outside
    assert sys.stderr is outside
    say("interrupted")
    assert outside.getvalue().splitlines()[-1] == "interrupted"


def board(models=("m",), cams=("gradcam", "hirescam", "layercam", "random")):
    return summarise(scores(images=30, cams=cams, models=models, flip=0.4).lazy())["by_cam"]


@pytest.mark.parametrize("width", [80, 120, None])
@pytest.mark.parametrize("models", [("m",), ("resnet50", "a-model-with-a-very-long-name")])
def test_the_closing_table_fits_with_intervals_and_twins(width, models, monkeypatch, capsys):
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    table = board(models)
    show_leaderboard(table, {models[0]: {"hirescam": "gradcam"}}, ["random"])
    out, err = capsys.readouterr()
    lines = [line.rstrip() for line in out.splitlines()]
    assert max(map(cell_len, lines)) <= (width or 120)
    # Every row stands on one line, with all of its intervals.
    for row in table.iter_rows(named=True):
        wanted = [interval(row, name) for name in ("robustness_adjusted", "consistency_adjusted")]
        assert any(row["cam"] in line and all(value in line for value in wanted) for line in lines)
    assert all(any(f"{cam} ¹" in line for line in lines) for cam in ("gradcam", "hirescam"))
    assert sum("¹" in line for line in lines) == 2
    assert sum("random (floor)" in line for line in lines) == len(models)
    assert "¹: the same maps under a model, so one method" in err
    apart = width == 80 and len(models) > 1
    assert sum("Robustness of the maps" in line for line in lines) == (2 if apart else 1)
    assert ("RM raw" in out) == (width != 80 and len(models) == 1)
    if width == 80:
        assert "left out for want of width: " in err
        assert "; summary/by_cam.csv has them" in err


def test_names_are_not_folded(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    show_table("T", ["name", "more", "most"], [["eigengradcam-salient", "word " * 20, "word " * 20]])
    assert "eigengradcam-salient " in capsys.readouterr().out


def test_intervals_are_short():
    row = {"x": 0.456, "x_lower": -0.1, "x_upper": 1.0, "y": None, "y_lower": None, "y_upper": None, "z": 0.5,
           "z_lower": None, "z_upper": None}  # fmt: skip
    assert [interval(row, name) for name in "xyz"] == [".46 [-.10, 1.00]", "–", ".50"]


def test_a_table_that_is_too_wide_gives_up_its_last_columns_and_says_so(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "45")
    show_table("T", ["name", "first", "second", "third"], [["a" * 10, 0.5, "b" * 40, "c" * 40]])
    out, err = capsys.readouterr()
    assert max(map(cell_len, out.splitlines())) <= 45
    assert "0.500" in out
    assert "left out for want of width: third; a wider terminal or --json shows them" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3599.7, "1 h"),
     (86_399, "1 d"), (90_000, "1 d 1 h"), (float("inf"), "unknown")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sizes_and_counts():
    assert [size(n) for n in (0, 999, 1000, 99_999, 100_000, 9.96e6, 1.5e12)] == [
        "0 bytes", "999 bytes", "1 kB", "100 kB", "0.1 MB", "10.0 MB", "1.5 TB"]  # fmt: skip
    assert [counted(0, "row"), counted(1, "row"), counted(1000, "row")] == ["0 rows", "1 row", "1,000 rows"]


def test_a_plan_is_told_in_units_and_names_models_whole():
    told = dict(in_units({"images": 24, "explain_worker_hours": 0.01, "score_bytes": 700_000, "explain_dollars": 1234.5,
                          "target_layer_of_my_net": "layer4", "cams": 2, "interruptions": 0.25}))  # fmt: skip
    assert told == {"images": "24", "work of Explain workers": "36 s", "size of the score rows": "0.7 MB",
                    "price of Explain workers": "$1,234.50", "target layer of my_net": "layer4", "CAMs": "2",
                    "interruptions": "0.25"}  # fmt: skip


def test_nothing_is_coloured_without_a_terminal_and_names_are_harmless(capsys):
    show_leaderboard(board().with_columns(model=pl.lit("\x1b[2J[red]m")), {}, [])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2J[red]m" in out
