"""`camrobust bench scale N`: the run folder of N images: planning, commits, resume, verify.

The manifest names N images that do not exist, and their rows are noise. Everything else is the job's own code. Every
step runs in its own process. The memory shown is the largest resident memory of that process, less what its imports
take. `camrobust.bench.scale.throughput` times the stream between resuming and verifying.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import polars as pl

from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import parse_config
from camrobust.contract.run_record import PlannedRecord, RunRecord, VariantRecord
from camrobust.contract.schema import COMMITS, SCORES
from camrobust.io.manifest import list_images
from camrobust.results.arrow import empty_frame
from camrobust.results.commits import put_commit
from camrobust.results.counted import pending_parts
from camrobust.results.folder import RunFolder, open_run
from camrobust.results.verify import verify

IMAGES_PER_COMMIT = 1500
"""About as many as a run of 95 variants and 10 CAMs puts into one commit, so that the number of files is realistic."""
LEVELS = 4

Say = Callable[[str], None]


def scale(images: int, say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Carry out a run of so many images, step by step.

    Args:
        images: number of images; a million takes minutes, ten million half an hour.
        say: receives a line when a step begins.

    Returns:
        For each step its name, seconds, the MiB by which its process grew, and a remark.
    """
    steps: list[tuple[str, Callable[[str, int], str]]] = [
        ("list the manifest, plan", _plan),
        ("commits of one half", _first_half),
        ("resume: what is pending", _resume),
        ("commits of the rest", _second_half),
        ("verify", _verify),
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="camrobust-scale-") as folder:
        for name, step in steps:
            say(f"{name} …")
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                seconds, mebibytes, remark = pool.submit(_timed, step, folder, images).result()
            rows.append({"step": name, "seconds": seconds, "memory_mib": mebibytes, "remark": remark})
    return rows


def _timed(step: Callable[[str, int], str], folder: str, images: int) -> tuple[float, int, str]:
    start, before = time.monotonic(), _resident_mib()
    remark = step(folder, images)
    return round(time.monotonic() - start, 1), _resident_mib() - before, remark


def _resident_mib() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _run(folder: str) -> RunFolder:
    return open_run(f"{folder}/run")


def _config(folder: str) -> RunConfig:
    return parse_config(
        {
            "output": f"{folder}/run",
            "datasets": [{"name": "synthetic", "images": f"{folder}/images.parquet"}],
            "models": ["camrobust.bench.chaos.model:build"],
            "cams": ["gradcam"],
            "perturbations": [f"gaussian_noise:1-{LEVELS}"],
        }
    )


def _plan(folder: str, images: int) -> str:
    number = pl.int_range(images, eager=True)
    name = pl.format("train/n{}/n{}_{}.JPEG", number // 1300, number // 1300, number)
    table = pl.select(uri=pl.format("s3://bucket/{}", name), image_id=name)
    table.write_parquet(f"{folder}/images.parquet")
    config = _config(folder)
    run = _run(folder)
    start = time.monotonic()
    (dataset,) = config.datasets
    manifest = list_images(dataset.name, dataset.images)
    listed = time.monotonic() - start
    record = RunRecord(
        planned=PlannedRecord(images=images, rows=images * LEVELS),
        models=["toy"],
        cams=["gradcam"],
        variants=[VariantRecord(perturbation="gaussian_noise", strength=f"sigma={level}") for level in range(LEVELS)],
    )
    run.begin(record, manifest)
    return f"{listed:.1f} s of it to list; the manifest has {_bytes(run, 'manifest/') / 2**20:.0f} MiB"


def _bytes(run: RunFolder, prefix: str) -> int:
    return sum(entry.size_bytes for entry in run.store.list(prefix))


def _scores(images: pl.DataFrame) -> pl.DataFrame:
    """The rows that the stub returns for some images: all columns of the schema, noise in the similarities."""
    levels = pl.DataFrame({"strength": [f"sigma={level}" for level in range(LEVELS)]})
    rows = images.select("dataset", "image_id").join(levels, how="cross")
    noise = np.random.default_rng(rows.height).random(rows.height, np.float32)
    known = {"dataset", "image_id", "strength"}
    text = {"model": "toy", "cam": "gradcam", "perturbation": "gaussian_noise", "status": "ok"}
    columns: list[pl.Expr | pl.Series] = []
    for name, dtype in empty_frame(SCORES).schema.items():
        if name in text:
            columns.append(pl.lit(text[name]).alias(name))
        elif name not in known:
            rest = pl.lit(None if dtype == pl.String else 0, dtype).alias(name)
            columns.append(pl.Series(name, noise).cast(dtype) if dtype.is_float() else rest)
    return rows.with_columns(columns).select(empty_frame(SCORES).columns)


def _commit(run: RunFolder, images: pl.DataFrame) -> None:
    """Write commits as the job does, without its stream."""
    for batch in images.iter_slices(IMAGES_PER_COMMIT):
        parts = batch.select("dataset", "image_id", part=pl.lit(0), rows=pl.lit(LEVELS), failures=pl.lit(0))
        put_commit(run.store, parts.select(empty_frame(COMMITS).columns), _scores(batch), {})


def _first_half(folder: str, images: int) -> str:
    run = _run(folder)
    _commit(run, run.manifest()[: images // 2])
    return f"{-(-(images // 2) // IMAGES_PER_COMMIT)} commits"


def _resume(folder: str, images: int) -> str:
    run = _run(folder)
    start = time.monotonic()
    committed = run.committed()
    read = time.monotonic() - start
    pending = pending_parts(run.manifest(), 1, committed)
    return f"{read:.1f} s of it to list and read the commits; {pending.height:,} of {images:,} images pending"


def _second_half(folder: str, images: int) -> str:
    run = _run(folder)
    _commit(run, run.manifest()[images // 2 :])
    files = list(run.store.list())
    return f"{len(files):,} files, {sum(file.size_bytes for file in files) / 2**20:.0f} MiB in all"


def _verify(folder: str, _: int) -> str:
    completeness = verify(_run(folder))
    return f"{completeness.score_rows:,} rows, complete: {completeness.complete}"
