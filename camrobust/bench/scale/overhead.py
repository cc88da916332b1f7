"""`camrobust bench overhead N`: the job on Ray against the same stages in a bare loop, on this machine."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from camrobust.bench.chaos.harness import write_photos
from camrobust.contract.config import RunConfig, parse_config
from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from camrobust.run.pipeline import gallery, images_per_commit
from camrobust.run.plan import make_plan
from camrobust.run.stages.actors import UNKNOWN_LABEL, Commit, Explain, Load, Perturb
from camrobust.run.workflow import run

Say = Callable[[str], None]


def overhead(images: int, say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Time the same work in three ways, from the start of models and workers to the last commit.

    Args:
        images: number of images; enough for a minute of work.
        say: receives a line when a way begins.

    Returns:
        For each way the images per second, and their ratio to the bare loop.
    """
    with tempfile.TemporaryDirectory(prefix="camrobust-overhead-") as temporary:
        folder = Path(temporary)
        write_photos(open_store(str(folder / "photos")), images, 256, 320)
        ways: list[tuple[str, Callable[[RunConfig], float], dict[str, Any]]] = [
            ("bare loop in one process", _bare, {}),
            ("job, one Explain worker", _job, {"explainers": [1, 1]}),
            ("job, one Explain worker per core", _job, {}),
        ]
        rows: list[dict[str, Any]] = []
        for number, (name, way, cluster) in enumerate(ways):
            say(f"{name}: {images} images …")
            seconds = way(_config(folder, str(folder / str(number)), cluster))
            rate = images / seconds
            ratio = rate / rows[0]["images_per_s"] if rows else 1.0
            rows.append({"way": name, "seconds": round(seconds, 1), "images_per_s": round(rate, 3),
                         "ratio": round(ratio, 3)})  # fmt: skip
        return rows


def _config(folder: Path, output: str, cluster: dict[str, Any]) -> RunConfig:
    return parse_config(
        {
            "output": output,
            "datasets": [{"name": "synthetic", "images": str(folder / "photos")}],
            "models": ["torchvision:resnet18@none"],
            "cams": ["gradcam", "gradcam++", "layercam", "eigencam"],
            "perturbations": ["gaussian_noise:1-5", "speckle_noise:1-5", "contrast:1-5"],
            "cluster": cluster,
            "gallery_images": 0,
        }
    )


def _bare(config: RunConfig) -> float:
    start = time.monotonic()
    plan, folder = make_plan(config), open_run(config.output)
    load, commit = Load(config), Commit(folder.uri, 0)
    perturb = Perturb(config, plan.parts, "cpu")
    explain = Explain(config, plan.parts, gallery(plan), plan.weights, "cpu")
    parts = ",".join(str(part) for part in range(len(plan.parts)))
    waiting: list[dict[str, Any]] = []
    for row in plan.manifest.iter_rows(named=True):
        label = UNKNOWN_LABEL if row["label"] is None else row["label"]
        batch = {name: np.array([value]) for name, value in {**row, "label": label, "parts": parts}.items()}
        waiting.append(explain(perturb(load(batch))))
        if len(waiting) >= images_per_commit(plan, plan.manifest.height):
            commit(_joined(waiting))
            waiting = []
    if waiting:
        commit(_joined(waiting))
    return time.monotonic() - start


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _job(config: RunConfig) -> float:
    run(config)
    done = open_run(config.output).done() or {}
    return float(done["seconds"]["measure"])
