"""A private Ray cluster on this machine: it listens on loopback only and asks for a token of its own.

Ray binds to all interfaces unless the node's own address is 127.0.0.1, and it accepts that address only where clusters
of several machines are switched off, as on Windows and macOS. Some of this has no environment variable and is set in
Ray's own modules. `tests/run/test_private.py` looks at the sockets, so it notices a version of Ray that differs.

`python -m camrobust.run.private start …` is `ray start …` for a private cluster of several nodes on one machine.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ray._common import utils
from ray._private import ray_constants, services
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined] # not in Ray's stub

from camrobust.contract.errors import UserError

LOOPBACK = "127.0.0.1"
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a socket, as Ray checks it."""
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
ONE_MACHINE = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
IDLE_WORKERS = {"RAY_num_workers_soft_limit": str(max(8, os.cpu_count() or 1))}
"""How many idle worker processes Ray keeps on a node; by default as many as it has free cores, and actors leave none.
Then a worker of Load or Commit ends a second after its task, and the next one imports all libraries anew."""
LOGS, PAGES = "start_log_monitor", "start_api_server"
UNUSED = ("start_monitor", LOGS, PAGES)
"""Methods of Ray's `Node`, each of which starts a process: the autoscaler, what copies the output of workers to the
driver, and the dashboard, which without its pages only counts the use of Ray."""


def closed(folder: Path) -> dict[str, str]:
    """Environment variables for every process that starts or joins a private cluster.

    The token is in a file that only this user can read, and in no environment and on no command line.

    Args:
        folder: where the token is written; it must exist as long as the cluster.
    """
    path = folder / "token"
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_hex(32))
    return {**ONE_MACHINE, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def temporary_folder() -> Path | None:
    """The folder in which Ray would make its sockets, if their paths would be too long; else None.

    Raises:
        UserError: it is too long, and there is no other place for a link to it.
    """
    folder = Path(utils.get_default_ray_temp_dir())
    if _fits(folder):
        return None
    if _short_place() is None:
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        raise UserError(
            f"cluster: {name}={folder.parent} is too long for Ray's sockets, whose paths may have {SOCKET_BYTES} "
            f"bytes; set {name} to a shorter folder"
        )
    return folder


def _fits(folder: Path) -> bool:
    """Whether the longest socket of a session in this folder has a path that the system accepts."""
    session = f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    return len(os.fsencode(folder / session / "sockets" / "plasma_store")) <= SOCKET_BYTES


def _short_place() -> Path | None:
    for name in SHORT_PLACES:
        place = Path(name)
        if os.access(place, os.W_OK | os.X_OK) and _fits(place / "camrobust-12345678" / "ray"):
            return place
    return None


@contextmanager
def short_temporary_folder() -> Iterator[str | None]:
    """A folder for Ray's files with a path short enough for its sockets; None where the usual one has that.

    A long TMPDIR is reached by a link from a folder that only this user can enter, so its disk is used all the same.

    Raises:
        UserError: there is no place for such a link.
    """
    folder, place = temporary_folder(), _short_place()
    if folder is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="camrobust-", dir=place) as short:
        link = Path(short) / "ray"
        link.symlink_to(folder)
        yield str(link)


@contextmanager
def private() -> Iterator[None]:
    """While open, a cluster that this program starts is private, even if Ray was imported before."""
    # Ray read the variable when it was imported; the processes that it starts read it anew.
    several = ray_constants.ENABLE_RAY_CLUSTER
    with (
        tempfile.TemporaryDirectory(prefix="camrobust-") as folder,
        variables({**dict.fromkeys(AUTHENTICATION), **closed(Path(folder))}),
    ):
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = several


@contextmanager
def fewer_processes(*, logs: bool) -> Iterator[None]:
    """While open, Ray does not start, nor wait for, what a cluster on one machine does not use.

    Each of these processes takes more than a second of CPU before the first image is read.

    Args:
        logs: whether the driver shows what workers print.
    """
    before = {name: getattr(Node, name) for name in UNUSED}
    _leave_out(name for name in UNUSED if not (logs and name == LOGS))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _leave_out(names: Iterable[str]) -> None:
    for name in names:
        setattr(Node, name, lambda *_, **__: None)


@contextmanager
def variables(changes: Mapping[str, str | None]) -> Iterator[None]:
    """While open, some environment variables have other values (None: unset); Ray reads them anew both times."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # The order matters: a thread of Ray that is still ending would look for a token that is gone, and abort.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def main() -> None:
    """Ray's command line, for a node that stays on loopback."""
    from ray.scripts import scripts

    # With the variable for one machine Ray refuses a second node; the reason does not apply to Linux.
    ray_constants.ENABLE_RAY_CLUSTER = True
    services.get_node_ip_address = lambda address=None: LOOPBACK  # noqa: ARG005 - Ray passes it by name
    os.environ.update(ONE_MACHINE)
    # Nor a server for Ray's client, which Ray starts where it could.
    no_client = ImportError("not used")
    scripts.get_ray_client_dependency_error = lambda: no_client  # type: ignore[attr-defined] # imported there
    _leave_out(name for name in UNUSED if not (name == PAGES and "--include-dashboard=true" in sys.argv))
    scripts.main()


if __name__ == "__main__":
    main()
