"""One run of the real job under faults drawn from a seed, resumed until it is complete, and compared row by row.

The seed fixes which faults strike, when (as a share of the commits) and whom; what the processes are doing at that very
moment is theirs, so two trials of one seed inject the same and may end by another way.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from camrobust.bench.chaos.nodes import Node, Nodes
from camrobust.bench.chaos.processes import kill
from camrobust.bench.chaos.proxy import Faults
from camrobust.contract.errors import RunFailed
from camrobust.io.objects import MissingObjectError, Store
from camrobust.io.store import open_object, open_store, read_object
from camrobust.results.folder import open_run
from camrobust.results.verify import verify

KEYS = ["dataset", "model", "image_id", "cam", "perturbation", "strength", "replicate"]
LIMIT_S = 240.0
HANGS = 124
"""Exit code of a driver that had to be killed."""
CATCH_S = 20.0
"""How long a worker in the middle of its work is looked for."""
ATTEMPTS = 5
DRAIN_S = 4
DISK_BYTES = 192 * 1024
STAGES = ("Load", "Perturb", "Explain", "Commit")
INJURED = 6
"""Photos from this number on are never touched."""

NARROW = {
    "cams": ["gradcam", "random"],
    "perturbations": ["gaussian_noise:1-5"],
    "models": [{"name": "a", "builder": "camrobust.bench.chaos.model:build"}],
}
WIDE = {
    "cams": ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "eigencam", "ablationcam", "random"],
    "perturbations": [{"gaussian_noise": [1, 2, 3, 4, 5], "replicates": 6}, {"salt_pepper": [1, 2, 3, 4, 5],
                      "replicates": 6}],
    "models": [
        {"name": f"m/{seed}", "builder": "camrobust.bench.chaos.model:build", "arguments": {"seed": seed}}
        for seed in range(3)
    ],
}  # fmt: skip


@dataclass
class Trial:
    """What one trial works with, and what came of it.

    Attributes:
        number: of the trial.
        dice: everything drawn.
        cluster: the nodes.
        config: path of the configuration.
        output: address of the results.
        photos: where the images are.
        total: units that will be committed.
        environment: of the driver.
        faults: of the store, None without one.
        injected: what struck, in words.
        exits: exit code of every attempt.
        woken: exit codes of drivers that were asleep while others took over.
        foreign: files of somebody else's in the output, by path or key, and their contents.
    """

    number: int
    dice: random.Random
    cluster: Nodes
    config: Path
    output: str
    photos: Store
    total: int
    environment: Mapping[str, str]
    faults: Faults | None
    driver: subprocess.Popen[str] | None = None
    injected: list[str] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    woken: list[int] = field(default_factory=list)
    foreign: dict[str, bytes] = field(default_factory=dict)
    repairs: list[Callable[[], None]] = field(default_factory=list)
    last: str = ""

    def start(self, *more: str) -> None:
        """Start the driver."""
        command = [sys.executable, "-m", "camrobust", "run", str(self.config), "--quiet", "--address",
                   self.cluster.address, *more]  # fmt: skip
        self.driver = subprocess.Popen(
            command, env={**self.cluster.environment, **self.environment}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def commits(self) -> int:
        """Commits there are; those of a store that refuses are counted as none."""
        try:
            return sum(1 for _ in open_store(self.output).list("commits/"))
        except RunFailed:
            return 0

    def wait(self, share: float) -> bool:
        """Until that share of the commits is there; False when the driver ends first."""
        if self.driver is None:
            return False
        end = time.monotonic() + LIMIT_S
        while self.driver.poll() is None and time.monotonic() < end:
            if self.commits() >= share * self.total:
                return True
            time.sleep(0.1)
        return False

    def finish(self) -> None:
        """Until the driver ends; one that hangs is killed, and counts as such."""
        if self.driver is not None:
            self.last, code = _ended(self.driver)
            self.exits.append(code)
            self.driver = None

    def take_over(self, asleep: Sequence[int]) -> None:
        """Another driver takes over from one that is asleep and goes on to the end; then everyone wakes.

        Args:
            asleep: processes that were stopped, the driver among them.
        """
        sleeper = self.driver
        self.start()
        self.finish()
        kill(set(asleep), signal.SIGCONT)
        if sleeper is not None:
            _, code = _ended(sleeper)
            self.woken.append(code)


def _ended(driver: subprocess.Popen[str]) -> tuple[str, int]:
    """What a driver printed, and its exit code."""
    try:
        printed, _ = driver.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        driver.kill()
        printed, _ = driver.communicate()
        return printed, HANGS
    return printed, driver.returncode


def _some_node(trial: Trial) -> Node:
    return trial.dice.choice(trial.cluster.workers)


def kill_worker(trial: Trial) -> str:
    """Kill -9 of a process that runs a stage."""
    stage = trial.dice.choice(STAGES)
    found = [pid for node in trial.cluster.workers for pid in node.workers(stage, f"MapBatches({stage})")]
    kill({trial.dice.choice(found)} if found else set())
    return f"kill -9 {stage if found else f'{stage} (none was running)'}"


def kill_node(trial: Trial) -> str:
    """Kill -9 of a raylet and its workers; another node joins."""
    trial.cluster.lose(_some_node(trial))
    trial.cluster.add()
    return "node lost"


def kill_all_nodes(trial: Trial) -> str:
    """Every node with work is lost at once; others join."""
    count = len(trial.cluster.workers)
    for node in list(trial.cluster.workers):
        trial.cluster.lose(node)
    for _ in range(count):
        trial.cluster.add()
    return "all nodes lost"


def drain_node(trial: Trial) -> str:
    """A spot notice, then the end of the machine."""
    node = _some_node(trial)
    trial.cluster.drain(node, DRAIN_S)
    trial.cluster.add()
    time.sleep(DRAIN_S)
    trial.cluster.lose(node)
    return "drain, then lost"


def kill_driver(trial: Trial) -> str:
    """Kill -9 of the driver."""
    if trial.driver is not None:
        kill({trial.driver.pid})
    return "kill -9 driver"


def end_driver(trial: Trial) -> str:
    """SIGTERM to the driver, as a scheduler sends it."""
    if trial.driver is not None:
        kill({trial.driver.pid}, signal.SIGTERM)
    return "SIGTERM driver"


def pause_driver(trial: Trial) -> str:
    """The driver is stopped, another one takes over and completes the run, the first wakes."""
    if trial.driver is None:
        return "driver paused (none was running)"
    kill({trial.driver.pid}, signal.SIGSTOP)
    trial.take_over([trial.driver.pid])
    return "paused driver"


def pause_commit(trial: Trial) -> str:
    """A worker is stopped while it commits, and its driver; another one completes the run, then both wake."""
    end = time.monotonic() + CATCH_S
    while trial.driver is not None and trial.driver.poll() is None and time.monotonic() < end:
        found = [pid for node in trial.cluster.workers for pid in node.workers("Commit", "MapBatches(Commit)")]
        if found:
            asleep = [found[0], trial.driver.pid]
            kill(set(asleep), signal.SIGSTOP)
            trial.take_over(asleep)
            return "paused commit worker"
    return "paused commit worker (none was running)"


def plant(trial: Trial) -> str:
    """Somebody else's files lie where a run puts its own, and are looked at in the end."""
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
    return "foreign files in the output"


