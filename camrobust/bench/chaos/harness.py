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

import polars as pl

from camrobust.bench.chaos.faults import choose
from camrobust.bench.chaos.judge import judge, rows_of
from camrobust.bench.chaos.nodes import Nodes, nodes
from camrobust.bench.chaos.photos import write_photos
from camrobust.bench.chaos.proxy import Faults, failing_store
from camrobust.bench.chaos.trial import Trial, carry_out, write_config
from camrobust.contract.errors import RunFailed
from camrobust.io.s3_client import client
from camrobust.io.store import open_store

IMAGES = 24
WORKERS = 2
CPUS = 2
WIDE_EVERY = 5
LEASE_TERM_S = "6"
ATTEMPTS_OF_A_CALL = "5"

Show = Callable[[dict[str, Any]], None]


def chaos(count: int, seed: int, show: Show = lambda _: None) -> list[dict[str, Any]]:
    """Run the trials.

    Args:
        count: number of trials.
        seed: decides the faults.
        show: receives the line of each trial when it ends.

    Returns:
        One line per trial. `exact` means that in the end every row existed once and was equal to the last bit, and
        that every attempt ended with an expected exit code.

    Raises:
        RunFailed: a node or the run without faults cannot be started.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="camrobust-chaos-")))
        faults, environment = Faults(), {"CAMROBUST_LEASE_TERM_S": LEASE_TERM_S, "AWS_MAX_ATTEMPTS": ATTEMPTS_OF_A_CALL}
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            address = stack.enter_context(failing_store(endpoint, faults))
            environment["AWS_ENDPOINT_URL"] = address
        cluster = stack.enter_context(nodes(WORKERS, environment, CPUS))
        bench = _Bench(folder, cluster, faults if endpoint else None, environment, stack)
        lines = []
        for number in range(count):
            if number:
                _replenish(cluster)
            lines.append(bench.trial(number, random.Random(f"{seed}/{number}")))
            show(lines[-1])
        return lines


def _replenish(cluster: Nodes) -> None:
    """Replace lost nodes and remove surplus ones, so that every trial begins with the same number."""
    for node in list(cluster.workers):
        if node.process.poll() is not None:
            cluster.lose(node)
    while len(cluster.workers) < WORKERS:
        cluster.add()
    while len(cluster.workers) > WORKERS:
        cluster.lose(cluster.workers[0])


class _Bench:
    """The cluster and settings that all trials share, and the rows of a run without faults."""

    def __init__(
        self, folder: Path, cluster: Nodes, faults: Faults | None, environment: dict[str, str], stack: ExitStack
    ) -> None:
        self.folder, self.cluster, self.faults, self.environment = folder, cluster, faults, environment
        self.stack = stack
        self.expected: dict[bool, pl.DataFrame] = {}
        self.bucket = _new_bucket() if faults is not None else ""
        self.disk = _can_mount(folder)

    def trial(self, number: int, dice: random.Random) -> dict[str, Any]:
        """Run one trial. With a store, every other trial uses S3; every fifth trial is wide."""
        wide, remote = number % WIDE_EVERY == WIDE_EVERY - 1, self.faults is not None and number % 2 == 0
        expected = self._expected(wide=wide)
        start = time.monotonic()
        trial = self._prepare(number, dice, wide=wide, remote=remote)
        carry_out(trial, choose(dice, store=remote, disk=self.disk and not remote))
        line = judge(trial, expected, time.monotonic() - start)
        if self.faults is not None:
            self.faults.shares = {}
        if not remote:
            subprocess.run(["umount", trial.output], check=False, capture_output=True)
        return {**line, "config": "wide" if wide else "narrow"}

    def _prepare(self, number: int, dice: random.Random, *, wide: bool, remote: bool) -> Trial:
        place = f"s3://{self.bucket}/{number}" if remote else str(self.folder / str(number))
        photos = open_store(f"{place}/photos")
        write_photos(photos, IMAGES)
        config = self.folder / f"{number}.yaml"
        output = f"{place}/out"
        if not remote:
            Path(output).mkdir()
        write_config(config, output, photos.uri, wide=wide)
        faults = self.faults if remote else None
        if faults is not None:
            faults.dice = random.Random(dice.random())
        return Trial(number, dice, self.cluster, config, output, photos, IMAGES, self.environment, faults)

    def _expected(self, *, wide: bool) -> pl.DataFrame:
        """Rows of a run without faults on the same cluster, measured once."""
        if wide not in self.expected:
            trial = self._prepare(-1 - wide, random.Random(0), wide=wide, remote=False)
            trial.start()
            trial.finish()
            if trial.exits != [0]:
                raise RunFailed(f"chaos: the run without faults failed: {' '.join(trial.last.split())[-500:]}")
            self.expected[wide] = rows_of(trial.output)
        return self.expected[wide]


def _new_bucket() -> str:
    name = f"camrobust-chaos-{time.time_ns()}"
    client().create_bucket(Bucket=name)
    return name


def _can_mount(folder: Path) -> bool:
    """Whether a small file system can be mounted here, which needs root."""
    place = folder / "mount"
    place.mkdir()
    with suppress(OSError, subprocess.CalledProcessError), _mounted(place):
        return True
    return False


@contextmanager
def _mounted(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def summary(lines: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """For each kind of fault: times, trials done at once, most attempts, rows not exact, files touched."""
    kinds = Counter(kind.split(" (")[0] for line in lines for kind in line["injected"])
    rows: list[tuple[object, ...]] = []
    for kind, times in sorted(kinds.items()):
        struck = [line for line in lines if any(fault.split(" (")[0] == kind for fault in line["injected"])]
        at_once = sum(line["exits"][0] == 0 for line in struck)
        attempts = max(len(line["exits"]) for line in struck)
        counts = [sum(line[name] for line in struck) for name in ("lost", "doubled", "different", "touched")]
        rows.append((kind, times, at_once, attempts, *counts))
    return rows
