"""`camrobust bench scale`: images per second of the run without its science, beside Ray Data alone.

Both streams are made by `run.pipeline.stages`, so they have the same operators, block sizes, workers and bytes. One has
the run's own stages with constants in the place of the science, its ledger and its observer. The other has functions
that hand out what is already there (`camrobust.bench.scale.stubs`).

Rates and times are marginal: a short stream is subtracted from a long one, which removes the start of the workers.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import polars as pl
import ray

from camrobust.bench.chaos.processes import resident_mib
from camrobust.bench.scale.meter import metered
from camrobust.bench.scale.stubs import REPLAYED, STUBS
from camrobust.contract.config_file import parse_config
from camrobust.contract.schema import MANIFEST
from camrobust.results.arrow import make_table
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.run.ledger import open_ledger
from camrobust.run.observer import Observer, observing
from camrobust.run.pipeline import Kinds, in_rounds, stages
from camrobust.run.plan import Plan, make_plan
from camrobust.run.session import session

RUN_IMAGES = 1_281_167
"""Blocks and commits have the sizes that a run over ImageNet's training images gives them."""
FIRST, LONGEST = 128, 20_000
"""Images of the first stream, which also fills caches, and most of the longest."""
KNOWN_S = 4.0
"""The start of the workers varies by a second or so; only a stream that takes this much longer tells the rate."""
CAMS = ("gradcam", "gradcam++", "layercam", "eigencam")
PERTURBATIONS = ("gaussian_noise:1-5", "contrast:1-5")
"""Ten variants and four CAMs: 40 rows and 1.6 MiB of variants per image."""
WAYS: tuple[tuple[str, Kinds], ...] = (("Ray Data alone", REPLAYED), ("own stages", STUBS))

Say = Callable[[str], None]


@dataclass(frozen=True)
class Spent:
    """What a stream took from its first line to its last commit; processor times in s.

    Attributes:
        images: how many it had.
        seconds: on the clock.
        driver_s: of this process.
        ledger_s: of the ledger's process.
        commit_s: inside of Commit.
        everything_s: of all processes of the session, Ray's own included.
        driver_mib: memory of this process afterwards.
    """

    images: int
    seconds: float
    driver_s: float
    ledger_s: float
    commit_s: float
    everything_s: float
    driver_mib: float


def throughput(seconds: float, say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Stream images through Ray Data alone and through the run's own stages, in one session.

    Args:
        seconds: about how long the long stream of each takes.
        say: receives a line when a stream begins.

    Returns:
        For each of the two images per second, processor milliseconds per image and the growth of the driver.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="camrobust-scale-") as folder:
        plan = _plan(folder)
        with session("local", plan.config.cluster):
            for name, kinds in WAYS:
                say(f"{name} …")
                row = _row(name, *_streams(plan, f"{folder}/{name}", kinds, seconds))
                row["ratio"] = round(row["images_per_s"] / (rows[0] if rows else row)["images_per_s"], 3)
                rows.append(row)
    return rows


def _plan(folder: str) -> Plan:
    config = parse_config(
        {
            "output": folder,
            "datasets": [{"name": "synthetic", "images": folder}],
            "models": ["camrobust.bench.chaos.model:build"],
            "cams": list(CAMS),
            "perturbations": list(PERTURBATIONS),
            "gallery_images": 0,
            "cluster": {"perturb": "own"},
        }
    )
    names = [f"train/n{number // 1300}/n{number // 1300}_{number}.JPEG" for number in range(LONGEST)]
    manifest = make_table(
        MANIFEST,
        {
            "dataset": ["synthetic"] * LONGEST, "image_id": names, "uri": [f"s3://bucket/{name}" for name in names],
            "label": [0] * LONGEST, "place": [None] * LONGEST,
        },
    )  # fmt: skip
    return make_plan(config, pl.DataFrame(manifest))


def _streams(plan: Plan, output: str, kinds: Kinds, seconds: float) -> tuple[Spent, Spent]:
    """Longer and longer streams, until one takes about so many seconds more than the first; returns the last two."""
    spent: list[Spent] = []
    while not _enough(spent, seconds):
        count = min(LONGEST, _next_size(spent, seconds)) if spent else FIRST
        spent.append(_stream(plan, f"{output}/{count}", kinds, count))
    return spent[-2], spent[-1]


def _enough(spent: Sequence[Spent], seconds: float) -> bool:
    """Whether the last stream was long. The first two start most of the workers, so a third is always made."""
    if not spent or spent[-1].images >= LONGEST:
        return bool(spent)
    return len(spent) > 2 and spent[-1].seconds - spent[0].seconds >= seconds / 2


def _next_size(spent: Sequence[Spent], seconds: float) -> int:
    """Four times as many images, or two to four times where the rate is known well enough to aim at the seconds."""
    last = spent[-1]
    more = last.seconds - spent[0].seconds
    if more < KNOWN_S:
        return 4 * last.images
    rate = (last.images - spent[0].images) / more
    return int(min(4 * last.images, max(2 * last.images, rate * seconds)))


def _stream(plan: Plan, output: str, kinds: Kinds, count: int) -> Spent:
    """One stream over the first images of the plan, as `run.pipeline.measure_pending` carries it out."""
    folder, own = open_run(output), kinds is STUBS
    pending = pending_parts(plan.manifest[:count], 1, folder.committed())
    start = time.monotonic()
    with metered() as meter:
        ledger = open_ledger(folder.uri) if own else None

        def one_round(images: pl.DataFrame) -> ray.data.Dataset:
            return stages(plan, folder, images, RUN_IMAGES, frozenset(), ledger, 0, kinds)

        observer = Observer(ledger, folder.uri, count, count, 1, lambda _: None) if own else None
        commit_s = 0.0
        with observing(observer) if observer else nullcontext():
            for commit in in_rounds(pending, one_round, count):
                commit_s += float(commit["cpu_s"])
                if observer:
                    observer.add(commit)
        took = time.monotonic() - start
    if ledger is not None:
        ray.kill(ledger)
    memory = resident_mib(os.getpid())
    return Spent(count, took, meter.driver_s, meter.ledger_s, commit_s, meter.everything_s(), memory)


def _row(name: str, short: Spent, long: Spent) -> dict[str, Any]:
    images = long.images - short.images

    def each(attribute: str) -> float:
        return float(getattr(long, attribute) - getattr(short, attribute)) * 1000 / images

    return {
        "way": name,
        "images": long.images,
        "seconds": round(long.seconds, 1),
        "images_per_s": round(1000 / each("seconds"), 1),
        "driver_ms": round(each("driver_s"), 3),
        "ledger_ms": round(each("ledger_s"), 3),
        "commit_ms": round(each("commit_s"), 3),
        "everything_ms": round(each("everything_s"), 2),
        "driver_grew_mib": round(long.driver_mib - short.driver_mib, 1),
    }
