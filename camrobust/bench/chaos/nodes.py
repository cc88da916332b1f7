"""Several Ray nodes on one machine. Each has its own processes, so that one node can be killed alone.

All of them listen only on loopback and require the token of `Nodes.environment`.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from camrobust.bench.chaos.ending import undisturbed
from camrobust.bench.chaos.processes import descendants, kill, title
from camrobust.bench.chaos.proxy import Link
from camrobust.contract.errors import RunFailed
from camrobust.results.lease import started
from camrobust.run.private import AUTHENTICATION, IDLE_WORKERS, LOOPBACK, closed
from camrobust.run.spot import drain

START_S = 90.0
STORE_BYTES = 200 * 2**20

Way = Callable[[], AbstractContextManager[tuple[Link, str]]]
"""Opens the way of one node to the store: its link, and the address at which it finds the store."""


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
        link: its own way to a store, if there is one.
        odd: whether it differs from the other nodes.
        ending: closes what it has for itself.
    """

    process: subprocess.Popen[bytes]
    known: dict[int, str] = field(default_factory=dict)
    link: Link | None = None
    odd: bool = False
    ending: ExitStack = field(default_factory=ExitStack)

    def below(self) -> set[int]:
        """Ids of its running processes, also of workers whose raylet died."""
        for pid in descendants(self.process.pid):
            self.known[pid] = started(pid)
        return {pid for pid, began in list(self.known.items()) if began and started(pid) == began}

    def workers(self, *stages: str) -> list[int]:
        """Ids of its worker processes that run one of these stages."""
        return sorted(pid for pid in self.below() if any(f"({stage})" in title(pid) for stage in stages))

    def kill(self) -> None:
        """End all its processes at once, as if the machine lost power."""
        below = self.below()
        self.process.kill()
        kill(below)
        self.process.wait()
        self.ending.close()


class Nodes:
    """A head without work and some worker nodes.

    Args:
        folder: of Ray's files; whoever made it deletes it.
        environment: environment variables of every process.
        cpus: number of CPUs of each worker node.
        job_server: also start the dashboard with the job server, at the address in the attribute `job_server`.
        offers: further arguments of `ray start` for worker nodes, such as labels and resources.
        way: makes a worker node's own way to the store: the link, and the address of the store.
    """

    def __init__(
        self,
        folder: str,
        environment: Mapping[str, str],
        cpus: int = 1,
        *,
        job_server: bool = False,
        offers: Sequence[str] = (),
        way: Way | None = None,
    ) -> None:
        self.folder = folder
        self.cpus, self.offers, self.way = cpus, offers, way
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in AUTHENTICATION}, **environment,
            **closed(Path(self.folder)), "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2",
            "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_initial_delay_ms": "2000", **IDLE_WORKERS,
        }  # fmt: skip
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.workers: list[Node] = []
        self.job_server = f"http://127.0.0.1:{free_port()}"
        self.starting = ("--head", f"--port={self.port}", "--num-cpus=0", f"--temp-dir={self.folder}",
                         "--dashboard-host=127.0.0.1", f"--include-dashboard={str(job_server).lower()}",
                         f"--dashboard-port={self.job_server.rpartition(':')[2]}")  # fmt: skip
        self.head: Node | None = None

    def start_head(self) -> None:
        """Start the head, also one more time after `lose_all`, at the same address."""
        self.head = self._start(STORE_BYTES, {}, *self.starting)

    def _start(self, store_bytes: int, own: Mapping[str, str], *arguments: str) -> Node:
        command = [sys.executable, "-m", "camrobust.run.private", "start", "--block", "--disable-usage-stats",
                   f"--node-ip-address={LOOPBACK}",
                   f"--object-store-memory={store_bytes}",
                   f"--dashboard-agent-listen-port={free_port()}", *arguments]  # fmt: skip
        log = Path(self.folder, f"start-{time.monotonic_ns()}.log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, env={**self.environment, **own}, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        node = Node(process)
        try:
            self._await(node, log)
        except BaseException:
            node.kill()
            raise
        return node

    def _await(self, node: Node, log: Path) -> None:
        """Wait until a node has started.

        Raises:
            RunFailed: it did not.
        """
        end = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if node.process.poll() is not None or time.monotonic() > end:
                lines = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise RunFailed(f"chaos: a Ray node did not start ({' '.join(lines)}); see {log}")
            time.sleep(0.1)
        node.below()

    def add(self, *arguments: str, store_bytes: int = STORE_BYTES) -> Node:
        """Start another worker node.

        Args:
            arguments: further ones of `ray start`; a node that has some counts as odd.
            store_bytes: size of its object store.
        """
        with ExitStack() as ending:
            link, own = None, {}
            if self.way is not None:
                link, own["AWS_ENDPOINT_URL"] = ending.enter_context(self.way())
            node = self._start(store_bytes, own, f"--address={self.address}", f"--num-cpus={self.cpus}", *self.offers,
                               *arguments)  # fmt: skip
            node.link, node.odd, node.ending = link, bool(arguments), ending.pop_all()
        self.workers.append(node)
        return node

    def lose(self, node: Node) -> None:
        """Kill a worker node."""
        node.kill()
        self.workers.remove(node)

    def lose_all(self) -> None:
        """Kill every node, the head last."""
        while self.workers:
            self.lose(self.workers[-1])
        if self.head is not None:
            self.head.kill()
            self.head = None

    def drain(self, node: Node, seconds: int) -> bool:
        """Announce that a node will be taken away, as a spot market does; False if Ray refuses."""
        # It does if no other node is left.
        with suppress(RunFailed):
            drain(self.identity(node), self.address, seconds, self.environment)
            return True
        return False

    def identity(self, node: Node) -> str:
        """A node's id in Ray, from the arguments of its processes."""
        ids = re.findall(r"--node[-_]id=([0-9a-f]{56})", " ".join(title(pid) for pid in node.below()))
        if not ids:
            raise RunFailed(
                "chaos: a node's id is missing from the arguments of its processes; this version of Ray starts them in "
                "another way"
            )
        return str(ids[0])


@contextmanager
def nodes(
    count: int,
    environment: Mapping[str, str],
    cpus: int = 1,
    *,
    job_server: bool = False,
    offers: Sequence[str] = (),
    way: Way | None = None,
) -> Iterator[Nodes]:
    """A head and some worker nodes while the block runs; arguments as for `Nodes`."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cr-", ignore_cleanup_errors=True))
        cluster = Nodes(folder, environment, cpus, job_server=job_server, offers=offers, way=way)
        try:
            cluster.start_head()
            for _ in range(count):
                cluster.add()
            yield cluster
        finally:
            with undisturbed():
                cluster.lose_all()
                stack.close()
