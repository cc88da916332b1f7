"""`camrobust bench rows N`: write synthetic score rows, reduce them to every summary, and check the result.

The job's own writer writes the rows, in commits of the size that a job makes: 2 datasets, 5 models, 10 CAMs and 8
perturbations at 5 severities; the number of images follows from N. Each step runs in its own process. The memory shown
is the largest resident memory of that process, imports included.
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
from numpy.typing import NDArray
from scipy.stats import t as student

from camrobust.contract.record import new_record
from camrobust.contract.run_record import PlannedRecord, RunRecord, VariantRecord
from camrobust.contract.schema import COMMITS, IMAGES, SCORES, SUMMARIES
from camrobust.results.arrow import empty_frame, make_table
from camrobust.results.blocks import score_blocks
from camrobust.results.commits import put_commit
from camrobust.results.counted import Committed
from camrobust.results.folder import RunFolder, open_run
from camrobust.results.scan import scan_scores
from camrobust.run import summarise
from camrobust.summary.aggregate import SummarySettings, reduce_scores

DATASETS, MODELS, CAMS, PERTURBATIONS, SEVERITIES = 2, 5, 10, 8, 5
PER_IMAGE = MODELS * CAMS * PERTURBATIONS * SEVERITIES
COMMIT_IMAGES = 64 * 2**20 // (45 * PER_IMAGE)
"""As many images as the job puts into one commit."""
SAMPLE = 0.01
WRITERS = 2

Say = Callable[[str], None]


def volume(rows: int, say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Write so many rows, reduce them, and compare with brute force.

    Args:
        rows: number of rows, at least one commit per dataset; 200,000,000 take about 2 GB of disk.
        say: receives a line when a step begins.

    Returns:
        For each step its name, seconds, CPU seconds, the largest resident memory in MiB, and a remark.
    """
    images = max(COMMIT_IMAGES, rows // (PER_IMAGE * DATASETS))
    steps: list[tuple[str, Callable[[str, int], str]]] = [
        ("write", _write),
        ("aggregate: all tables", aggregate),
        ("planted means", planted),
        ("brute force on a sample", compare),
    ]
    timed = []
    with tempfile.TemporaryDirectory(prefix="camrobust-volume-") as folder:
        for name, step in steps:
            say(f"{name} …")
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                timed.append({"step": name, **pool.submit(_timed, step, folder, images).result()})
    return timed


def _timed(step: Callable[[str, int], str], folder: str, images: int) -> dict[str, Any]:
    start, cpu = time.monotonic(), time.process_time()
    remark = step(folder, images)
    return {
        "seconds": round(time.monotonic() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "remark": remark,
    }


def _run(folder: str) -> RunFolder:
    return open_run(f"{folder}/run")


def _write(folder: str, images: int) -> str:
    run = _run(folder)
    write_document(run, images)
    starts = [(dataset, first) for dataset in range(DATASETS) for first in range(0, images, COMMIT_IMAGES)]
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_commit, [run.uri] * len(starts), *zip(*starts, strict=True), [images] * len(starts)))
    size = sum(entry.size_bytes for entry in run.store.list("scores/"))
    return f"{DATASETS * images * PER_IMAGE:,} rows, {DATASETS * images:,} images, {size / 2**20:.0f} MiB of scores"


def _floor() -> str:
    """The CAM that serves as the floor: the last one."""
    return f"cam{CAMS - 1}"


def write_document(run: RunFolder, images: int) -> None:
    """Write run.json and the manifest of so many images per dataset."""
    numbers = {"metric": {"average": "macro"}}
    manifest = [_names(dataset, 0, images) for dataset in range(DATASETS)]
    keys = [pl.select(dataset=pl.lit(f"dataset{place}"), image_id=names) for place, names in enumerate(manifest)]
    record = new_record(
        RunRecord,
        config=numbers,
        numbers=numbers,
        controls=[_floor()],
        models=[f"model{number}" for number in range(MODELS)],
        cams=[f"cam{k}" for k in range(CAMS)],
        planned=PlannedRecord(images=DATASETS * images, rows=DATASETS * images * PER_IMAGE),
        families={f"perturbation{number}": f"family{number % 3}" for number in range(PERTURBATIONS)},
        variants=[
            VariantRecord(perturbation=f"perturbation{p}", severity=s, strength=f"sigma={s}")
            for p in range(PERTURBATIONS)
            for s in range(1, SEVERITIES + 1)
        ],
    )
    run.begin(record, pl.concat(keys).with_columns(uri="image_id", label=pl.lit(None, pl.Int32)))


