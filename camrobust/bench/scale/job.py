"""`camrobust bench job`: the real job with one Explain worker against the rate of plain forward passes.

The photographs are made on the spot and everything is local: it needs no network, and neither S3 nor the report. The
job's rate is taken from its ledger while it runs, from the first batch that Explain has finished to the last, so the
start of Ray's workers does not count.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import polars as pl
import ray
import torch
from ray.exceptions import RayError

from camrobust.bench.chaos.photos import write_photos
from camrobust.bench.speed.available import check_device
from camrobust.bench.speed.passes import BATCH, PLAIN, interleaved, plain, random_model
from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import parse_config
from camrobust.contract.config_parts import ClusterConfig
from camrobust.contract.schema import MANIFEST
from camrobust.core.explain.cams import CLASSIC
from camrobust.io.store import open_store
from camrobust.measure.model import bytes_per_image
from camrobust.results.arrow import make_table
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.run.ledger import STAGES, open_ledger
from camrobust.run.observer import repeating
from camrobust.run.pipeline import gallery, in_rounds, stages
from camrobust.run.plan import Plan, make_plan, pass_sizes
from camrobust.run.session import session

VARIANTS: dict[int, tuple[Any, ...]] = {
    15: ("gaussian_noise:1-5", "speckle_noise:1-5", "contrast:1-5"),
    95: (
        *({name: [1, 2, 3, 4, 5], "replicates": 4} for name in ("gaussian_noise", "shot_noise", "impulse_noise")),
        "salt_pepper:1-5", "speckle_noise:1-5", "uniform_noise:1-5", "gaussian_blur:1-5", "brightness:1-5",
        "contrast:1-5", "jpeg_compression:1-5",
    ),
}  # fmt: skip
"""Perturbations by the number of variants; 95 are those of jobs/configs/imagenet-val.yaml."""
PHOTOS, HEIGHT, WIDTH = 64, 375, 500
"""Files on disk, of a usual size in ImageNet; a run reads each of them many times, under different names."""
FIRST = {"cpu": 8, "cuda": 48}
"""Images of the stream that says how many the first one may have, and fewest images of every stream."""
POLL_S = 0.1
PLAIN_REPEATS = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """The ledger at one moment.

    Attributes:
        at: on the clock, s.
        images: that Explain has finished.
        busy_s: seconds of work of each stage, summed over its workers.
    """

    at: float
    images: int
    busy_s: tuple[float, ...]


def job(
    device: str, precision: str, model: str, counts: Sequence[int], segments: str, seconds: float, say: Say
) -> list[dict[str, Any]]:
    """Run the job for every number of variants, and compiled if a configuration has the key `compile`.

    Args:
        device: "cpu" or "cuda", of Perturb and Explain.
        precision: of the layers.
        model: name in torchvision; its weights are random.
        counts: numbers of variants, keys of `VARIANTS`.
        segments: name of the method.
        seconds: about how long each job explains.
        say: receives a line when a job begins.

    Returns:
        For each job its images per second, those of plain forward passes over as many variants, and the share.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(device)
    forwards, layer_bytes = plain_rate(device, precision, model)
    rows: list[dict[str, Any]] = []
    share = None
    with tempfile.TemporaryDirectory(prefix="camrobust-job-") as folder:
        write_photos(open_store(f"{folder}/photos"), PHOTOS, HEIGHT, WIDTH)
        for compiled, count in product((False, True) if compile_key() else (False,), counts):
            limit = forwards / (count + 1)
            config = _config(folder, device, precision, model, count, segments, compiled)
            run = partial(_job, config, layer_bytes)
            say(f"{count} variants{', compiled' if compiled else ''} …")
            if share is None:
                share = rate(run(FIRST[device])) / limit
            points = run(max(FIRST[device], int(share * limit * seconds)))
            share = rate(points) / limit
            rows.append(
                {
                    "variants": count, "segments": segments, "precision": precision, "compile": compiled,
                    "images": points[-1].images, "images_per_s": round(rate(points), 2),
                    "plain_images_per_s": round(limit, 2), "share": round(share, 3), "workers_busy": busy(points),
                }
            )  # fmt: skip
    return rows


