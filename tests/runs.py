"""Running the command line as a user does, and looking at what it left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from camrobust.bench.chaos.processes import kill, title
from camrobust.results.folder import open_run

ROOT = Path(__file__).parents[1]
KEYS = ["dataset", "model", "image_id", "cam", "perturbation", "strength", "replicate"]


TINY = {"image": {"resize": 72, "crop": 64}, "segments": {"method": "grid"}}
"""Changes of a configuration that make an image cost a tenth."""
SMALL = {"models": ["tests.toys:pooled"], **TINY}
ONE_WORKER = {"explainers": [1, 1], "perturb": "with_explain"}
"""One worker for Perturb and Explain, as each takes three seconds of CPU before it begins."""


def config(folder, images, **changes):
    """The file of a small run with few workers."""
    data = {
        "output": str(folder / "out"),
        "datasets": [{"name": "made up", "images": str(images)}],
        "models": [
            {"name": "toy/a", "builder": "tests.toys:pooled"},
            {"name": "007", "builder": "tests.toys:dense"},
        ],
        "cams": ["gradcam", "gradcam++", "eigencam", "ablationcam", "random"],
        "perturbations": ["gaussian_noise:1,5", "contrast:5", {"salt_pepper": [3], "replicates": 2}],
        "gallery_images": 3,
        "cluster": ONE_WORKER,
    } | changes
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def command(*arguments):
    return [sys.executable, "-m", "camrobust", *map(str, arguments)]


def environment(**changes):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **changes}


def camrobust(*arguments, **changes):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment(**changes),
                          cwd=ROOT, timeout=400)  # fmt: skip


def start(*arguments, **changes):
    return subprocess.Popen(command(*arguments), env=environment(**changes), cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def scores(out):
    folder = open_run(str(out))
    return folder.scores(folder.committed()).sort(KEYS)


def failures(out):
    folder = open_run(str(out))
    return folder.table("failures", folder.committed())


def done_of(out):
    """What declares a run complete."""
    return open_run(str(out)).done()


def report(out):
    """The page of a run."""
    return Path(out) / open_run(str(out)).place("report") / "index.html"


def wait_for(condition, process, seconds=240):
    """Poll until the condition holds; fail when the process ends or the time is over first."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if process.poll() is not None:
            raise AssertionError(f"the run ended first:\n{process.stdout.read()}")
        if time.monotonic() > end:
            raise AssertionError("the condition never held")
        time.sleep(0.05)
    return found


def named(pids, text):
    """Those whose title holds a text; Ray titles a worker after what it runs."""
    return [pid for pid in pids if text in title(pid)]


def end(pids):
    """Kill processes that this test started and that outlived their driver."""
    kill(pids)