def touched(trial: Trial) -> int:
    """How many of somebody else's files are not as they were."""
    changed = 0
    for place, content in trial.foreign.items():
        try:
            changed += read_object(place) != content
        except MissingObjectError:
            changed += 1
    return changed


def lose_result(trial: Trial) -> str:
    """A committed file vanishes."""
    folder = open_run(trial.output)
    keys = folder.committed().tables("scores")
    if keys:
        folder.store.delete(trial.dice.choice(keys))
    return "score file deleted"


def vanish(trial: Trial) -> str:
    """An image vanishes; it comes back before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.delete(key)
    trial.repairs.append(lambda: trial.photos.write(key, content))
    return "image deleted"


def corrupt(trial: Trial) -> str:
    """An image is cut in half; it is mended before the last attempt."""
    key, content = _an_image(trial)
    trial.photos.write(key, content[: len(content) // 2])
    trial.repairs.append(lambda: trial.photos.write(key, content))
    return "image corrupted"


def _an_image(trial: Trial) -> tuple[str, bytes]:
    keys = [entry.key for entry in trial.photos.list()]
    key = keys[trial.dice.randrange(INJURED)]
    return key, trial.photos.read(key)


def bad_store(trial: Trial) -> str:
    """From now on the store refuses, dawdles, breaks off and loses answers."""
    if trial.faults is None:
        raise RunFailed("chaos: this trial has no store to fail; set AWS_ENDPOINT_URL")
    trial.faults.shares = {"refuse": 0.1, "slow": 0.05, "cut": 0.05, "deaf": 0.05}
    return "store: 503, slow, cut, lost answers"


def dead_store(trial: Trial) -> str:
    """The store refuses everything for longer than anyone tries."""
    if trial.faults is None:
        raise RunFailed("chaos: this trial has no store to fail; set AWS_ENDPOINT_URL")
    trial.faults.shares = {"refuse": 1.0}
    return "store: refuses everything"


def full_disk(trial: Trial) -> str:
    """The output lies on a file system of a few hundred KiB; it is made larger before the last attempt."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", trial.output], check=True)

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=256m", trial.output], check=True)

    trial.repairs.append(grow)
    return "disk full"


