"""The same run from and to every store, killed in the middle and resumed: the rows are equal to the last bit."""

import os
import signal

import pytest

from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from tests import in_process
from tests.cloud_places import new_place, settle
from tests.photos import write_photos
from tests.runs import SMALL, config, end, start, wait_for

pytestmark = [
    pytest.mark.s3,
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("CAMROBUST_ALL"), reason="minutes: four runs through Ray"),
]
IMAGES = 10
SLOW = SMALL | {
    "models": [{"name": "slow", "builder": "tests.toys:patient", "arguments": {"seconds": 0.3}}],
    "cams": ["gradcam", "random"],
    "perturbations": ["gaussian_noise:1,5", "contrast:5"],
}


def commits(output):
    return {entry.key for entry in open_store(output).list("commits/")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_is_killed_goes_on_in_every_store(cluster, bucket, cloud, tmp_path, monkeypatch, capsys):
    settle(monkeypatch, {**cloud("gs"), **cloud("az")})
    roots = {"folder": str(tmp_path / "store"), "s3": f"s3://{bucket}", "gs": new_place("gs"), "az": new_place("az")}
    write_photos(tmp_path / "set", IMAGES, size=(80, 72))
    for root in roots.values():
        photos = open_store(f"{root}/photos")
        for path in (tmp_path / "set").iterdir():
            photos.write(path.name, path.read_bytes())
        output = f"{root}/runs/one"
        path = config(tmp_path, f"{root}/photos", output=output, **SLOW)
        process = start("run", path, "--address", cluster.address)
        try:
            wait_for(lambda output=output: commits(output), process)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        finally:
            end([process.pid])
        assert 0 < len(open_run(output).committed().commits) < IMAGES
        code, _, told = in_process.camrobust(capsys, "run", path)
        assert code == 0, told
        assert f" of {IMAGES} images and parts are committed" in told
        assert in_process.camrobust(capsys, "verify", output)[0] == 0
    for root in roots.values():
        both = (f"{root}/runs/one", f"{roots['folder']}/runs/one")
        assert in_process.camrobust(capsys, "compare", "--exact", *both)[0] == 0
