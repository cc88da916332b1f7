"""The chaos bench counts honestly, compares every table, and leaves nothing behind."""

import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from camrobust.bench.chaos import faults, harness, jobs, process_faults, store_faults, trial
from camrobust.bench.chaos.judge import KEYS, Results, wrong
from camrobust.bench.chaos.processes import descendants, title
from camrobust.bench.chaos.proxy import Faults, Link, failing_store
from camrobust.bench.chaos.signing import EXPIRED, UNSIGNED, Keys
from camrobust.interface.cli import main
from camrobust.io.store import open_store
from tests.runs import ROOT, environment

IMAGES = pl.DataFrame({"dataset": "d", "image_id": ["a", "b"], "brightness": [0.1, None]})
MAPS = pl.DataFrame({"dataset": "d", "image_id": ["a", "a"], "model": "m", "perturbation": ["clean", "blur"],
                     "strength": "", "replicate": 0, "maps": [b"\0\1", b"\2\3"]})  # fmt: skip
SUMMARIES = {
    "by_cam": pl.DataFrame({"cam": ["x", "y"], "n_images": [2, 2], "robustness": [0.5, 0.25]}),
    "tests": pl.DataFrame({"test": ["friedman"], "p": [0.01]}),
}
SCORES = pl.DataFrame({**{key: ["a", "b"] for key in KEYS[:-1]}, "replicate": [0, 0], "rbo": [0.1, 0.2]})
EXPECTED = Results(SCORES, IMAGES, MAPS, SUMMARIES)


def test_equal_results_are_exact_in_any_order_and_summaries_within_rounding():
    nearly = {**SUMMARIES, "by_cam": SUMMARIES["by_cam"].with_columns(pl.col("robustness") * (1 + 1e-12)).reverse()}
    found = Results(SCORES.reverse(), IMAGES.reverse(), MAPS.reverse(), nearly)
    assert not any(wrong(found, EXPECTED).values())


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("different", {"scores": SCORES.with_columns(rbo=pl.Series([0.1, 0.2 + 1e-9]))}),
        ("lost", {"scores": SCORES[:1]}),
        ("doubled", {"scores": pl.concat([SCORES, SCORES[:1]])}),
        ("images", {"images": IMAGES.with_columns(brightness=pl.Series([0.1, 0.2]))}),
        ("images", {"images": pl.concat([IMAGES, IMAGES[1:]])}),
        ("maps", {"maps": MAPS.with_columns(maps=pl.Series([b"\0\1", b"\2\4"]))}),
        ("maps", {"maps": MAPS[:1]}),
        ("summaries", {"summaries": {**SUMMARIES, "tests": pl.DataFrame({"test": ["friedman"], "p": [0.011]})}}),
        ("summaries", {"summaries": {**SUMMARIES, "by_cam": SUMMARIES["by_cam"][:1]}}),
        ("summaries", {"summaries": {**SUMMARIES, "by_cam": SUMMARIES["by_cam"].with_columns(n_images=3)}}),
        ("summaries", {"summaries": {**SUMMARIES, "tests": SUMMARIES["tests"].with_columns(p=pl.lit(None, float))}}),
    ],
)
def test_one_wrong_cell_of_any_table_is_found(kind, changed):
    counts = wrong(replace(EXPECTED, **changed), EXPECTED)
    assert [name for name, count in counts.items() if count] == [kind]


class Ended:
    """A driver that has ended."""

    pid, returncode = 0, 0

    def poll(self):
        return 0

    def communicate(self, timeout=None):
        del timeout
        return "", 0

    def kill(self):
        pass


@pytest.fixture
def one(tmp_path, monkeypatch):
    """A trial whose driver ends at once with success, on no cluster."""
    found = trial.Trial(0, random.Random(0), None, jobs.NARROW, tmp_path / "run.yaml", str(tmp_path / "out"),
                        open_store(str(tmp_path)), {}, Faults(), 40, tmp_path)  # fmt: skip
    monkeypatch.setattr(found, "start", lambda *_: setattr(found, "driver", Ended()))
    return found


def test_a_fault_that_finds_nothing_to_strike_is_not_an_injection(one):
    def nothing(_trial):
        raise trial.Missed("kill -9 Load (none was running)")

    trial.carry_out(one, [(trial.BEFORE, nothing), (0.5, process_faults.kill_driver)])
    assert one.injected == []
    assert one.missed == ["kill -9 Load (none was running)", "kill_driver (the run had ended)"]
    assert one.exits == [0]


def test_a_fault_without_effect_is_not_an_injection(one):
    """A store that refuses, but is not asked; a driver that ends well although it was sent a signal."""
    injection = store_faults.outage(one)
    assert injection.words == "store: 10 minutes of 503"
    assert not injection.struck()
    one.faults.draw()
    assert injection.struck()
    one.calm()
    assert one.faults.shares == {}
    with pytest.raises(trial.Missed, match="SIGTERM driver"):
        process_faults.end_driver(one)


def bench_of(lines, monkeypatch):
    """`chaos` with a bench that hands out these lines."""

    class Bench:
        def __init__(self, *_):
            self.left = iter(lines)

        def trial(self, number, _dice):
            return {"trial": number, **next(self.left)}

    monkeypatch.setattr(harness, "_Bench", Bench)