ANYWHERE = (kill_worker, kill_worker, kill_node, kill_all_nodes, drain_node, kill_driver, end_driver, lose_result,
            vanish, corrupt, pause_driver, pause_commit, plant)  # fmt: skip
STORE = (bad_store, bad_store, dead_store)


def choose(dice: random.Random, *, store: bool, disk: bool) -> list[tuple[float, Callable[[Trial], str]]]:
    """One to three faults and the share of the commits at which each strikes, in that order."""
    known = [*ANYWHERE, *(STORE if store else ()), *((full_disk,) if disk else ())]
    drawn = dict.fromkeys(dice.choices(known, k=dice.choice((1, 2, 2, 3))))
    # A file system must be there before anything is written to it.
    moments = [(-1.0 if fault is full_disk else dice.uniform(0, 0.9), fault) for fault in drawn]
    return sorted(moments, key=lambda moment: moment[0])


def carry_out(trial: Trial, faults: list[tuple[float, Callable[[Trial], str]]]) -> None:
    """Start, inject, and start again until the run is complete."""
    if faults[0][1] is full_disk:
        trial.injected.append(full_disk(trial))
        faults = faults[1:]
    trial.start()
    for share, fault in faults:
        if not trial.wait(share):
            break
        trial.injected.append(fault(trial))
    trial.finish()
    while trial.exits[-1] != 0 or trial.repairs or _lost_afterwards(trial):
        if len(trial.exits) == ATTEMPTS:
            return
        if trial.faults is not None:
            trial.faults.shares = {}
        for repair in trial.repairs:
            repair()
        trial.repairs.clear()
        trial.start("--retry-failures")
        trial.finish()


def _lost_afterwards(trial: Trial) -> bool:
    """A file was deleted when the run had already proved itself complete; verify must see it, a rerun heal it."""
    return any("score file" in told for told in trial.injected) and not verify(open_run(trial.output)).complete


def rows_of(output: str) -> pl.DataFrame:
    """Every score row of a run, sorted by its key."""
    from camrobust.results.scan import scan_scores

    folder = open_run(output)
    return scan_scores(*folder.score_files(folder.committed())).collect().sort(KEYS)


def compare(found: pl.DataFrame, expected: pl.DataFrame) -> dict[str, int]:
    """Rows lost, doubled, and different from those of a run that nothing happened to."""
    once = found.unique(KEYS)
    columns = sorted(expected.columns)
    shared = expected.join(once.select(KEYS), on=KEYS, how="semi").select(columns).sort(KEYS)
    other = once.join(expected.select(KEYS), on=KEYS, how="semi").select(columns).sort(KEYS)
    same = shared.equals(other)
    different = 0 if same else sum(a != b for a, b in zip(shared.iter_rows(), other.iter_rows(), strict=True))
    return {
        "lost": expected.join(once, on=KEYS, how="anti", nulls_equal=True).height,
        "doubled": found.height - once.height,
        "different": different,
    }


def judge(trial: Trial, expected: pl.DataFrame, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    verdict = verify(open_run(trial.output)) if trial.exits[-1] == 0 else None
    rows = compare(rows_of(trial.output), expected) if verdict is not None else {"lost": expected.height}
    told = all(code in (0, 1, -signal.SIGKILL, -signal.SIGTERM) for code in (*trial.exits, *trial.woken))
    rows["touched"] = touched(trial)
    exact = verdict is not None and verdict.complete and not verdict.failed_rows and not any(rows.values())
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
        "exact": exact and told,
        "seconds": round(seconds, 1),
        "last": "" if exact and told else trial.last[-2000:],
    }


def write_config(path: Path, output: str, photos: str, *, wide: bool) -> None:
    """The configuration of a trial."""
    data: dict[str, Any] = {
        "output": output,
        "datasets": [{"name": "chaos", "images": photos}],
        "image": {"resize": 72, "crop": 64},
        "gallery_images": 2,
        "max_failure_share": 1,
        "cluster": {"explainers": [1, 2], "perturbers": [1, 1], "no_progress_timeout_s": 120, "image_timeout_s": 30},
        **(WIDE if wide else NARROW),
    }
    path.write_text(yaml.safe_dump(data))