def plain_rate(device: str, precision: str, model: str) -> tuple[float, int]:
    """Plain forward passes per second, of the batch size of `bench passes`; on a CPU those of one thread.

    Returns:
        The rate, and the bytes that the layers put out for one image, which decide the job's own passes.
    """
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    loaded = random_model(model, device)
    images = torch.randint(0, 256, (BATCH[device], 3, 224, 224), dtype=torch.uint8, device=device)
    work = {PLAIN: partial(plain, loaded.network.module, loaded.inputs(images, precision), precision)}
    fastest = statistics.median(interleaved(work, PLAIN_REPEATS, device)[PLAIN])
    torch.set_num_threads(before)
    layers = bytes_per_image(loaded, 224)
    del loaded, images, work
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return BATCH[device] / fastest, layers


def compile_key() -> str | None:
    """Where a configuration says `compile`: "" at its top, "cluster" there, None if this version has no such key."""
    if "compile" in RunConfig.model_fields:
        return ""
    return "cluster" if "compile" in ClusterConfig.model_fields else None


def _config(
    folder: str, device: str, precision: str, model: str, count: int, segments: str, compiled: bool
) -> RunConfig:
    given: dict[str, Any] = {
        "output": f"{folder}/run",
        "datasets": [{"name": "synthetic", "images": f"{folder}/photos"}],
        "models": [f"torchvision:{model}@none"],
        "cams": list(CLASSIC),
        "perturbations": list(VARIANTS[count]),
        "precision": precision,
        "segments": {"method": segments},
        "gallery_images": 0,
        "cluster": {"explainers": [1, 1], "perturbers": [1, 1]},
    }
    if device == "cpu":
        given["cluster"] |= {"gpus_per_explainer": 0, "gpus_per_perturber": 0}
    if compiled:
        (given["cluster"] if compile_key() == "cluster" else given)["compile"] = True
    return parse_config(given)


def _plan(config: RunConfig, count: int) -> Plan:
    """The plan of a run over so many images, which are few photographs under many names."""
    numbers = range(count)
    place = config.datasets[0].images
    data = {
        "dataset": ["synthetic"] * count, "image_id": [f"image-{number}" for number in numbers],
        "uri": [f"{place}/photo-{number % PHOTOS:03}.jpg" for number in numbers], "label": [0] * count,
        "place": [None] * count,
    }  # fmt: skip
    return make_plan(config, pl.DataFrame(make_table(MANIFEST, data)))


def _job(config: RunConfig, layer_bytes: int, images: int) -> list[Point]:
    """One job, as `run.pipeline.measure_pending` carries it out; returns what its ledger said meanwhile."""
    plan = _plan(config, images)
    plan = replace(plan, pass_sizes=pass_sizes(config, plan.parts, layer_bytes))
    with tempfile.TemporaryDirectory(prefix="camrobust-job-") as output, session("local", plan.config.cluster):
        run = open_run(output)
        pending = pending_parts(plan.manifest, len(plan.parts), run.committed())
        ledger, kept = open_ledger(run.uri), gallery(plan)

        def one_round(some: pl.DataFrame) -> ray.data.Dataset:
            return stages(plan, run, some, images, kept, ledger, 0)

        with _watched(ledger) as points:
            for _ in in_rounds(pending, one_round, images):
                pass
        return [*points, _look(ledger)]


@contextmanager
def _watched(ledger: Any) -> Iterator[list[Point]]:
    """A list that grows while the block runs, by a point whenever Explain has finished something."""
    points: list[Point] = []

    def watch() -> None:
        # The ledger may just be restarting.
        with suppress(RayError):
            now = _look(ledger)
            if now.images > (points[-1].images if points else 0):
                points.append(now)

    with repeating(watch, POLL_S):
        yield points


def _look(ledger: Any) -> Point:
    found = ray.get(ledger.look.remote())
    return Point(time.monotonic(), found["explain"][0], tuple(found[stage][1] for stage in STAGES))


def rate(points: Sequence[Point]) -> float:
    """Images per second, from the first batch that Explain has finished to the last."""
    first, last = points[0], _last(points)
    return (last.images - first.images) / (last.at - first.at) if last is not first else 0.0


def busy(points: Sequence[Point]) -> str:
    """How many workers of each stage were busy on average meanwhile."""
    first, last = points[0], _last(points)
    if last is first:
        return "–"
    spent = [(b - a) / (last.at - first.at) for a, b in zip(first.busy_s, last.busy_s, strict=True)]
    return ", ".join(f"{stage} {workers:.1f}" for stage, workers in zip(STAGES, spent, strict=True))


def _last(points: Sequence[Point]) -> Point:
    """The moment at which the last batch was finished, not that at which the job ended."""
    return next(point for point in points if point.images == points[-1].images)
