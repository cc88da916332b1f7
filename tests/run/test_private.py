"""Who gets into a cluster of ours: looks at sockets and environments of real sessions, and tries to join them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from camrobust.bench.chaos.processes import descendants, title
from camrobust.contract.errors import UserError
from camrobust.run.session import connect
from tests.photos import write_photos
from tests.runs import ROOT, command, config, end, environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
OWN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "the user's own"}
REACHING = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "3"}
"""Without the first, Ray turns 127.0.0.1 into an outside address, where nobody listens: the token would not be tried.
Without the second, Ray tries a token that is refused for twenty seconds."""
PROGRAM = """
import json, os, stat, sys
from pathlib import Path

IMPORT
from camrobust.run.session import session
from camrobust.contract.config import ClusterConfig
from camrobust.contract.errors import UserError

def tell(**values):
    print(json.dumps(values), flush=True)

def same(row):
    return row

import ray
before, tokens = dict(os.environ), []
for _ in range(int(sys.argv[1])):
    with session("local", ClusterConfig()):
        assert ray.data.range(4).map(same).count() == 4
        path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        tokens.append(path.read_text())
        actor = ray.remote(type("Actor", (), {"ready": lambda self: True})).remote()
        assert ray.get(actor.ready.remote())
        modes = [oct(stat.S_IMODE(place.stat().st_mode)) for place in (path, path.parent)]
        try:
            with session("local", ClusterConfig()):
                pass
        except UserError as error:
            twice = str(error)
        tell(address=ray.get_runtime_context().gcs_address, path=str(path), modes=modes, twice=twice)
        sys.stdin.readline()
    changed = [name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)]
    tell(changed=changed, left=path.parent.exists(), tokens=len(set(tokens)))
"""
JOIN = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(lambda: "a task of mine").remote()))
"""


def listening(pids):
    """Addresses that processes listen on, by /proc: pairs of the process's title and the address."""
    owners = {}
    for pid in pids:
        try:
            links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            program, *rest = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            title = " ".join([program if "::" in program else Path(program).name, *rest])[:80]
        except OSError:
            continue
        owners |= {link: title for link in links if link.startswith("socket:")}
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in owners:
                words = bytes.fromhex(local.partition(":")[0])
                # Each four bytes of an address stand there as one number of this machine.
                turned = b"".join(words[place : place + 4][::-1] for place in range(0, len(words), 4))
                found.append((owners[f"socket:[{inode}]"], socket.inet_ntop(family, turned)))
    return found


def outside(sockets):
    return [(title, address) for title, address in sockets if address not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


def joining(address, **variables):
    """Another process, which joins a cluster and runs a task in it."""
    return subprocess.Popen([sys.executable, "-c", JOIN, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**outsider(), **variables})  # fmt: skip


def outsider():
    return {name: value for name, value in environment().items() if not name.startswith("RAY_")} | REACHING


@pytest.fixture(scope="module", params=["import ray.data", ""], ids=["ray first", "ray last"])
def program(request, tmp_path_factory):
    """A program of somebody with a session of ours open, Ray imported before or after us; `told` is what it says.

    One of the two opens a second session afterwards; under CAMROBUST_ALL=1 both do. In the other TMPDIR has 95
    characters: too many for Ray's sockets.
    """
    place = tmp_path_factory.mktemp("long")
    folder = place / ("x" * (94 - len(str(place))))
    folder.mkdir()
    variables = environment(**OWN, **({} if request.param else {"TMPDIR": str(folder)}))
    sessions = 2 if request.param or os.environ.get("CAMROBUST_ALL") else 1
    code = [sys.executable, "-c", PROGRAM.replace("IMPORT", request.param), str(sessions)]
    process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables,
                               cwd=ROOT)  # fmt: skip
    process.sessions = sessions
    try:
        process.told = json.loads(process.stdout.readline())
        yield process
    finally:
        end([*descendants(process.pid), process.pid])
        process.communicate()


@pytest.mark.cluster
def test_a_local_session_listens_on_loopback_only(program):
    sockets = listening([program.pid, *descendants(program.pid)])
    for part in ("gcs_server", "raylet", "ray::Actor", "ray::DashboardAgent", "-c"):
        assert any(part in title for title, _ in sockets), (part, sockets)
    assert outside(sockets) == []


