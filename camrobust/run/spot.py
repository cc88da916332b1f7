"""Watch for the notice that a cloud takes a spot machine back, and let Ray drain the node in the remaining time.

EC2 gives notice about two minutes ahead, in the instance metadata (spot/instance-action). Ray drains a node on SIGTERM
to `ray start --block`, but it does not read the notice. `camrobust watch-spot` reads it on every worker; cluster.yaml
starts it beside Ray.
"""

import json
import logging
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from camrobust.contract.errors import RunFailed, UserError

METADATA = "http://169.254.169.254"
INTERVAL_S = 5.0
TIMEOUT_S = 2.0
TOKEN_S = 21600
MARGIN_S = 10
"""Ray has this much less time than was announced."""

Say = Callable[[str], None]


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> bytes:
    request = urllib.request.Request(url, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        content: bytes = answer.read()
    return content


def notice(metadata: str = METADATA) -> datetime | None:
    """When this machine will be taken back; None without a notice or without an answer from the service.

    Args:
        metadata: base address of the metadata service, version 2 (with a token).

    Raises:
        UserError: the address is not http.
    """
    if not metadata.startswith("http://"):
        raise UserError(f"watch-spot: --metadata must be an http:// address, got '{metadata}'")
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
        token = _ask(f"{metadata}/latest/api/token", lifetime, "PUT").decode()
        headers = {"X-aws-ec2-metadata-token": token}
        action = json.loads(_ask(f"{metadata}/latest/meta-data/spot/instance-action", headers))
        return datetime.fromisoformat(str(action["time"]).replace("Z", "+00:00"))
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
        # The answer is 404 without a notice; outside EC2 there is no service.
        return None


def drain(node_id: str, address: str, seconds: int, environment: Mapping[str, str] | None = None) -> None:
    """Tell the cluster that a node goes away.

    Args:
        node_id: of the node, hexadecimal.
        address: of the cluster, host:port.
        seconds: until then.
        environment: holds the cluster's token; None for that of this process.

    Raises:
        RunFailed: the cluster refuses.
    """
    ray = Path(sys.executable).with_name("ray")
    result = subprocess.run(
        [str(ray if ray.is_file() else shutil.which("ray") or "ray"), "drain-node", f"--address={address}",
         f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot notice",
         f"--deadline-remaining-seconds={seconds}"],
        capture_output=True, text=True, check=False, env=None if environment is None else dict(environment),
    )  # fmt: skip
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise RunFailed(f"watch-spot: Ray did not drain the node ({lines[-1] if lines else 'no message'})")


def this_node() -> tuple[str, str]:
    """Id of the Ray node on this machine and the address of its cluster.

    Raises:
        UserError: no Ray runs here, or it asks for a token.
    """
    import ray
    from ray.exceptions import AuthenticationError

    from camrobust.run.session import refusal

    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, AuthenticationError) as error:
        nobody = "watch-spot: no Ray runs on this machine; start it first, or give --node-id"
        raise UserError(refusal("auto", error) or nobody) from error
    try:
        context = ray.get_runtime_context()
        return str(context.get_node_id()), str(context.gcs_address)
    finally:
        ray.shutdown()


def watch(metadata: str, interval_s: float, say: Say, node: tuple[str, str] | None = None) -> None:
    """Wait for the notice, then drain this node once.

    Args:
        metadata: base address of the metadata service.
        interval_s: time between two looks, s.
        say: takes lines for the log.
        node: id and cluster address; None asks Ray on this machine.
    """
    while (end := notice(metadata)) is None:
        time.sleep(interval_s)
    left = max(1, int((end - datetime.now(UTC)).total_seconds()) - MARGIN_S)
    node_id, address = node or this_node()
    say(f"this machine is taken back at {end.isoformat()}; draining Ray's node, {left} s are left")
    drain(node_id, address, left)
