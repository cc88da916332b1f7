"""Faults of files: images that vanish, results that are deleted, foreign files, a disk that is full."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl

from camrobust.bench.chaos.node_faults import mount
from camrobust.bench.chaos.process_faults import at_once
from camrobust.bench.chaos.trial import Injection, Trial
from camrobust.io.store import open_object
from camrobust.results.folder import open_run

DISK_KIB = 192
FULL = "No space left on device"
INJURED = 6
"""Number of photos that may be damaged, the first ones."""


def plant(trial: Trial) -> Injection:
    """Foreign files are put among the results of the run; they must stay as they are."""
    runs = trial.runs()
    names = ("images/holiday.jpg", "maps/thesis.txt", "scores/taxes.csv", "commits/notes.parquet",
             "scores/dataset=chaos/model=a/mine.parquet", "failures/" + "a" * 23 + ".parquet")  # fmt: skip
    trial.foreign = {f"{trial.output}/{name}": name.encode() for name in names}
    if "://" not in trial.output:
        elsewhere = Path(f"{trial.output}-elsewhere")
        elsewhere.mkdir(exist_ok=True)
        trial.foreign[str(elsewhere / f"{'a' * 24}.parquet")] = b"behind a link"
    for place, content in trial.foreign.items():
        store, key = open_object(place)
        store.write(key, content)
    if "://" not in trial.output:
        Path(trial.output, "scores", "dataset=chaos", "old").symlink_to(elsewhere)
    return at_once("foreign files in the output", struck=runs)


def lose_result(trial: Trial) -> Injection:
    """A committed file is deleted."""
    folder = open_run(trial.output)
    keys = folder.committed().tables("scores")
    if keys:
        folder.store.delete(trial.dice.choice(keys))
        trial.lost_result = True
    return at_once("score file deleted", struck=bool(keys))


def vanish(trial: Trial) -> Injection:
    """An image is deleted; it is restored before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.delete(key)
    return _until_repaired(trial, "image deleted", key, lambda: trial.photos.write(key, content))


def corrupt(trial: Trial) -> Injection:
    """An image is cut in half; it is restored before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.write(key, content[: len(content) // 2])
    return _until_repaired(trial, "image corrupted", key, lambda: trial.photos.write(key, content))


def _an_image(trial: Trial) -> tuple[str, bytes]:
    keys = [entry.key for entry in trial.photos.list()]
    key = keys[trial.dice.randrange(INJURED)]
    return key, trial.photos.read(key)


def _until_repaired(trial: Trial, words: str, key: str, restore: Callable[[], None]) -> Injection:
    """It has struck if the image has a failure row when it is restored: it may have been loaded before."""
    named: list[bool] = []

    def repair() -> None:
        folder = open_run(trial.output)
        named.append(not folder.table("failures", folder.committed()).filter(pl.col("image_id") == key).is_empty())
        restore()

    trial.repairs.append(repair)
    return Injection(words, lambda: any(named))


def full_disk(trial: Trial) -> Injection:
    """The output is on a file system of a few hundred KiB, which is enlarged before the last attempt."""
    mount(Path(trial.output), DISK_KIB)

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", trial.output], check=True)

    trial.repairs.append(grow)
    return Injection("disk full", lambda: any(FULL in told for told in trial.told))
