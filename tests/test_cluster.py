"""cluster.yaml through Ray's own launcher and autoscaler: what they ask of EC2, and what they run on a machine.

EC2 and IAM are moto on loopback; the requests are read as they leave botocore. Instead of ssh a stand-in takes down
what would be run.
"""

import re
import subprocess
import tomllib
import urllib.request
from types import SimpleNamespace
from urllib.parse import parse_qsl

import boto3
import pytest
import yaml
from packaging.requirements import Requirement

from tests.runs import ROOT

DISK_GB = 200


def cluster_file():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """What was sent to a cloud on loopback: `machines`, the fields of every RunInstances; `calls`, the names of all."""
    from moto.ec2.models import instance_types
    from moto.server import ThreadedMotoServer
    from ray.autoscaler._private.aws import config, node_provider, utils

    ours = {kind["node_config"]["InstanceType"] for kind in cluster_file()["available_node_types"].values()}
    known = {name: facts for name, facts in instance_types.INSTANCE_TYPES.items() if name in ours}
    monkeypatch.setattr(instance_types, "INSTANCE_TYPES", known)  # all of the thousand take ten seconds
    caches = (utils.resource_cache, utils.client_cache, config._get_subnets_or_die)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "HOME": str(tmp_path), "RAY_UP_enable_autoscaler_v2": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", boto3.Session())
    sent = SimpleNamespace(machines=[], calls=[])

    def note(request, event_name, **_):
        sent.calls.append(event_name.rpartition(".")[2])
        if sent.calls[-1] == "RunInstances":
            sent.machines.append(dict(parse_qsl(request.body)))

    boto3.DEFAULT_SESSION.events.register("before-send.ec2", note)
    for cache in caches:
        cache.cache_clear()
    iam = boto3.client("iam", region_name=cluster_file()["provider"]["region"])
    for name in ("camrobust-head", "camrobust-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("token")
    yield sent
    for cache in caches:
        cache.cache_clear()
    server.stop()


class Shell:
    """Instead of `subprocess`: takes down the commands that Ray would run and answers like a machine of the AMI."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self):
        self.run = []

    def check_call(self, command, *_, **__):
        self.run.append(command)

    def check_output(self, command, *_, **__):
        self.run.append(command)
        if "info -f" in command[-1]:
            return b"map[nvidia-container-runtime:{} runc:{}]"
        if ".Config.Env" in command[-1]:
            return b'["HOME=/home/ray"]'
        return b"/usr/bin/docker" if "command -v" in command[-1] else b""

    def on_the_machine(self):
        """The commands that are run there, without quotes."""
        return "\n".join(str(command[-1]).replace("'", "").replace('"', "") for command in self.run)


def boot(config, shell):
    """What `ray up` does: fill the configuration in from the cloud, make the head, set it up."""
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))
    config = commands._bootstrap_config(config, no_config_cache=True)
    commands.get_or_create_head_node(config, "cluster.yaml", False, False, True, None, _runner=shell)
    return config


def scale(config, folder, shell):
    """What the head's autoscaler does for one machine of every kind: ask for it, then set it up."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.v2.instance_manager.config import FileConfigReader
    from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
    from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller

    path = folder / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(config))
    reader = FileConfigReader(str(path))
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    adapter = NodeProviderAdapter(provider, reader)
    for kind in set(config["available_node_types"]) - {config["head_node_type"]}:
        adapter._launch_nodes_by_type(kind, 1, "request")
    assert [str(error.__cause__) for error in adapter.poll_errors()] == []
    machine, found = next((name, one) for name, one in adapter.get_non_terminated().items() if "gpu" in one.node_type)
    installer = RayInstaller(provider, reader.get_cached_autoscaling_config(), process_runner=shell)
    installer.install_ray(SimpleNamespace(cloud_instance_id=machine, instance_type=found.node_type), "10.0.0.1")


def kind_of(request):
    tags = {
        value: request[name.replace(".Key", ".Value")]
        for name, value in request.items()
        if re.fullmatch(r"TagSpecification\.1\.Tag\.\d+\.Key", name)
    }
    return tags["ray-user-node-type"]


