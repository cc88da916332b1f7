"""How a trial ended: its rows against those of a run without faults."""

import signal
from typing import Any

import polars as pl

from camrobust.bench.chaos.trial import Trial
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import read_object
from camrobust.results.folder import open_run
from camrobust.results.scan import scan_scores
from camrobust.results.verify import verify

KEYS = ["dataset", "model", "image_id", "cam", "perturbation", "strength", "replicate"]


def rows_of(output: str) -> pl.DataFrame:
    """Every score row of a run, sorted by its key."""
    folder = open_run(output)
    return scan_scores(*folder.score_files(folder.committed())).collect().sort(KEYS)


def compare(rows: pl.DataFrame, expected: pl.DataFrame) -> dict[str, int]:
    """Count rows that were lost, doubled, or differ from those of a run without faults."""
    once = rows.unique(KEYS)
    columns = sorted(expected.columns)
    shared = expected.join(once.select(KEYS), on=KEYS, how="semi").select(columns).sort(KEYS)
    other = once.join(expected.select(KEYS), on=KEYS, how="semi").select(columns).sort(KEYS)
    same = shared.equals(other)
    different = 0 if same else sum(a != b for a, b in zip(shared.iter_rows(), other.iter_rows(), strict=True))
    return {
        "lost": expected.join(once, on=KEYS, how="anti", nulls_equal=True).height,
        "doubled": rows.height - once.height,
        "different": different,
    }


def judge(trial: Trial, expected: pl.DataFrame, seconds: float) -> dict[str, Any]:
    """One line of the table of trials: how the trial ended."""
    completed = verify(open_run(trial.output)) if trial.exits[-1] == 0 else None
    rows = compare(rows_of(trial.output), expected) if completed is not None else {"lost": expected.height}
    rows["touched"] = touched(trial)
    whole = completed is not None and completed.complete and not completed.failed_rows and not any(rows.values())
    expected_exits = all(code in (0, 1, -signal.SIGKILL, -signal.SIGTERM) for code in (*trial.exits, *trial.woken))
    exact = whole and expected_exits
    return {
        "trial": trial.number,
        "store": "folder" if trial.faults is None else "s3",
        "injected": trial.injected,
        "exits": trial.exits,
        "woken": trial.woken,
        "lost": 0,
        "doubled": 0,
        "different": 0,
        **rows,
        "exact": exact,
        "seconds": round(seconds, 1),
        "last": "" if exact else trial.last[-2000:],
    }


def touched(trial: Trial) -> int:
    """Number of foreign files that were changed or deleted."""
    changed = 0
    for place, content in trial.foreign.items():
        try:
            changed += read_object(place) != content
        except MissingObjectError:
            changed += 1
    return changed
