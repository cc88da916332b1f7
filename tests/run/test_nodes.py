"""Several raylets on this machine: nodes that are lost or announced to be, and the job server."""

import json
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from camrobust.bench.chaos import faults, harness
from camrobust.bench.chaos.harness import chaos
from camrobust.bench.chaos.judge import KEYS, compare, results_of
from camrobust.bench.chaos.nodes import nodes
from camrobust.contract.errors import UserError
from camrobust.interface.cli import main
from camrobust.io.store import open_store
from camrobust.results.folder import open_run
from camrobust.run.spot import notice
from tests import in_process
from tests.photos import write_photos
from tests.run.test_private import joining, listening, outside
from tests.runs import ROOT, TINY, config


@pytest.fixture
def metadata():
    """A stand-in for EC2's metadata service, version 2; set `.action` to announce something."""

    class Handler(BaseHTTPRequestHandler):
        action = None
        asked = 0

        def log_message(self, *_):
            pass

        def answer(self, status, content=b""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_PUT(self):
            good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200, b"token-1") if good else self.answer(400)

        def do_GET(self):
            type(self).asked += 1
            if self.headers["X-aws-ec2-metadata-token"] != "token-1":
                self.answer(401)
            elif self.path != "/latest/meta-data/spot/instance-action" or self.action is None:
                self.answer(404)
            else:
                self.answer(200, json.dumps(self.action).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    server.server_close()


def test_a_notice_is_read_as_the_service_gives_it(metadata):
    assert notice(metadata.address) is None
    metadata.action = {"action": "terminate", "time": "2026-11-24T08:22:00Z"}
    assert notice(metadata.address) == datetime(2026, 11, 24, 8, 22, tzinfo=UTC)
    metadata.action = {"action": "terminate"}
    assert notice(metadata.address) is None
    assert notice("http://127.0.0.1:1") is None
    with pytest.raises(UserError, match="--metadata must be an http:// address, got 'file:///etc/passwd'"):
        notice("file:///etc/passwd")


class WithoutFaultsHere(harness._Bench):
    """Ray changes no bit (`tests/run/test_run.py`), so it needs no cluster to know what the rows must be."""

    def _expected(self, job):
        trial = self._prepare("expected", -1, random.Random(0), job, remote=False)
        assert in_process.run(trial.config).exit_code == 0
        return results_of(trial.output)


@pytest.mark.cluster
def test_a_node_lost_with_a_corrupt_image_and_a_drained_one_end_exact(monkeypatch):
    """The chaos bench itself, with faults chosen instead of drawn; the run without faults is made in this process."""
    plan = [(0.0, faults.corrupt), (0.1, faults.kill_node), (0.3, faults.drain_node)]
    monkeypatch.setattr("camrobust.bench.chaos.harness.moments", lambda *_: plan)
    monkeypatch.setattr(harness, "_Bench", WithoutFaultsHere)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    (line,) = chaos(1, 0)
    assert line["exact"], line
    assert line["injected"] == ["image corrupted", "node lost", "drain, then lost"]


@pytest.fixture(scope="module")
def wheel_python(dist, tmp_path_factory):
    """The Python of an environment that has the built wheel, and of everything else what is installed here."""
    home = tmp_path_factory.mktemp("environment")
    install = ["pip", "--python", str(home), "install", "--quiet", "--no-index", "--no-deps", str(dist.wheel)]
    for command in (["venv", "--without-pip", str(home)], install):
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    site, python = Path(sysconfig.get_path("purelib")), home / "bin" / "python"
    own = home / site.relative_to(sys.prefix)
    # In a .pth file this is only a path: the .pth files of that folder, such as the editable install, are not read.
    (own / "others.pth").write_text(f"{site}\n")
    found = "import camrobust, os; os.chdir('/'); print(camrobust.__file__)"
    where = subprocess.run([python, "-P", "-c", found], check=True, capture_output=True, text=True, env={}).stdout
    assert where.strip() == str(own / "camrobust" / "__init__.py")
    return python


@pytest.fixture(scope="module")
def raylets(wheel_python, object_store, tmp_path_factory):
    """A head with the job server, and one node that offers a label and slots; all run with the wheel, far from here."""
    offers = ("--labels=role=gpu", '--resources={"slot": 8}')
    variables = object_store | {"RAY_metrics_report_interval_ms": "1000"}
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as elsewhere:
            elsewhere.setattr(sys, "executable", str(wheel_python))
            elsewhere.delenv("PYTHONPATH", raising=False)
            elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
            cluster = stack.enter_context(nodes(1, variables, cpus=2, job_server=True, offers=offers))
        yield cluster


@pytest.mark.cluster
def test_nodes_on_one_machine_listen_on_loopback_only_and_want_a_token(raylets):
    pids = {pid for node in (raylets.head, *raylets.workers) for pid in (node.process.pid, *node.below())}
    sockets = listening(pids)
    assert sum(title.startswith("raylet ") for title, _ in sockets) >= 2, sockets
    assert outside(sockets) == []
    ours = {name: raylets.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
    refused, accepted = joining(raylets.address), joining(raylets.address, **ours)
    assert "AuthenticationError: RPC error: InvalidAuthToken" in refused.communicate(timeout=120)[1]
    assert accepted.communicate(timeout=120)[0] == "a task of mine\n"
    assert Path(ours["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.cluster
@pytest.mark.s3
def test_a_job_submitted_where_only_the_wheel_is_ends_with_a_report_in_the_bucket_and_its_failure_is_a_failed_job(
    raylets, bucket, tmp_path, wheel_python, monkeypatch
):
    monkeypatch.setattr(sys, "executable", str(wheel_python))
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "set", 4)
    photos = open_store(f"s3://{bucket}/photos")
    for path in (tmp_path / "set").iterdir():
        photos.write(path.name, path.read_bytes())
    data = {"datasets": [{"name": "s3", "images": f"s3://{bucket}/photos"}], "models": ["own_model:pooled"], **TINY}
    placed = {"gpu_labels": {"role": "gpu"}, "gpu_resources": {"slot": 0.5}, "loader_labels": {"role": "gpu"},
              "explainers": [1, 1]}  # fmt: skip
    good = config(tmp_path, "", output=f"s3://{bucket}/runs/job", cluster=placed, **data)
    with scraped(raylets) as metrics:
        done = submit(raylets, good, tmp_path)
    for name in ("steps", "busy_seconds", "workers_busy"):
        pattern = rf'camrobust_{name}\w*{{[^}}]*stage="explain"[^}}]*}} [0-9.]+'
        assert re.search(pattern, metrics[-1]), metrics[-1][-2000:]
    assert re.search(r"camrobust_parts_committed{[^}]*} [0-9.]+", metrics[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    page = open_run(f"s3://{bucket}/runs/job").place("report") + "index.html"
    assert b"<html" in open_store(f"s3://{bucket}/runs/job").read(page)
    assert main(["verify", f"s3://{bucket}/runs/job"]) == 0
    bad = config(tmp_path, "", output=f"s3://no-{bucket}/runs/job", **data)
    failed = submit(raylets, bad, tmp_path)
    assert failed.returncode == 1
    assert f"camrobust: s3: there is no bucket 'no-{bucket}'" in failed.stdout


@contextmanager
def scraped(cluster):
    """What Ray's Prometheus endpoints say of us, fullest last, as long as the block runs."""
    found, stop = [""], threading.Event()

    def scrape():
        while not stop.wait(0.5):
            text = ""
            # Not all of the folder is walked: Ray removes a job's package from it meanwhile.
            for file in Path(cluster.folder).glob("session_2*/prom_metrics_service_discovery.json"):
                for target in [target for one in json.loads(file.read_text()) for target in one["targets"]]:
                    with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
                        text += answer.read().decode()
            ours = "\n".join(line for line in text.splitlines() if "camrobust_" in line)
            if len(ours) >= len(found[-1]):
                found.append(ours)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    yield found
    stop.set()
    thread.join()


def submit(cluster, config, folder):
    """Submit jobs/evaluate.py with a configuration and the user's own model, as from a folder of theirs."""
    package = folder / "package"
    (package / "jobs").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "jobs" / "evaluate.py", package / "jobs")
    shutil.copy(ROOT / "tests" / "toys.py", package / "own_model.py")
    shutil.copy(config, package / "run.yaml")
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    command = [*ray, "job", "submit", "--address", cluster.job_server, "--working-dir", str(package),
               "--entrypoint-num-cpus", "0", "--", sys.executable, "jobs/evaluate.py", "run.yaml"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, env=cluster.environment, timeout=300)


@pytest.mark.cluster
def test_the_watcher_drains_its_node_when_the_notice_comes(raylets, metadata):
    """Last of those that use the node: it leaves."""
    identity = raylets.identity(raylets.workers[0])
    watcher = subprocess.Popen(
        [sys.executable, "-m", "camrobust", "watch-spot", "--metadata", metadata.address, "--interval", "0.2",
         "--node-id", identity, "--address", raylets.address],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env=raylets.environment,
    )  # fmt: skip
    while metadata.asked < 3:
        assert watcher.poll() is None
        time.sleep(0.05)
    end = datetime.now(UTC) + timedelta(seconds=60)
    metadata.action = {"action": "terminate", "time": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    _, told = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, told
    assert f"this machine is taken back at {end.replace(microsecond=0).isoformat()}; draining Ray's node" in told
    # An idle node that is drained leaves the cluster at once.
    assert identity not in alive(raylets)


LOOK = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
end = time.monotonic() + 30
while len(alive := [node["NodeID"] for node in ray.nodes() if node["Alive"]]) > 1 and time.monotonic() < end:
    time.sleep(0.1)
print(*alive)
"""


def alive(cluster):
    """The nodes that are left in a cluster, as soon as it is only one, or after half a minute."""
    looked = subprocess.run([sys.executable, "-c", LOOK, cluster.address], capture_output=True, text=True, check=True,
                            env=cluster.environment)  # fmt: skip
    return looked.stdout.split()


def test_watch_spot_wants_both_or_neither(capsys):
    assert main(["watch-spot", "--node-id", "ab"]) == 2
    assert "--node-id and --address belong together; give both or neither" in capsys.readouterr().err


def test_rows_lost_doubled_and_different_are_counted():
    keys = {key: ["a", "a", "b"] for key in KEYS[:-1]}
    expected = pl.DataFrame({**keys, "replicate": [0, 1, 0], "rbo": [0.1, 0.2, None]})
    assert compare(expected, expected) == {"lost": 0, "doubled": 0, "different": 0}
    assert compare(expected[1:], expected)["lost"] == 1
    assert compare(pl.concat([expected, expected[:2]]), expected)["doubled"] == 2
    assert compare(expected.with_columns(rbo=pl.Series([0.1, 0.3, None])), expected)["different"] == 1
