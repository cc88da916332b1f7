"""Several Ray nodes on one machine. Each has its own processes, so that one node can be killed alone.

All of them listen only on loopback and require the token of `Nodes.environment`.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from camrobust.bench.chaos.processes import descendants, kill, title
from camrobust.contract.errors import RunFailed
from camrobust.results.lease import started
from camrobust.run.private import AUTHENTICATION, LOOPBACK, closed
from camrobust.run.spot import drain

START_S = 90.0
STORE_BYTES = 200 * 2**20


def free_port() -> int:
    """A port on loopback that no process uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Node:
    """One raylet with its workers.

    Attributes:
        process: the `ray start --block` that keeps the node alive.
        known: every process ever seen below it, and when it began, because process ids are reused.
    """

    process: subprocess.Popen[bytes]
    known: dict[int, str] = field(default_factory=dict)

    def below(self) -> set[int]:
        """Ids of its running processes, also of workers whose raylet died."""
        for pid in descendants(self.process.pid):
            self.known[pid] = started(pid)
        return {pid for pid, began in self.known.items() if began and started(pid) == began}

    def workers(self, *stages: str) -> list[int]:
        """Ids of its worker processes that run one of these stages."""
        return sorted(pid for pid in self.below() if any(f"({stage})" in title(pid) for stage in stages))

    def kill(self) -> None:
        """End all its processes at once, as if the machine lost power."""
        kill({self.process.pid, *self.below()})
        self.process.wait()


class Nodes:
    """A head without work and some worker nodes.

    Args:
        environment: environment variables of every process.
        cpus: number of CPUs of each worker node.
        job_server: also start the dashboard with the job server, at the address in the attribute `job_server`.
        offers: further arguments of `ray start` for worker nodes, such as labels and resources.
    """

    def __init__(
        self, environment: Mapping[str, str], cpus: int = 1, *, job_server: bool = False, offers: Sequence[str] = ()
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="cr-")
        self.cpus, self.offers = cpus, offers
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in AUTHENTICATION}, **environment,
            **closed(Path(self.folder)), "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",
            "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_initial_delay_ms": "2000",
        }  # fmt: skip
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.workers: list[Node] = []
        self.job_server = f"http://127.0.0.1:{free_port()}"
        self.head = self._start(
            "--head", f"--port={self.port}", "--num-cpus=0", f"--temp-dir={self.folder}", "--dashboard-host=127.0.0.1",
            f"--include-dashboard={str(job_server).lower()}", f"--dashboard-port={self.job_server.rpartition(':')[2]}",
        )  # fmt: skip

    def _start(self, *arguments: str) -> Node:
        command = [sys.executable, "-m", "camrobust.run.private", "start", "--block", "--disable-usage-stats",
                   f"--node-ip-address={LOOPBACK}",
                   f"--object-store-memory={STORE_BYTES}",
                   f"--dashboard-agent-listen-port={free_port()}", *arguments]  # fmt: skip
        log = Path(self.folder, f"start-{time.monotonic_ns()}.log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, env=self.environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        end = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                lines = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise RunFailed(f"chaos: a Ray node did not start ({' '.join(lines)}); see {log}")
            time.sleep(0.1)
        node = Node(process)
        node.below()
        return node

    def add(self) -> Node:
        """Start another worker node."""
        self.workers.append(self._start(f"--address={self.address}", f"--num-cpus={self.cpus}", *self.offers))
        return self.workers[-1]

    def lose(self, node: Node) -> None:
        """Kill a worker node."""
        node.kill()
        self.workers.remove(node)

    def drain(self, node: Node, seconds: int) -> None:
        """Announce that a node will be taken away, as a spot market does."""
        # Ray refuses if no other node is left.
        with suppress(RunFailed):
            drain(self.identity(node), self.address, seconds)

    def identity(self, node: Node) -> str:
        """A node's id in Ray, from the arguments of its processes."""
        ids = re.findall(r"--node[-_]id=([0-9a-f]{56})", " ".join(title(pid) for pid in node.below()))
        if not ids:
            raise RunFailed(
                "chaos: a node's id is missing from the arguments of its processes; this version of Ray starts them in "
                "another way"
            )
        return str(ids[0])

    def stop(self) -> None:
        """Kill every process of the cluster."""
        for node in (*self.workers, self.head):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def nodes(
    count: int, environment: Mapping[str, str], cpus: int = 1, *, job_server: bool = False, offers: Sequence[str] = ()
) -> Iterator[Nodes]:
    """A head and some worker nodes while the block runs; arguments as for `Nodes`."""
    cluster = Nodes(environment, cpus, job_server=job_server, offers=offers)
    try:
        for _ in range(count):
            cluster.add()
        yield cluster
    finally:
        cluster.stop()
