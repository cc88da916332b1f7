"""How a trial ended: its tables against those of a run without faults."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import polars.selectors as cs

from camrobust.bench.chaos.trial import Trial
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import read_object
from camrobust.results.folder import open_run
from camrobust.results.scan import scan_scores
from camrobust.results.verify import verify
from camrobust.run.summarise import summaries

KEYS = ["dataset", "model", "image_id", "cam", "perturbation", "strength", "replicate"]
KEYS_OF = {
    "images": ["dataset", "image_id"],
    "maps": ["dataset", "image_id", "model", "perturbation", "strength", "replicate"],
}
EXITS = (0, 1, -signal.SIGKILL, -signal.SIGTERM)


@dataclass(frozen=True)
class Results:
    """What a run has measured: its tables, each sorted by its key."""

    scores: pl.DataFrame
    images: pl.DataFrame
    maps: pl.DataFrame
    summaries: Mapping[str, pl.DataFrame]


def results_of(output: str) -> Results:
    """All results of a complete run."""
    folder = open_run(output)
    committed = folder.committed()
    small = {name: folder.table(name, committed).sort(keys) for name, keys in KEYS_OF.items()}
    scores = scan_scores(*folder.score_files(committed)).collect().sort(KEYS)
    return Results(scores, **small, summaries=summaries(folder))


def compare(rows: pl.DataFrame, expected: pl.DataFrame, keys: Sequence[str] = KEYS) -> dict[str, int]:
    """Count rows that were lost, doubled, or differ from those of a run without faults."""
    once = rows.unique(keys)
    columns = sorted(expected.columns)
    shared = expected.join(once.select(keys), on=keys, how="semi", nulls_equal=True).select(columns).sort(keys)
    other = once.join(expected.select(keys), on=keys, how="semi", nulls_equal=True).select(columns).sort(keys)
    same = shared.equals(other)
    different = 0 if same else sum(a != b for a, b in zip(shared.iter_rows(), other.iter_rows(), strict=True))
    return {
        "lost": expected.join(once, on=keys, how="anti", nulls_equal=True).height,
        "doubled": rows.height - once.height,
        "different": different,
    }


def differing(tables: Mapping[str, pl.DataFrame], expected: Mapping[str, pl.DataFrame]) -> int:
    """Number of summary tables that differ from those of a run without faults, by a bit or more."""
    return sum(not _alike(tables[name], table) for name, table in expected.items())


def _alike(table: pl.DataFrame, expected: pl.DataFrame) -> bool:
    if table.schema != expected.schema:
        return False
    keys = expected.select(~cs.float()).columns
    return table.sort(keys).equals(expected.sort(keys))


def wrong(results: Results, expected: Results) -> dict[str, int]:
    """What is wrong, by kind: rows of scores, of images and of maps, and summary tables."""
    small = {
        name: sum(compare(getattr(results, name), getattr(expected, name), keys).values())
        for name, keys in KEYS_OF.items()
    }
    summed = {"summaries": differing(results.summaries, expected.summaries)}
    return compare(results.scores, expected.scores) | small | summed


def judge(trial: Trial, expected: Results, seconds: float) -> dict[str, Any]:
    """One line of the table of trials: how the trial ended, and whether it counts as one."""
    completed = verify(open_run(trial.output)) if trial.exits[-1] == 0 else None
    whole = completed is not None and completed.complete and not completed.failed_rows
    counts = wrong(results_of(trial.output), expected) if whole else {"lost": expected.scores.height}
    counts["touched"] = touched(trial)
    ended_well = all(code in EXITS for code in (*trial.exits, *trial.woken))
    exact = whole and ended_well and not any(counts.values())
    injected = trial.injected
    return {
        "trial": trial.number,
        "config": trial.job.name,
        "store": "folder" if trial.faults is None else "s3",
        "injected": injected,
        "missed": [*trial.missed, *(one.words for one in trial.injections if one.words not in injected)],
        "exits": trial.exits,
        "woken": trial.woken,
        **dict.fromkeys(("lost", "doubled", "different", "images", "maps", "summaries"), 0),
        **counts,
        "counts": bool(injected),
        "exact": exact,
        "seconds": round(seconds, 1),
        "last": "" if exact else "\n".join(trial.told)[-2000:],
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
