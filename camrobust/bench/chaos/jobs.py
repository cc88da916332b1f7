"""What the trials measure: three small runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MODEL = "camrobust.bench.chaos.model:build"


@dataclass(frozen=True)
class Job:
    """A run of a trial.

    Attributes:
        name: of the job.
        images: number of photographs.
        side: of the crop, px.
        settings: CAMs, perturbations and models.
    """

    name: str
    images: int
    side: int
    settings: Mapping[str, Any]


NARROW = Job(
    "narrow", 24, 64,
    {
        "cams": ["gradcam", "random"],
        "perturbations": ["gaussian_noise:1-5"],
        "models": [{"name": "a", "builder": MODEL}],
    },
)  # fmt: skip
WIDE = Job(
    "wide", 24, 64,
    {
        "cams": ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "eigencam", "ablationcam", "random"],
        "perturbations": [{"gaussian_noise": [1, 2, 3, 4, 5], "replicates": 6},
                          {"salt_pepper": [1, 2, 3, 4, 5], "replicates": 6}],
        "models": [{"name": f"m/{seed}", "builder": MODEL, "arguments": {"seed": seed}} for seed in range(3)],
    },
)  # fmt: skip
LARGE = Job(
    "large", 12, 320,
    {
        "cams": ["gradcam", "random"],
        "perturbations": [{"gaussian_noise": [1, 2, 3, 4, 5], "replicates": 6}],
        "models": [{"name": "a", "builder": MODEL}],
    },
)  # fmt: skip
"""Its variants, 9 MiB per image, do not fit into what is left of a small object store."""


def write_config(path: Path, output: str, photos: str, job: Job) -> None:
    """Write the configuration of a trial."""
    data: dict[str, Any] = {
        "output": output,
        "datasets": [{"name": "chaos", "images": photos}],
        "image": {"resize": job.side + job.side // 8, "crop": job.side},
        "gallery_images": 2,
        "max_failure_share": 1,
        "cluster": {"explainers": [1, 2], "perturbers": [1, 1], "no_progress_timeout_s": 120, "image_timeout_s": 30},
        **job.settings,
    }
    path.write_text(yaml.safe_dump(data))