def test_a_trial_in_which_nothing_struck_is_made_again_and_never_counted(monkeypatch):
    nothing, good = {"counts": False, "exact": True}, {"counts": True, "exact": True}
    bench_of([good, nothing, good], monkeypatch)
    lines = harness.chaos(2, 0)
    assert [line["trial"] for line in lines] == [0, 1, 1]
    assert harness.passed(lines, 2)
    bench_of([nothing] * harness.DRAWS, monkeypatch)
    lines = harness.chaos(1, 0)
    assert len(lines) == harness.DRAWS
    assert not harness.passed(lines, 1)
    # Wrong rows without a fault are the worst outcome, and no reason to try again.
    bench_of([{"counts": False, "exact": False}], monkeypatch)
    assert not harness.passed(harness.chaos(1, 0), 1)


def test_the_command_fails_and_says_so_when_nothing_struck(monkeypatch, capsys):
    line = dict.fromkeys(("lost", "doubled", "different", "images", "maps", "summaries", "touched"), 0)
    line |= {"config": "narrow", "store": "folder", "injected": [], "missed": ["kill -9 Load (none was running)"],
             "exits": [0], "seconds": 1.0, "counts": False, "exact": True, "last": ""}  # fmt: skip
    bench_of([line] * harness.DRAWS, monkeypatch)
    assert main(["bench", "chaos", "1"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing (missed: kill -9 Load (none was running)); exits [0], 1.0 s, exact, but nothing struck" in told
    assert "0 of 0 trials exact in the end, 3 s; 3 more do not count, because nothing struck" in told


def test_what_is_injected_depends_on_the_seed_alone():
    able = ["store", "disk", "memory", "disk and memory", "keys"]

    def draw(seed):
        dice = random.Random(seed)
        return faults.moments(dice, faults.choose(dice, able))

    assert draw("0/7/0") == draw("0/7/0")
    kinds = {fault for number in range(300) for _, fault in draw(number)}
    assert kinds == {fault.inject for fault in faults.FAULTS}
    first = {fault.inject for fault in faults.FAULTS if fault.when == "before"}
    assert all((share == trial.BEFORE) == (fault in first) for number in range(50) for share, fault in draw(number))


@pytest.fixture
def upstream():
    """The address of a server on loopback that answers every request with its verb and path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps([self.command, self.path, len(content), dict(self.headers)]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    Handler.do_GET = Handler.do_PUT = Handler.answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(address, path="/bucket/key", **headers):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_link_that_is_cut_drops_its_own_node_and_no_other(upstream):
    found, link = Faults(), Link()
    with failing_store(upstream, found) as others, failing_store(upstream, found, link) as its_own:
        assert ask(its_own)[0] == 200
        link.cut = True
        with pytest.raises(ConnectionError):
            ask(its_own)
        assert ask(others)[0] == 200
        link.cut = False
        assert ask(its_own)[0] == 200
    assert link.dropped == 1


def test_expired_credentials_are_refused_until_the_file_is_read_again(upstream, tmp_path):
    keys = Keys("store-id", "store-secret", tmp_path / "credentials")
    keys.renew()

    def named():
        text = (tmp_path / "credentials").read_text()
        return {"Authorization": f"AWS4-HMAC-SHA256 Credential={text.split()[3]}/20260101/r/s3/aws4_request, x"}

    old = named()
    with failing_store(upstream, Faults(keys=keys)) as address:
        status, body = ask(address, **old)
        # What reaches the store is signed with the store's own key.
        assert (status, "Credential=store-id/" in body.decode()) == (200, True)
        keys.renew()
        assert ask(address, **old) == (403, EXPIRED)
        assert ask(address, **named())[0] == 200
    assert keys.refused == 1
    assert (tmp_path / "credentials").stat().st_mode & 0o077 == 0
    assert "store-secret" not in repr(keys)


def test_the_signature_is_that_of_botocore(tmp_path):
    class Unsigned(S3SigV4Auth):
        def payload(self, _request):
            return UNSIGNED

    path = "/bucket?list-type=2&prefix=a%2Fb&delimiter="
    request = AWSRequest("GET", f"http://127.0.0.1:9000{path}")
    Unsigned(Credentials("id", "secret"), "s3", "us-east-1").add_auth(request)
    moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = Keys("id", "secret", tmp_path / "c").signed("GET", path, {"host": "127.0.0.1:9000"}, moment)
    assert ours["authorization"] == request.headers["Authorization"]


STARTS_TWO = """
import subprocess, sys, time
from camrobust.bench.chaos.ending import ending_cleanly
with ending_cleanly():
    inner = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    subprocess.Popen([sys.executable, "-c", inner + "print('up', flush=True); time.sleep(600)"], start_new_session=True)
    time.sleep(600)
"""


def test_sigterm_ends_what_was_started_also_in_sessions_of_their_own():
    process = subprocess.Popen([sys.executable, "-c", STARTS_TWO], env=environment(), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "up\n"
    below = descendants(process.pid)
    assert len(below) == 2
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert [title(pid) for pid in below if title(pid)] == []


@pytest.mark.cluster
def test_sigterm_to_the_bench_leaves_nothing_behind():
    """Neither processes of Ray nor folders nor servers, also when a node is just starting."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        command = [sys.executable, "-m", "camrobust", "bench", "chaos", "1"]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE,
                                   env=environment(TMPDIR=folder, AWS_ENDPOINT_URL=""))  # fmt: skip
        below = set()
        while not any("raylet" in title(pid).partition(" ")[0] for pid in below):
            assert process.poll() is None, process.stderr.read()
            below |= descendants(process.pid)
        assert any(Path(folder).iterdir())
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 1
        assert told == "camrobust: interrupted; run the same command again to resume\n"
        assert [title(pid) for pid in below if title(pid)] == []
        assert list(Path(folder).iterdir()) == []
