"""Ray for the time of a run: a private cluster started here, or an existing cluster joined."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import current_thread, main_thread
from threading import enumerate as enumerate_threads
from typing import Any

import ray
from ray._private import services
from ray.data import DataContext
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.exceptions import AuthenticationError

from camrobust.contract.config_parts import ClusterConfig
from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.quoting import first_line
from camrobust.io.retries import patience_s
from camrobust.run.ledger import DEATHS
from camrobust.run.private import (
    AUTHENTICATION,
    IDLE_WORKERS,
    fewer_processes,
    private,
    short_temporary_folder,
    temporary_folder,
    variables,
)
from camrobust.run.stderr import only_python_speaks

ANSWER_S = 5.0
"""A cluster accepts a connection at once or not at all; Ray itself would try for 100 s."""
START, START_S = "RAY_gcs_server_port_wait_time_s", 300
"""Ray's variable for how long its first process may take to start, and our value for it. Ray gives up after 30 s."""
LOOK_S = 0.5
"""Time between two looks whether the node has registered."""
EXECUTOR_S = 60.0
"""Longest wait for a thread of Ray Data at the end of a session."""
OURS = {"RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2", "RAY_DATA_USAGE_DISABLED": "1"}
"""Variables that a session sets where the user has not; the second spares a process that counts the use of Ray Data."""
OURS_LOCAL = {START: str(START_S)} | IDLE_WORKERS
"""The same where it starts Ray. A cluster that stands answers soon, and would be asked so long for another token."""
CHANGED_BY_RAY = (*AUTHENTICATION, "RAY_USAGE_STATS_ENABLED", "PYTHONBREAKPOINT")


@contextmanager
def session(
    address: str, cluster: ClusterConfig, *, verbose: bool = False, longest_image_s: float = 0.0
) -> Iterator[None]:
    """Start or join Ray, quietly; afterwards Ray is shut down and the environment is as before.

    Args:
        address: "local" for a private cluster on this machine that ends with the session; "auto", or an address, for
            an existing cluster, with the caller's RAY_AUTH_* variables.
        cluster: how long the run may stand still; at least long enough to find an image that hangs.
        verbose: let Ray print.
        longest_image_s: how long certificates may take for one image, in which time nothing else need move.

    Raises:
        UserError: there is no cluster, it refuses us, or this program is connected to one already.
    """
    if ray.is_initialized():
        raise UserError("cluster: this program is connected to a Ray cluster already; call ray.shutdown() first")
    as_found = {name: os.environ.get(name) for name in CHANGED_BY_RAY}
    # While Ray starts or ends, its C++ parts print messages that are not for users. Python's messages are shown.
    local = address == "local"
    ours = OURS | OURS_LOCAL if local else OURS
    with (
        short_temporary_folder() if local else nullcontext() as folder,
        variables({**as_found, **{name: os.environ.get(name, value) for name, value in ours.items()}}),
        private() if local else nullcontext(),
        nullcontext() if verbose else only_python_speaks(),
    ):
        terminated = signal.getsignal(signal.SIGTERM)
        connect(address, verbose=verbose, folder=folder)
        if current_thread() is main_thread():
            # Ray's own handler would end the process with code 15, silently.
            signal.signal(signal.SIGTERM, terminated)
        try:
            _configure(cluster, longest_image_s, verbose=verbose)
            yield
        finally:
            _await_executors()
            ray.shutdown()


def _await_executors() -> None:
    """Wait for the threads of Ray Data that schedule a stream.

    Ray Data itself waits for two seconds. A thread that asks for something after Ray was shut down makes Ray end this
    process with exit code 1, without a word.
    """
    for thread in enumerate_threads():
        if isinstance(thread, StreamingExecutor):
            thread.join(EXECUTOR_S)


def _configure(cluster: ClusterConfig, longest_image_s: float, *, verbose: bool) -> None:
    context = DataContext.get_current()
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = max(
        cluster.no_progress_timeout_s,
        (DEATHS + 1) * (cluster.image_timeout_s + longest_image_s),
        patience_s() + cluster.image_timeout_s,
    )
    if not verbose:
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def check_reachable(address: str) -> None:
    """Check what can be checked before a run writes anything: that a cluster is there, or can be started here.

    Raises:
        UserError: nothing answers at the address, its token cannot be read, or TMPDIR is too long.
    """
    if address == "local":
        temporary_folder()
    else:
        _check_token()
        _check_answers(address)


