"""How a session begins where Ray is slow or TMPDIR is long, and how it ends."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from ray._private import services
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from camrobust.contract.errors import UserError
from camrobust.run import private
from camrobust.run.private import SOCKET_BYTES, short_temporary_folder
from camrobust.run.session import START, _await_executors, _time_to_start, check_reachable
from tests import in_process
from tests.photos import write_photos
from tests.runs import ROOT, config, environment


class Slow(StreamingExecutor):
    """A thread that still schedules a stream when its run is over."""

    def __init__(self):
        threading.Thread.__init__(self, daemon=True)
        self.let_go = threading.Event()

    def run(self):
        self.let_go.wait(10)

    def __del__(self):
        pass


def test_a_session_waits_for_ray_data_to_stop_scheduling():
    thread = Slow()
    thread.start()
    threading.Timer(0.2, thread.let_go.set).start()
    _await_executors()
    assert not thread.is_alive()


@pytest.fixture
def long_folder(monkeypatch):
    """TMPDIR is a folder whose path has 95 characters."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        folder = Path(place) / ("x" * (94 - len(place)))
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        yield folder


def test_a_long_tmpdir_is_reached_by_a_short_link(long_folder):
    with short_temporary_folder() as short:
        assert len(f"{short}/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store") <= SOCKET_BYTES
        assert Path(short).resolve() == long_folder / "ray"
        assert Path(short).parent.stat().st_mode & 0o777 == 0o700
    assert not Path(short).parent.exists()
    assert (long_folder / "ray").is_dir()


def test_a_short_tmpdir_is_left_to_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    with short_temporary_folder() as short:
        assert short is None


def test_a_long_tmpdir_without_a_place_for_a_link_is_told_before_anything_is_written(
    long_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(private, "SHORT_PLACES", ("/no/such/place",))
    write_photos(tmp_path / "set", 1)
    code, _, told = in_process.camrobust(capsys, "run", config(tmp_path, tmp_path / "set"))
    assert code == 2
    assert told.splitlines() == [
        f"camrobust: cluster: TMPDIR={long_folder} is too long for Ray's sockets, whose paths may have {SOCKET_BYTES} "
        "bytes; set TMPDIR to a shorter folder"
    ]
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_told_before_anything_is_written(tmp_path, capsys):
    write_photos(tmp_path / "set", 1)
    path = config(tmp_path, tmp_path / "set")
    code, _, told = in_process.camrobust(capsys, "run", path, "--address", "127.0.0.1:9")
    assert code == 2
    assert told.splitlines()[-1].startswith("camrobust: cluster: there is no Ray cluster at '127.0.0.1:9'")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="there is no Ray cluster"):
        check_reachable("127.0.0.1:9")


def test_a_node_may_register_late(monkeypatch):
    answers = iter([RuntimeError("no node"), RuntimeError("no node"), {"node": "there"}])

    def get_node(gcs_address, node_id):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(services, "get_node", get_node)
    with _time_to_start(60):
        assert services.get_node("address", "node") == {"node": "there"}
    assert services.get_node is get_node


SLOW = """
import sys
from ray._private import services
from camrobust.interface.cli import main

services.GCS_SERVER_EXECUTABLE = sys.argv[1]
sys.exit(main(["run", sys.argv[2]]))
"""


def test_a_ray_that_does_not_start_in_time_is_one_sentence(tmp_path):
    """Ray's first process is one that sleeps."""
    sleeper = tmp_path / "gcs_server"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    write_photos(tmp_path / "set", 1)
    path = config(tmp_path, tmp_path / "set", models=["tests.toys:pooled"])
    variables = environment(**{START: "1", "PYTHONWARNINGS": "ignore"})
    found = subprocess.run([sys.executable, "-c", SLOW, str(sleeper), str(path)], env=variables, cwd=ROOT,
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert found.returncode == 1, found.stderr
    last = found.stderr.splitlines()[-1]
    assert last.startswith("camrobust: cluster: Ray did not start on this machine (")
    assert last.endswith(f"give it more time with {START} (s), then run again to resume")
    assert "Traceback" not in found.stderr