@pytest.mark.cluster
def test_a_local_session_has_no_process_that_it_does_not_use(program):
    titles = [title(pid) for pid in descendants(program.pid)]
    assert any("raylet" in one for one in titles)
    for part in ("monitor.py", "log_monitor", "dashboard.py", "ray.util.client"):
        assert not any(part in one for one in titles), part


@pytest.mark.cluster
def test_its_token_is_in_a_private_file_and_nowhere_else(program):
    assert program.told["modes"] == ["0o600", "0o700"]
    token = Path(program.told["path"]).read_bytes()
    assert len(token) == 64
    below = descendants(program.pid)
    assert len(below) > 5
    for pid in below:
        for name in ("environ", "cmdline"):
            assert token not in Path(f"/proc/{pid}/{name}").read_bytes()


@pytest.mark.cluster
@pytest.mark.parametrize("program", ["import ray.data"], indirect=True, ids=["ray first"])
def test_a_process_without_the_token_is_refused(program, tmp_path):
    """All at once, as Ray tries several times."""
    address = program.told["address"]
    others = [
        joining(address),
        joining(address, RAY_AUTH_MODE="disabled"),
        joining(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
    ]
    write_photos(tmp_path / "set", 1)
    arguments = command("run", config(tmp_path, tmp_path / "set"), "--address", address, "--quiet")
    ours = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=outsider(), cwd=ROOT)
    for other in others:
        printed, told = other.communicate(timeout=120)
        assert other.returncode == 1
        assert "AuthenticationError: RPC error: InvalidAuthToken" in told
        assert printed == ""
    _, told = ours.communicate(timeout=120)
    assert ours.returncode == 2
    assert told.splitlines() == [
        f"camrobust: cluster: the Ray cluster at '{address}' wants a token that is not the one here, or there is none "
        "here; set RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token, or the name of a file with "
        "it into RAY_AUTH_TOKEN_PATH",
    ]


@pytest.mark.cluster
def test_a_process_with_the_token_is_let_in(program):
    other = joining(program.told["address"], RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=program.told["path"])
    printed, told = other.communicate(timeout=120)
    assert printed == "a task of mine\n", told


@pytest.mark.cluster
def test_a_second_session_is_refused_and_the_environment_is_left_as_it_was(program):
    """Last of the module: it ends the sessions."""
    second = "cluster: this program is connected to a Ray cluster already; call ray.shutdown() first"
    assert program.told["twice"] == second
    for number in range(1, program.sessions + 1):
        program.stdin.write("\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline()) == {"changed": [], "left": False, "tokens": number}
        if number < program.sessions:
            assert json.loads(program.stdout.readline())["path"] != program.told["path"]
    assert program.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("somewhere", "cluster: --address must be local, auto or HOST:PORT, got 'somewhere'"),
        ("no-such-host.invalid:6379", "cluster: there is no Ray cluster at 'no-such-host.invalid:6379': no machine has "
         "the name 'no-such-host.invalid'; start one, or use --address local"),
        ("127.0.0.1:1", "cluster: there is no Ray cluster at '127.0.0.1:1': nothing answers there; start one, or use "
         "--address local"),
        ("127.0.0.1:99999", "cluster: there is no Ray cluster at '127.0.0.1:99999': nothing answers there; start one, "
         "or use --address local"),
    ],
)  # fmt: skip
def test_an_address_without_a_cluster_is_one_sentence(address, sentence, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError) as error:
        connect(address)
    assert str(error.value) == sentence


def test_auto_follows_rays_own_variable(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="cluster: there is no Ray cluster at 'auto': nothing answers there; start one"):
        connect("auto")


def test_a_token_file_that_cannot_be_read_is_one_sentence(tmp_path, monkeypatch):
    """Ray would abort the program."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError) as error:
        connect("127.0.0.1:1")
    missing = f"cluster: RAY_AUTH_TOKEN_PATH: {tmp_path}/token cannot be read (No such file or directory)"
    assert str(error.value) == missing
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UserError, match=r"token is empty; it must hold the cluster's token$"):
        connect("127.0.0.1:1")