def test_every_machine_is_asked_for_with_profile_image_disk_and_market(requests, tmp_path, capsys):
    config = cluster_file()
    head, worker = Shell(), Shell()
    booted = boot(config, head)
    requests.calls.clear()
    scale(booted, tmp_path, worker)
    # What docs/running.md lets the head do; the machines' end is not tried here.
    assert set(requests.calls) == {"RunInstances", "CreateTags", "DescribeInstances"}
    sent = {kind_of(request): request for request in requests.machines}
    assert sent.keys() == config["available_node_types"].keys()
    for kind, request in sent.items():
        asked = config["available_node_types"][kind]["node_config"]
        assert request["InstanceType"] == asked["InstanceType"]
        assert re.fullmatch(r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-\S+/ami-id",
                            request["ImageId"])  # fmt: skip
        assert request["BlockDeviceMapping.1.DeviceName"] == "/dev/sda1"
        assert request["BlockDeviceMapping.1.Ebs.VolumeSize"] == str(DISK_GB)
    profiles = {kind: request["IamInstanceProfile.Name"] for kind, request in sent.items()}
    assert profiles.pop("head") == "camrobust-head"
    assert set(profiles.values()) == {"camrobust-worker"}
    markets = {kind: request.get("InstanceMarketOptions.MarketType") for kind, request in sent.items()}
    assert markets == {kind: "spot" if kind != "head" else None for kind in sent}
    assert "Autoscaler v2 is now enabled" not in capsys.readouterr().err
    check_commands(config, head.on_the_machine(), worker.on_the_machine())
    # The head's container runs these for the workers.
    assert {command[0] for command in worker.run} == {"ssh", "rsync"}
    packages = re.search(r"--no-install-recommends ([a-z+ -]+?) &&", (ROOT / "Dockerfile").read_text())[1].split()
    assert {"openssh-client", "rsync"} <= set(packages)


def check_commands(config, head, worker):
    image = config["docker"]["image"]
    for run in (head, worker):
        order = [run.index(text) for text in ("docker login", "aws s3 sync", f"docker pull {image}", "docker run")]
        assert order == sorted(order)
        (started,) = [line for line in run.splitlines() if "docker run" in line]
        for option in ("--env RAY_AUTH_MODE=token", "--volume /home/ubuntu/weights:/weights", "--runtime=nvidia",
                       "--net=host", image, "/home/ray/.ray/auth_token"):  # fmt: skip
            assert option in started
        assert "pip install" not in run
    assert "export RAY_enable_autoscaler_v2=1" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in head
    assert "camrobust watch-spot" in worker
    assert "ray start --address=$RAY_HEAD_IP:6379" in worker
    assert "export RAY_OVERRIDE_LABELS={ray.io/market-type:spot,role:gpu}" in worker
    assert re.search(r"export RAY_OVERRIDE_RESOURCES=\{CPU:(8|16),GPU:1,", worker)  # any of the GPU machines


def test_a_key_that_ec2_does_not_know_is_refused_before_anything_is_asked(requests, tmp_path):
    """Ray's schema lets every key of `node_config` through, so a slip of the pen shows only here."""
    config = cluster_file()
    config["available_node_types"]["head"]["node_config"]["IamInstanceProfil"] = {"Name": "x"}
    with pytest.raises(Exception, match='Unknown parameter in input: "IamInstanceProfil"'):
        boot(config, Shell())
    assert requests.machines == []


def test_the_cluster_file_the_manifest_and_the_project_name_one_image():
    job = yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    groups = [job["headGroupSpec"], *job["workerGroupSpecs"]]
    images = {container["image"] for group in groups for container in group["template"]["spec"]["containers"]}
    image = cluster_file()["docker"]["image"]
    assert images == {image}
    assert image.endswith(f":{project()['version']}")
    assert job["rayVersion"] == locked()["ray"]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked():
    """The version of every package that the image installs."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / "requirements.lock").read_text(), re.M))


def test_the_lock_has_everything_that_the_project_asks_for():
    asked = [Requirement(line) for line in (*project()["dependencies"], *project()["optional-dependencies"]["timm"])]
    assert [str(one) for one in asked if locked().get(one.name) not in one.specifier] == []


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = {name for names in copies for name in names}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in kept)
    entrypoint = yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text())["spec"]["entrypoint"].split()
    assert "WORKDIR /home/ray/camrobust" in lines
    assert all((ROOT / path.removeprefix("/home/ray/camrobust/")).is_file() for path in entrypoint[1:])
