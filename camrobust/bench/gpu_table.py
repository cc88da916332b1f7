"""The figures of `jobs/gpu_check.sh` as one Markdown table: `python -m camrobust.bench.gpu_table FOLDER`."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Line = tuple[str, str, str]
"""What was checked, under which setting, the figure."""
SLOWEST = 5


def machine() -> str:
    """GPU, cores and versions of this machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{gpu}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, {_commit()}"


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"commit {asked.stdout.strip()}" if asked.returncode == 0 else "no commit"


def passes(found: dict[str, Any]) -> Iterator[Line]:
    """Ratios to a plain forward pass, and Quickshift where it was timed."""
    setting = f"{found['model']}, batch {found['batch']}, {found['precision']}"
    yield "plain forward", setting, f"{found['plain_forward_ms_per_image']} ms per image"
    for name, ratio in found["ratios"].items():
        if ratio != 1:
            yield name, setting, f"{ratio:.2f} × plain forward"
    for row in found["segments"]:
        numbers = f"{row['kernel_size']:g}, {row['max_dist']:g}, {row['ratio']:g}; batch {row['batch']}"
        equal = f"{row['equal_labels']} of {row['compared']} equal"
        yield "Quickshift", numbers, f"{row['times_faster']:.1f} × scikit-image ({row['ms_per_image']} ms, {equal})"


def operations(found: dict[str, Any]) -> Iterator[Line]:
    """Operations by part of a pass, host milliseconds and bytes."""
    for row in found["operations"]:
        yield "tensor operations", f"{row['part']}, {found['images']} images in a pass", str(row["operations"])
    for row in found["host"]:
        yield "host, tiny network", f"{row['variants']} variants", f"{row['together_ms']} ms per image and model"
    for row in found["bytes"]:
        both = f"{row['host_to_device_kib']} KiB to the device, {row['device_to_host_kib']} KiB back"
        yield "bytes moved per image", f"{row['variants']} variants", both


def perturbations(found: list[dict[str, Any]]) -> Iterator[Line]:
    """All perturbations together, and the slowest."""
    together = next(row for row in found if row["perturbation"].startswith("these"))
    single = sorted((row for row in found if row is not together), key=lambda row: -row["ms"])
    for row in (together, *single[:SLOWEST]):
        yield "perturbations", f"{row['perturbation']}, five severities", f"{row['ms']} ms per image"


def job(found: list[dict[str, Any]]) -> Iterator[Line]:
    """The job's rate against the forward passes that it contains."""
    for row in found:
        compiled = ", compiled" if row["compile"] else ""
        setting = f"{row['variants']} variants, {row['segments']}, {row['precision']}{compiled}"
        rates = f"{row['images_per_s']} of {row['plain_images_per_s']} images/s"
        yield (
            "Ray job, one worker of each kind",
            setting,
            (f"{row['share']:.2f} of plain forward ({rates}; busy workers: {row['workers_busy']})"),
        )


READERS: dict[str, Callable[[Any], Iterator[Line]]] = {
    "passes": passes, "operations": operations, "perturbations": perturbations, "job": job,
}  # fmt: skip


def lines(folder: Path) -> Iterator[Line]:
    """The lines of all steps, in their order; one line for a step that failed."""
    for step in (folder / "steps.tsv").read_text().splitlines():
        name, code, seconds = step.split("\t")
        printed = (folder / f"{name}.json").read_text() if (folder / f"{name}.json").is_file() else ""
        if name == "tests":
            yield "gpu tests", f"exit code {code}", (printed.strip().splitlines() or ["nothing"])[-1]
        elif code == "0":
            yield from READERS[name.partition("-")[0]](json.loads(printed))
        else:
            why = "out of time" if code == "124" else f"exit code {code}"
            yield name, f"after {seconds} s", f"FAILED ({why})"


def main(folder: Path) -> int:
    """Print the table; returns 1 if a step failed."""
    table = [f"{machine()}", "", "| check | setting | figure |", "|---|---|---|"]
    table += [f"| {' | '.join(line)} |" for line in lines(folder)]
    sys.stdout.write("\n".join(table) + "\n")
    codes = [step.split("\t")[1] for step in (folder / "steps.tsv").read_text().splitlines()]
    return int(any(code != "0" for code in codes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
