"""The same run from and to every store, killed in the middle and resumed: the rows are equal to the last bit."""

import json
import os
import signal
import subprocess
import sys

import pytest

from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from tests import in_process
from tests.cloud_places import new_place, settle
from tests.photos import write_photos
from tests.runs import ROOT, SMALL, config, end, environment, wait_for

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(not os.environ.get("CAMROBUST_ALL"), reason="four processes that import torch"),
]
IMAGES = 4
TERM_S = 5
SLOW = SMALL | {
    "models": [{"name": "slow", "builder": "tests.toys:patient", "arguments": {"seconds": 1.0}}],
    "cams": ["gradcam", "random"],
    "perturbations": ["gaussian_noise:1,5", "contrast:5"],
}


DRIVER = """
import sys
from camrobust.interface.cli import main
from tests import in_process
with in_process.without_ray():
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Photos, and the results of a run in a folder that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    write_photos(folder / "set", IMAGES, size=(80, 72))
    assert in_process.run(config(folder, folder / "set", **SLOW)).exit_code == 0
    return folder


def commits(output):
    return {entry.key for entry in open_store(output).list("commits/")}


@pytest.mark.parametrize("store", ["folder", "s3", "gs", "az"])
def test_a_run_that_is_killed_goes_on_in_every_store(bucket, cloud, whole, store, tmp_path, monkeypatch, capsys):
    settle(monkeypatch, {**cloud("gs"), **cloud("az")})
    monkeypatch.setenv("CAMROBUST_LEASE_TERM_S", str(TERM_S))
    root = {"folder": str(tmp_path / "store"), "s3": f"s3://{bucket}"}.get(store) or new_place(store)
    photos = open_store(f"{root}/photos")
    for path in (whole / "set").iterdir():
        photos.write(path.name, path.read_bytes())
    output = f"{root}/runs/one"
    path = config(tmp_path, f"{root}/photos", output=output, **SLOW)
    process = subprocess.Popen([sys.executable, "-c", DRIVER, "run", path], env=environment(), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        wait_for(lambda: commits(output), process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finally:
        end([process.pid])
    assert 0 < len(open_run(output).committed().commits) < IMAGES
    code, _, told = in_process.camrobust(capsys, "run", path)
    assert code == 0, told
    assert f" of {IMAGES} images and parts are committed" in told
    assert in_process.camrobust(capsys, "verify", output)[0] == 0
    code, printed, _ = in_process.camrobust(capsys, "compare", "--exact", output, whole / "out", "--json")
    assert (code, json.loads(printed)["tables"]["scores"]["rows"]) == (0, IMAGES * 2 * 3)
