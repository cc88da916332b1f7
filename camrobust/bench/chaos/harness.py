"""`camrobust bench chaos N --seed S`: N trials on a cluster of several raylets, and a table of their outcomes."""

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from camrobust.bench.chaos.buckets import own_bucket
from camrobust.bench.chaos.ending import ending_cleanly, unwinding
from camrobust.bench.chaos.faults import Fault, Need, choose, moments
from camrobust.bench.chaos.jobs import LARGE, NARROW, WIDE, Job, write_config
from camrobust.bench.chaos.judge import Results, judge, results_of
from camrobust.bench.chaos.node_faults import mount, unmount
from camrobust.bench.chaos.nodes import nodes
from camrobust.bench.chaos.photos import write_photos
from camrobust.bench.chaos.proxy import Faults, Link, failing_store
from camrobust.bench.chaos.signing import Keys
from camrobust.bench.chaos.trial import Trial, carry_out
from camrobust.contract.errors import RunFailed
from camrobust.io.store import open_store

WORKERS = 2
CPUS = 2
WIDE_EVERY, LARGE_EVERY = 5, 7
DRAWS = 3
"""A trial in which nothing struck is made again, with other faults, up to so many times in all."""
LEASE_TERM_S = "6"
ATTEMPTS_OF_A_CALL = "5"
PATIENCE_S = 900.0
"""How long a run has patience with its store, on a real clock."""
CLOCK = 40.0
KEY_NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

Show = Callable[[dict[str, Any]], None]


def chaos(count: int, seed: int, show: Show = lambda _: None, clock: float = CLOCK) -> list[dict[str, Any]]:
    """Run the trials.

    Args:
        count: number of trials that count, because something struck in them.
        seed: decides the faults.
        show: receives the line of each trial when it ends.
        clock: how many seconds of an outage, and of the patience with it, pass in one second.

    Returns:
        One line per trial, also of those that do not count. `exact` means that in the end every row existed once and
        was equal to the last bit, that the other tables were the same, and that every attempt ended with an expected
        exit code.

    Raises:
        RunFailed: a node or the run without faults cannot be started.
    """
    with ending_cleanly(), ExitStack() as stack, unwinding():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="camrobust-chaos-")))
        stack.callback(unmount)
        bench = _Bench(folder, stack, clock)
        lines = []
        for number in range(count):
            for draw in range(DRAWS):
                line = bench.trial(number, random.Random(f"{seed}/{number}/{draw}"))
                lines.append(line)
                show(line)
                if line["counts"] or not line["exact"]:
                    break
        return lines


def passed(lines: Sequence[dict[str, Any]], count: int) -> bool:
    """Whether so many trials count, and all were exact."""
    return all(line["exact"] for line in lines) and sum(line["counts"] for line in lines) == count