def connect(address: str, *, verbose: bool = False, folder: str | None = None) -> None:
    """Start Ray here ("local"), or join a cluster.

    Args:
        address: see `session`.
        verbose: let Ray print.
        folder: for the files of a cluster that is started here; None for Ray's own choice.

    Raises:
        UserError: there is no cluster, or it refuses us.
        RunFailed: it did not start, or did not answer, in time.
    """
    keywords: dict[str, Any] = {"address": address, "log_to_driver": verbose}
    patience = _time_to_start(float(os.environ.get(START, START_S))) if address == "local" else nullcontext()
    fewer = fewer_processes(logs=verbose) if address == "local" else nullcontext()
    if address == "local":
        keywords |= {"num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": False, "_temp_dir": folder}
    else:
        check_reachable(address)
    try:
        with patience, fewer:
            ray.init(logging_level=logging.INFO if verbose else logging.ERROR, **keywords)
    except (ConnectionError, AuthenticationError) as error:
        raise UserError(refusal(address, error) or _no_cluster(address)) from error
    except Exception as error:  # Ray raises plain Exception and RuntimeError where it was too slow
        ray.shutdown()
        raise RunFailed(_too_slow(address, first_line(error))) from error


def _too_slow(address: str, why: str) -> str:
    if address == "local":
        return (
            f"cluster: Ray did not start on this machine ({why}); look for a full disk, little memory or a busy "
            f"machine, or give it more time with {START} (s), then run again to resume"
        )
    return (
        f"cluster: the Ray cluster at '{address}' cannot be joined ({why}); look at its `ray status`, then run "
        "again to resume"
    )


@contextmanager
def _time_to_start(seconds: float) -> Iterator[None]:
    """While open, the node's registration may take so long. Ray gives up after 30 s, which no variable changes."""
    once: Any = services.get_node

    def insistent(gcs_address: str, node_id: str) -> Any:
        end = time.monotonic() + seconds
        while True:
            try:
                return once(gcs_address, node_id)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(LOOK_S)

    services.get_node = insistent
    try:
        yield
    finally:
        services.get_node = once


def refusal(address: str, error: Exception) -> str | None:
    """The message when a cluster did not accept our token; None for any other error."""
    # A ConnectionError names it only in the text of its cause.
    if not isinstance(error, AuthenticationError) and AuthenticationError.__name__ not in str(error.__cause__):
        return None
    return (
        f"cluster: the Ray cluster at '{address}' wants a token that is not the one here, or there is none here; set "
        "RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token, or the name of a file with it into "
        "RAY_AUTH_TOKEN_PATH"
    )


def _no_cluster(address: str, why: str = "") -> str:
    return f"cluster: there is no Ray cluster at '{address}'{why}; start one, or use --address local"


def _check_token() -> None:
    """Check that the token's file can be read; if not, Ray would abort the whole program.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not os.environ.get("RAY_AUTH_TOKEN"):
        try:
            token = Path(path).read_bytes().strip()
        except OSError as error:
            raise UserError(f"cluster: RAY_AUTH_TOKEN_PATH: {path} cannot be read ({error.strerror})") from error
        if not token:
            raise UserError(f"cluster: RAY_AUTH_TOKEN_PATH: {path} is empty; it must hold the cluster's token")


def _check_answers(address: str) -> None:
    """Check at once that something listens at an address.

    Raises:
        UserError: nothing does.
    """
    if "://" in address:  # Ray's client connects in its own way
        return
    try:
        resolved = str(services.canonicalize_bootstrap_address(address))
    except ValueError as error:
        raise UserError(f"cluster: --address must be local, auto or HOST:PORT, got '{address}'") from error
    except ConnectionError as error:
        raise UserError(_no_cluster(address)) from error
    host, _, port = resolved.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except socket.gaierror as error:
        raise UserError(_no_cluster(address, f": no machine has the name '{host}'")) from error
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(_no_cluster(address, ": nothing answers there")) from error
