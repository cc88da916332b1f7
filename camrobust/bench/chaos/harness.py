"""`camrobust bench chaos N --seed S`: N trials on a cluster of several raylets, and the table of what happened."""

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import torch
from PIL import Image

from camrobust.bench.chaos.nodes import Nodes, nodes
from camrobust.bench.chaos.proxy import Faults, failing_store
from camrobust.bench.chaos.trial import Trial, carry_out, choose, judge, rows_of, write_config
from camrobust.contract.errors import RunFailed
from camrobust.core.draws import Draws
from camrobust.io.objects import Store
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
        count: how many.
        seed: of what is injected.
        show: takes each trial's line as it ends.

    Returns:
        One line per trial; `exact` says that in the end every row was there once and equal to the bit, and that
        every attempt ended with an exit code that says what it means.

    Raises:
        RunFailed: a node or the clean run cannot be started.
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
            lines.append(bench.trial(number, random.Random(f"{seed}/{number}")))
            show(lines[-1])
            _replenish(cluster)
        return lines


def _replenish(cluster: Nodes) -> None:
    """A trial begins with as many living nodes as every other."""
    for node in list(cluster.workers):
        if node.process.poll() is not None:
            cluster.lose(node)
    while len(cluster.workers) < WORKERS:
        cluster.add()
    while len(cluster.workers) > WORKERS:
        cluster.lose(cluster.workers[0])


class _Bench:
    """What all trials share: photos, and the rows of a run that nothing happened to."""

    def __init__(
        self, folder: Path, cluster: Nodes, faults: Faults | None, environment: dict[str, str], stack: ExitStack
    ) -> None:
        self.folder, self.cluster, self.faults, self.environment = folder, cluster, faults, environment
        self.stack = stack
        self.expected: dict[bool, pl.DataFrame] = {}
        self.bucket = _new_bucket() if faults is not None else ""
        self.disk = _can_mount(folder)

    def trial(self, number: int, dice: random.Random) -> dict[str, Any]:
        """One trial: S3 and folder take turns where there is a store; every fifth is wide."""
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
        write_photos(photos)
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
        """Rows of a clean run on the same cluster, measured once."""
        if wide not in self.expected:
            trial = self._prepare(-1 - wide, random.Random(0), wide=wide, remote=False)
            trial.start()
            trial.finish()
            if trial.exits != [0]:
                raise RunFailed(f"chaos: the run without faults failed: {' '.join(trial.last.split())[-500:]}")
            self.expected[wide] = rows_of(trial.output)
        return self.expected[wide]


def write_photos(store: Store, count: int = IMAGES, height: int = 72, width: int = 80) -> None:
    """Smooth random colours as JPEG, the same every time."""
    for number in range(count):
        coarse = Draws.of(0, "", [str(number)], "chaos", "", 0).uniform((3, 5, 6))
        fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
        pixels = (fine[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        sink = BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG", quality=90)
        store.write(f"photo-{number:03}.jpg", sink.getvalue())


def _new_bucket() -> str:
    name = f"camrobust-chaos-{time.time_ns()}"
    client().create_bucket(Bucket=name)
    return name


def _can_mount(folder: Path) -> bool:
    """Whether a small file system can be made here, which takes root."""
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
    """Per kind of fault: trials it struck in, done at once, most attempts, rows not exact, files touched."""
    kinds = Counter(kind.split(" (")[0] for line in lines for kind in line["injected"])
    rows: list[tuple[object, ...]] = []
    for kind, struck in sorted(kinds.items()):
        mine = [line for line in lines if any(one.split(" (")[0] == kind for one in line["injected"])]
        rows.append(
            (
                kind,
                struck,
                sum(line["exits"][0] == 0 for line in mine),
                max(len(line["exits"]) for line in mine),
                sum(line["lost"] for line in mine),
                sum(line["doubled"] for line in mine),
                sum(line["different"] for line in mine),
                sum(line["touched"] for line in mine),
            )
        )
    return rows
