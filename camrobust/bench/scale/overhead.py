"""`camrobust bench overhead N`: the job on Ray against the same stages in a bare loop, on this machine."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from camrobust.bench.chaos.photos import write_photos
from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import RunFailed
from camrobust.core.perturb import variants
from camrobust.io.store import open_store
from camrobust.results.counted import pending_parts
from camrobust.results.folder import open_run
from camrobust.run.batch_sizes import images_per_commit
from camrobust.run.pipeline import gallery
from camrobust.run.plan import make_plan
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb
from camrobust.run.workflow import run

PRESETS = {
    "full": ("gaussian_noise:1-5", "speckle_noise:1-5", "contrast:1-5"),
    "quick": ("gaussian_noise:1-4", "contrast:1-4"),
}
"""Perturbations by name of the preset. With few variants the machinery weighs most."""
BLOCK = 64
"""Images that the bare loop passes from stage to stage, so that its passes are as full as those of the job."""

Say = Callable[[str], None]


def overhead(images: int, preset: str = "full", say: Say = lambda _: None) -> list[dict[str, Any]]:
    """Time the same work in three ways, from the start of models and workers to the last commit.

    Args:
        images: number of images; enough for a minute of work.
        preset: name in `PRESETS`.
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
            seconds = way(_config(folder, str(folder / str(number)), preset, cluster))
            rate = images / seconds
            ratio = rate / rows[0]["images_per_s"] if rows else 1.0
            rows.append({"way": name, "seconds": round(seconds, 1), "images_per_s": round(rate, 3),
                         "ratio": round(ratio, 3)})  # fmt: skip
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


def _bare(config: RunConfig) -> float:
    began = time.monotonic()
    plan, folder = make_plan(config), open_run(config.output)
    load, commit = Load(config), Commit(folder.uri, 0)
    perturb = Perturb(config, plan.parts, "cpu")
    explain = Explain(config, plan.parts, gallery(plan), plan.weights, "cpu", plan.pass_sizes["cpu"])
    pending = pending_batch(pending_parts(plan.manifest, len(plan.parts), folder.committed()))
    per_commit = images_per_commit(plan, plan.manifest.height)
    for start in range(0, pending.num_rows, per_commit):
        some = pending.slice(start, per_commit)
        blocks = [some.slice(row, BLOCK) for row in range(0, some.num_rows, BLOCK)]
        commit(pa.concat_tables([explain(perturb(load(block))) for block in blocks]))
    return time.monotonic() - began


def _job(config: RunConfig) -> float:
    run(config)
    done = open_run(config.output).done()
    if done is None:
        raise RunFailed(f"bench: the run in {config.output} is not complete")
    return done.seconds["measure"]
