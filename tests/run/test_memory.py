"""An image that takes more memory than there is: Ray's memory monitor ends its worker, for real."""

import os
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from camrobust.interface.cli import main
from tests.photos import write_photos
from tests.runs import ROOT, TINY, command, config, end, environment, failures, scores

pytestmark = pytest.mark.cluster
GOOD = 3
PER_PAIR = 2 * 2
"""Score rows of one image under one model: CAMs × variants."""
FEW = TINY | {"cams": ["gradcam", "random"], "perturbations": ["gaussian_noise:1,5"], "gallery_images": 0}


@pytest.fixture
def narrow():
    """A way to start a command in a machine of six gigabytes: a memory group of its own, in Ray's sight.

    Ray's memory monitor looks at the group that is mounted where containers have theirs, so what else runs on this
    machine does not count, and nothing outside is in danger: beyond six gigabytes the kernel kills in the group.
    """
    mounted = Path("/sys/fs/cgroup/memory")
    mine = [line.partition(":memory:")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    group = mounted / "".join(mine).strip("/") / f"camrobust-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(6 * 2**30))
    except OSError as error:
        told = f"needs to make a memory group (cgroup v1, as root): {error}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    script = f'echo $$ > {group}/cgroup.procs && mount --bind {group} {mounted} && exec "$@"'
    yield ["unshare", "--mount", "sh", "-c", script, "sh"]
    for _ in range(100):
        end([int(pid) for pid in (group / "cgroup.procs").read_text().split()])
        try:
            group.rmdir()
            break
        except OSError:
            time.sleep(0.1)


def test_an_image_whose_worker_ray_kills_for_its_memory_is_quarantined(tmp_path, narrow):
    folder = tmp_path / "set"
    write_photos(folder, GOOD)
    Image.new("RGB", (256, 256), (0, 0, 0)).save(folder / "black.png")
    models = ["tests.toys:pooled", {"name": "greedy", "builder": "tests.toys:greedy"}]
    path = config(tmp_path, folder, models=models, max_failure_share=1, **FEW)
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as session:
        variables = environment(RAY_memory_usage_threshold="0.8", RAY_memory_monitor_refresh_ms="100",
                                RAY_task_oom_retry_delay_base_ms="0", RAY_TMPDIR=session)  # fmt: skip
        result = subprocess.run([*narrow, *command("run", path)], capture_output=True, text=True, check=False,
                                env=variables, cwd=ROOT, timeout=400)  # fmt: skip
        told = "".join(log.read_text() for log in Path(session).glob("ray/session_2*/logs/raylet.out"))
    assert result.returncode == 0, result.stderr
    killed = [line for line in told.splitlines() if "Selected to kill" in line and "MapBatches(Explain)" in line]
    assert len(killed) >= 3, told[-4000:]
    (found,) = failures(tmp_path / "out").to_dicts()
    assert (found["image_id"], found["model"], found["kind"]) == ("black.png", "greedy", "quarantined")
    assert found["message"].startswith("the worker died 3 times at this image (crash, out of memory, or more than 600")
    rows = scores(tmp_path / "out")
    assert rows.group_by("model").len().sort("model").rows() == [
        ("greedy", GOOD * PER_PAIR), ("tests.toys:pooled", (GOOD + 1) * PER_PAIR)
    ]  # fmt: skip
    assert main(["verify", str(tmp_path / "out")]) == 0
