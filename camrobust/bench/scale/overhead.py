"""`camrobust bench overhead N`: the job on Ray against the same stages in a bare loop, on this machine."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from camrobust.bench.chaos.photos import write_photos
from camrobust.bench.scale.meter import metered
from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import parse_config
from camrobust.core.perturb import variants
from camrobust.io.store import open_store
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.results.progress import Progress
from camrobust.run.batch_sizes import images_per_commit
from camrobust.run.pipeline import gallery, measure_pending
from camrobust.run.plan import make_plan
from camrobust.run.session import session
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb

PRESETS = {
    "full": ("gaussian_noise:1-5", "speckle_noise:1-5", "contrast:1-5"),
    "quick": ("gaussian_noise:1-4", "contrast:1-4"),
}
"""Perturbations by name of the preset. With few variants the machinery weighs most."""
BLOCK = 64
"""Images that the bare loop passes from stage to stage, so that its passes are as full as those of the job."""

LOOK_S = 0.5
"""Time between two looks whether Explain has begun."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What one way took, s.

    Attributes:
        seconds: from the first line to the last commit.
        start_s: of these, until Explain began the first block.
        cpu_s: of processors, in all processes.
    """

    seconds: float
    start_s: float
    cpu_s: float


def overhead(images: int, preset: str = "full", say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Time the same work in three ways, from the first line to the last commit, the start of Ray included.

    Args:
        images: number of images; enough for minutes of work, so that the start is not the subject.
        preset: name in `PRESETS`.
        say: receives a line when a way begins.

    Returns:
        For each way the whole time, the time until Explain began the first block, processor time of all processes,
        images per second of the whole time, and their ratio to the bare loop.
    """
    with tempfile.TemporaryDirectory(prefix="camrobust-overhead-") as temporary:
        folder = Path(temporary)
        write_photos(open_store(str(folder / "photos")), images, 256, 320)
        ways: list[tuple[str, Callable[[RunConfig], Taken], dict[str, Any]]] = [
            ("bare loop in one process", _bare, {}),
            ("job, one Explain worker", _job, {"explainers": [1, 1]}),
            ("job, one Explain worker per core", _job, {}),
        ]
        rows: list[dict[str, Any]] = []
        for number, (name, way, cluster) in enumerate(ways):
            say(f"{name}: {images} images …")
            taken = way(_config(folder, str(folder / str(number)), preset, cluster))
            rate = images / taken.seconds
            rows.append(
                {
                    "way": name,
                    "seconds": round(taken.seconds, 1),
                    "start_s": round(taken.start_s, 1),
                    "cpu_s": round(taken.cpu_s, 1),
                    "images_per_s": round(rate, 3),
                    "ratio": round(rate / (rows[0]["images_per_s"] if rows else rate), 3),
                }
            )
        return rows


def variants_of(preset: str) -> int:
    """Variants of an image, the clean one not counted."""
    return len(variants(PRESETS[preset]))


def _config(folder: Path, output: str, preset: str, cluster: dict[str, Any]) -> RunConfig:
    return parse_config(
        {
            "output": output,
            "datasets": [{"name": "synthetic", "images": str(folder / "photos")}],
            "models": ["torchvision:resnet18@none"],
            "cams": ["gradcam", "gradcam++", "layercam", "eigencam"],
            "perturbations": list(PRESETS[preset]),
            "cluster": cluster,
            "gallery_images": 0,
        }
    )


def _bare(config: RunConfig) -> Taken:
    began, explained = time.monotonic(), 0.0
    with metered() as meter:
        plan, folder = make_plan(config), open_run(config.output)
        load, commit = Load(config), Commit(folder.uri, 0)
        perturb = Perturb(config, plan.parts, "cpu")
        explain = Explain(config, plan.parts, gallery(plan), plan.weights, "cpu", plan.pass_sizes["cpu"])
        pending = pending_batch(pending_parts(plan.manifest, len(plan.parts), folder.committed()))
        per_commit = images_per_commit(plan, plan.manifest.height)
        for start in range(0, pending.num_rows, per_commit):
            some, measured = pending.slice(start, per_commit), []
            for row in range(0, some.num_rows, BLOCK):
                perturbed = perturb(load(some.slice(row, BLOCK)))
                explained = explained or time.monotonic()
                measured.append(explain(perturbed))
            commit(pa.concat_tables(measured))
        ended = time.monotonic()
    return Taken(ended - began, explained - began, meter.everything_s())


def _job(config: RunConfig) -> Taken:
    """The same, as `run.workflow` does it, without its checks of the models and what comes after the last commit."""
    began = time.monotonic()
    explained: list[float] = []
    committed: list[float] = []

    def look(now: Progress) -> None:
        if now.stages["explain"].busy or now.stages["explain"].images:
            explained.append(time.monotonic())

    plan, folder = make_plan(config), open_run(config.output)
    pending = pending_parts(plan.manifest, len(plan.parts), folder.committed())
    with metered() as meter, session("local", config.cluster), patch("camrobust.run.observer.INTERVAL_S", LOOK_S):
        measure_pending(plan, folder, pending, 0, look, lambda: committed.append(time.monotonic()))
        meter.look()
    return Taken(committed[-1] - began, explained[0] - began, meter.everything_s())