class _Bench:
    """The cluster and settings that all trials share, and the results of runs without faults."""

    def __init__(self, folder: Path, stack: ExitStack, clock: float) -> None:
        self.folder, self.clock = folder, clock
        self.faults: Faults | None = None
        self.environment = {
            "CAMROBUST_LEASE_TERM_S": LEASE_TERM_S, "AWS_MAX_ATTEMPTS": ATTEMPTS_OF_A_CALL,
            "CAMROBUST_STORE_PATIENCE_S": str(PATIENCE_S / clock),
        }  # fmt: skip
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL")
        self.bucket = ""
        if self.endpoint:
            self.faults = Faults(keys=self._keys())
            self.environment["AWS_ENDPOINT_URL"] = stack.enter_context(failing_store(self.endpoint, self.faults))
            self.bucket = stack.enter_context(own_bucket("camrobust-chaos"))
        way = self._way if self.endpoint else None
        self.cluster = stack.enter_context(nodes(WORKERS, self.environment, CPUS, way=way))
        self.expected: dict[str, Results] = {}
        self.disk = _can_mount(folder)

    def _keys(self) -> Keys | None:
        """Keys that can expire, in a file that takes the place of the user's; None if the user's are not lasting."""
        key, secret, token = (os.environ.get(name, "") for name in KEY_NAMES)
        if not key or not secret or token:
            return None
        keys = Keys(key, secret, self.folder / "credentials")
        keys.renew()
        # An empty variable counts as none.
        self.environment |= dict.fromkeys(KEY_NAMES, "")
        self.environment |= {"AWS_SHARED_CREDENTIALS_FILE": str(keys.file), "AWS_PROFILE": "default"}
        return keys

    @contextmanager
    def _way(self) -> Iterator[tuple[Link, str]]:
        """A node's own way to the store."""
        link = Link()
        with failing_store(self.endpoint or "", self.faults or Faults(), link) as address:
            yield link, address

    def trial(self, number: int, dice: random.Random) -> dict[str, Any]:
        """Run one trial. With a store, every other trial uses S3; some jobs are wide, and some have large images."""
        remote = self.faults is not None and number % 2 == 0
        job = WIDE if number % WIDE_EVERY == WIDE_EVERY - 1 else NARROW
        job = LARGE if number % LARGE_EVERY == LARGE_EVERY - 1 else job
        drawn = choose(dice, self._able(job, remote=remote))
        expected = self._expected(job)
        start = time.monotonic()
        trial = self._prepare(f"{number}-{start:.0f}", number, dice, job, remote=remote)
        try:
            self._run(trial, drawn)
            return judge(trial, expected, time.monotonic() - start)
        finally:
            self._tidy(trial)

    def _run(self, trial: Trial, drawn: Sequence[Fault]) -> None:
        for fault in drawn:
            if fault.prepare is not None:
                fault.prepare(trial)
        carry_out(trial, moments(trial.dice, drawn))
        trial.calm()

    def _tidy(self, trial: Trial) -> None:
        """End what the trial has left, so that every trial begins with the same nodes and a good store."""
        trial.abandon()
        if self.faults is not None:
            self.faults.heal()
        unmount()
        for node in list(self.cluster.workers):
            if node.process.poll() is not None or node.odd:
                self.cluster.lose(node)
        while len(self.cluster.workers) < WORKERS:
            self.cluster.add()
        while len(self.cluster.workers) > WORKERS:
            self.cluster.lose(self.cluster.workers[0])

    def _able(self, job: Job, *, remote: bool) -> list[Need]:
        offers: dict[Need, bool] = {
            "store": remote,
            "keys": remote and self.faults is not None and self.faults.keys is not None,
            "disk": self.disk and not remote and job is not LARGE,
            "memory": job is LARGE,
            "disk and memory": self.disk and job is LARGE,
        }
        return [need for need, offered in offers.items() if offered]

    def _prepare(self, name: str, number: int, dice: random.Random, job: Job, *, remote: bool) -> Trial:
        place = f"s3://{self.bucket}/{name}" if remote else str(self.folder / name)
        photos = open_store(f"{place}/photos")
        write_photos(photos, job.images, job.side + job.side // 8, job.side + job.side // 4)
        config, output, scratch = self.folder / f"{name}.yaml", f"{place}/out", self.folder / f"{name}-scratch"
        scratch.mkdir()
        if not remote:
            Path(output).mkdir()
        write_config(config, output, photos.uri, job)
        faults = self.faults if remote else None
        if faults is not None:
            faults.dice = random.Random(dice.random())
        return Trial(
            number, dice, self.cluster, job, config, output, photos, self.environment, faults, self.clock, scratch
        )

    def _expected(self, job: Job) -> Results:
        """Results of a run without faults on the same cluster, measured once."""
        if job.name not in self.expected:
            trial = self._prepare(f"{job.name}-expected", -1, random.Random(0), job, remote=False)
            try:
                trial.start()
                trial.finish()
            finally:
                trial.abandon()
            if trial.exits != [0]:
                raise RunFailed(f"chaos: the run without faults failed: {' '.join(trial.told[-1].split())[-500:]}")
            self.expected[job.name] = results_of(trial.output)
        return self.expected[job.name]


def _can_mount(folder: Path) -> bool:
    """Whether a small file system can be mounted here, which needs root."""
    place = folder / "mount"
    place.mkdir()
    with suppress(OSError, subprocess.CalledProcessError):
        mount(place, 64)
        unmount()
        return True
    return False


def summary(lines: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """For each kind of fault: times, trials done at once, most attempts, results not exact, files touched."""
    kinds = Counter(kind for line in lines for kind in line["injected"])
    rows: list[tuple[object, ...]] = []
    for kind, times in sorted(kinds.items()):
        struck = [line for line in lines if kind in line["injected"]]
        at_once = sum(line["exits"][0] == 0 for line in struck)
        attempts = max(len(line["exits"]) for line in struck)
        counted = ("lost", "doubled", "different", "images", "maps", "summaries", "touched")
        rows.append((kind, times, at_once, attempts, *(sum(line[name] for line in struck) for name in counted)))
    return rows