def _names(dataset: int, first: int, count: int) -> pl.Series:
    number = pl.int_range(first, first + count)
    padded = number.cast(pl.String).str.zfill(8)
    return pl.select(pl.format("train/n{}/n{}_{}.JPEG", (number // 1300).cast(pl.String).str.zfill(4), dataset, padded)
                     ).to_series()  # fmt: skip


def _means() -> NDArray[np.float64]:
    """The planted mean agreement of every (dataset, model, CAM, perturbation, severity)."""
    shape = (DATASETS, MODELS, CAMS, PERTURBATIONS, SEVERITIES)
    return 0.3 + 0.4 * np.random.default_rng(1).random(shape)


def write_commit(uri: str, dataset: int, first: int, images: int) -> None:
    """Write one commit: agreement = planted mean + effect of the image + noise, all within (0, 1)."""
    generator = np.random.default_rng([dataset, first])
    n, levels = min(COMMIT_IMAGES, images - first), PERTURBATIONS * SEVERITIES
    names = _names(dataset, first, n)
    ease = generator.uniform(-0.1, 0.1, n)
    segments = (40 + 150 * ease + generator.normal(0, 5, n)).round().clip(2)
    image, level, cam = (axis.ravel() for axis in np.indices((n, levels, CAMS)))
    perturbation, severity = np.divmod(level, SEVERITIES)
    known = pl.DataFrame(
        {
            "dataset": pl.repeat(f"dataset{dataset}", len(image), eager=True), "image_id": names[image],
            "cam": pl.Series([f"cam{number}" for number in range(CAMS)])[cam],
            "perturbation": pl.Series([f"perturbation{number}" for number in range(PERTURBATIONS)])[perturbation],
            "severity": (severity + 1).astype(np.int8),
            "strength": pl.Series([f"sigma={number}" for number in range(1, SEVERITIES + 1)])[severity],
            "status": pl.repeat("ok", len(image), eager=True), "n_segments": segments[image].astype(np.int32),
        }
    )  # fmt: skip
    frames = []
    for model in range(MODELS):
        same = (generator.random((n, levels)) > 0.1 + 0.1 * (np.arange(levels) % SEVERITIES))[image, level]
        mean = _means()[dataset, model].reshape(CAMS, levels)[cam, level]
        r = (mean + ease[image] + generator.uniform(-0.1, 0.1, len(image))).astype(np.float32)
        confidence = generator.random(n, np.float32)[image]
        varying = {"kept_class": same, "rbo": r, "rbo_adjusted": (r - 0.3) / 0.7, "confidence_clean": confidence,
                   "entropy_clean": -np.log(confidence)}  # fmt: skip
        columns = {name: pl.Series(values) for name, values in varying.items()}
        frames.append(known.with_columns(model=pl.lit(f"model{model}"), **columns))
    scores = pl.concat(frames)
    scores = scores.with_columns(
        pl.lit(0 if name == "replicate" else None, kind).alias(name)
        for name, kind in empty_frame(SCORES).schema.items()
        if name not in scores.columns
    )
    keys = {"dataset": [f"dataset{dataset}"] * n, "image_id": names.to_list()}
    photos: dict[str, Any] = {
        column.name: _noise(generator, n, column.type) for column in IMAGES if column.name not in keys
    }
    table = make_table(IMAGES, {**photos, **keys, "n_segments": segments.astype(int)})
    parts = pl.DataFrame({**keys, "part": 0, "rows": PER_IMAGE, "failures": 0}).select(empty_frame(COMMITS).columns)
    put_commit(open_run(uri).store, parts, scores.select(empty_frame(SCORES).columns), {"images": table})


def _noise(generator: np.random.Generator, n: int, kind: str) -> NDArray[Any]:
    return generator.integers(1, 100, n) if kind.startswith("int") else generator.random(n)


def aggregate(folder: str, _: int) -> str:
    """`camrobust aggregate`, without `verify`."""
    tables = summarise.aggregate(_run(folder))
    return ", ".join(f"{name} {table.height:,}" for name, table in tables.items())


def planted(folder: str, _: int) -> str:
    """How far the estimate of every level is from its planted mean."""
    by_level = summarise.summaries(_run(folder))["by_level"].sort(SUMMARIES["by_level"])
    error = np.abs(by_level["consistency"].to_numpy() - _means().ravel())
    half = (by_level["consistency_upper"] - by_level["consistency_lower"]).to_numpy() / 2
    return (
        f"consistency of {len(error):,} levels: largest error {error.max():.4f}, half interval {half.max():.4f}, "
        f"{(error < half).mean():.1%} within"
    )


def compare(folder: str, images: int) -> str:
    """Compare the reduction with plain loops over groups, on whole commits that hold a hundredth of the images."""
    run = _run(folder)
    committed = run.committed()
    wanted = max(1, round(SAMPLE * images / COMMIT_IMAGES))
    places = committed.parts.group_by("dataset").agg(pl.col("commit").unique().sort().head(wanted)).explode("commit")
    chosen = set(places["commit"])
    contents = [files if place in chosen else {} for place, files in enumerate(committed.contents)]
    parts = committed.parts.filter(pl.col("commit").is_in(list(chosen)))
    part = Committed(parts, committed.commits, contents, [])
    tables = reduce_scores(score_blocks([(run.store, part)]), SummarySettings(controls=(_floor(),))).tables
    rows = scan_scores(*run.score_files(part)).collect()
    worst, compared = 0.0, 0
    for name, keys in SUMMARIES.items():
        used = rows if "cam" in keys else rows.filter(pl.col("cam") != _floor())
        brute = brute_force(used, keys)
        joined = tables[name].join(brute, on=list(keys), how="full", suffix="_brute", nulls_equal=True)
        for column in brute.columns[len(keys) :]:
            difference = (joined[column] - joined[f"{column}_brute"]).abs()
            worst, compared = max(worst, float(difference.max())), compared + len(difference)  # type: ignore[arg-type]
            if difference.null_count():
                return f"{name}: {column} is missing in {difference.null_count()} groups"
    return f"{compared:,} estimates and bounds from {rows.height:,} rows; largest difference {worst:.1e}"


def brute_force(rows: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    """Macro estimates and bounds, each group alone, from the residual of every image.

    Args:
        rows: score rows without undefined agreement.
        keys: columns that group them.

    Returns:
        The keys, consistency, responsiveness and robustness of the raw form with their bounds.
    """
    r = pl.col("rbo").cast(pl.Float64)
    lines = []
    for key, group in rows.group_by(keys):
        image = group.group_by("dataset", "image_id").agg(
            r.filter(pl.col("kept_class")).mean().alias("s"), (1 - r).filter(~pl.col("kept_class")).mean().alias("f")
        )
        s, f = image["s"].to_numpy(), image["f"].to_numpy()
        C, R = np.nanmean(s), np.nanmean(f)
        n, m = (~np.isnan(s)).sum(), (~np.isnan(f)).sum()
        e, g = (np.nan_to_num(part - mean) / count for part, mean, count in ((s, C, n), (f, R, m)))
        G = len(s)
        var_c, var_r = n / (n - 1) * e @ e, m / (m - 1) * g @ g
        var = R**2 * var_c + C**2 * var_r + 2 * C * R * (G / (G - 1) * e @ g)
        line = dict(zip(keys, key, strict=True))
        for name, value, variance, count in (
            ("consistency", C, var_c, n), ("responsiveness", R, var_r, m), ("robustness", C * R, var, min(n, m)),
        ):  # fmt: skip
            half = student.ppf(0.975, count - 1) * np.sqrt(variance)
            line |= {name: value, f"{name}_lower": max(value - half, 0), f"{name}_upper": min(value + half, 1)}
        lines.append(line)
    return pl.DataFrame(lines).cast({"severity": pl.Int8} if "severity" in keys else {})
