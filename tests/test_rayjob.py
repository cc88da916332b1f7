"""jobs/rayjob.yaml against the rules of KubeRay 1.5 to 1.6, written down by hand, and against Ray's own reading of it.

The rules are not the whole CRD. They are the keys of a RayJob, its cluster and its groups, with their types, and what
the operator checks before it starts anything. Of the pod templates, only what the operator or Ray reads is checked.
"""

import logging
import re

import pytest
import yaml

from tests.runs import ROOT

TEXTS, MAP, NUMBER = dict[str, str], dict, (int, float)
JOB = {
    "activeDeadlineSeconds": int, "backoffLimit": int, "rayClusterSpec": MAP, "submitterPodTemplate": MAP,
    "metadata": TEXTS, "clusterSelector": TEXTS, "submitterConfig": MAP, "managedBy": str, "deletionStrategy": MAP,
    "entrypoint": str, "runtimeEnvYAML": str, "jobId": str, "submissionMode": str, "entrypointResources": str,
    "entrypointNumCpus": NUMBER, "entrypointNumGpus": NUMBER, "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool, "suspend": bool,
}  # fmt: skip
CLUSTER = {
    "upgradeStrategy": MAP, "authOptions": MAP, "suspend": bool, "managedBy": str, "autoscalerOptions": MAP,
    "headServiceAnnotations": TEXTS, "enableInTreeAutoscaling": bool, "gcsFaultToleranceOptions": MAP,
    "headGroupSpec": MAP, "rayVersion": str, "workerGroupSpecs": list,
}  # fmt: skip
GROUP = {"rayStartParams": TEXTS, "labels": TEXTS, "resources": TEXTS, "template": MAP}
HEAD = {**GROUP, "serviceType": str, "headService": MAP, "enableIngress": bool}
WORKERS = {
    **GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int,
    "idleTimeoutSeconds": int, "scaleStrategy": MAP, "suspend": bool,
}  # fmt: skip
AUTHENTICATION = {"mode": str}
AUTOSCALER = {
    "version": str, "idleTimeoutSeconds": int, "upscalingMode": str, "image": str, "imagePullPolicy": str,
    "resources": MAP, "securityContext": MAP, "env": list, "envFrom": list, "volumeMounts": list,
}  # fmt: skip
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
KNOWS_TOKENS = (2, 52)
"""The operator refuses tokens for an older Ray, or for one without a version."""
VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
KEY = re.compile(rf"([a-z0-9.-]{{1,253}}/)?{VALUE.pattern}")
MEASURED = ("num-cpus", "num-gpus", "memory", "resources")


def of_type(value, kind):
    if kind is TEXTS:
        return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def keys(where, found, known, needed):
    """The mistakes in the keys of one mapping."""
    lines = [f"{where}: no key {key}" for key in found if key not in known]
    wrong = [key for key, kind in known.items() if key in found and not of_type(found[key], kind)]
    lines += [f"{where}.{key}: wrong type" for key in wrong]
    return lines + [f"{where}: {key} is missing" for key in needed if key not in found]


def group_mistakes(where, group):
    lines, started = [], group.get("rayStartParams", {})
    if "labels" in started:
        lines.append(f"{where}: labels belong to the group, not to rayStartParams")
    if group.get("resources") and any(name in started for name in MEASURED):
        lines.append(f"{where}: resources are in rayStartParams and in the group")
    for key, value in group.get("labels", {}).items():
        if not KEY.fullmatch(key) or not VALUE.fullmatch(value):
            lines.append(f"{where}: {key}={value} is no label")
    return lines + pod_mistakes(where, group.get("template", {}).get("spec", {}))


def pod_mistakes(where, pod):
    lines = []
    if not pod.get("containers"):
        return [*lines, f"{where}: no container"]
    if pod.get("restartPolicy", "Never") != "Never":
        lines.append(f"{where}: restartPolicy must be Never with the autoscaler")
    for container in pod["containers"]:
        asked = container.get("resources", {})
        amounts = {**asked.get("requests", {}), **asked.get("limits", {})}
        if not {"name", "image"} <= container.keys() or not of_type(amounts, TEXTS):
            lines.append(f"{where}: a container needs name, image and amounts as text")
    return lines


def authentication_mistakes(cluster):
    options = cluster.get("authOptions", {})
    lines = keys("cluster.authOptions", options, AUTHENTICATION, [])
    if options.get("mode", "disabled") not in ("disabled", "token"):
        lines.append("cluster.authOptions.mode: unknown")
    version = cluster.get("rayVersion", "0.0.0")
    if options.get("mode") == "token" and of_type(version, str):
        numbers = tuple(int(number) for number in version.split(".")[:2])
        if numbers < KNOWS_TOKENS:
            lines.append("cluster.authOptions: needs rayVersion 2.52.0 or newer")
    return lines


def autoscaler_mistakes(cluster):
    options = cluster.get("autoscalerOptions", {})
    lines = keys("cluster.autoscalerOptions", options, AUTOSCALER, [])
    version = options.get("version")
    if version not in (None, "v1", "v2"):
        lines.append("cluster.autoscalerOptions.version: unknown")
    elif version != "v2" and any(group.get("labels") for group in cluster.get("workerGroupSpecs", [])):
        # KubeRay itself lets it pass, and Ray's default depends on the versions of both.
        lines.append("cluster.autoscalerOptions: only version v2 starts pods by their labels")
    return lines


def mistakes(document):
    """Everything in a RayJob that KubeRay would refuse by the rules above."""
    job, name = document.get("spec", {}), document.get("metadata", {}).get("name", "")
    lines = [] if (document.get("apiVersion"), document.get("kind")) == ("ray.io/v1", "RayJob") else ["not a RayJob"]
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", name):
        lines.append(f"metadata.name: {name} is no name of at most 47 characters")
    lines += keys("spec", job, JOB, ["entrypoint", "rayClusterSpec"])
    if job.get("submissionMode", MODES[0]) not in MODES:
        lines.append("spec.submissionMode: unknown")
    if job.get("ttlSecondsAfterFinished") and not job.get("shutdownAfterJobFinishes"):
        lines.append("spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes")
    lines += [
        f"spec.{key}: negative"
        for key, value in job.items()
        if JOB.get(key) is int and of_type(value, int) and value < 0
    ]
    cluster = job.get("rayClusterSpec", {})
    lines += keys("cluster", cluster, CLUSTER, ["headGroupSpec"])
    lines += authentication_mistakes(cluster) + autoscaler_mistakes(cluster)
    head = cluster.get("headGroupSpec", {})
    lines += keys("head", head, HEAD, ["template"]) + group_mistakes("head", head)
    groups = cluster.get("workerGroupSpecs", [])
    if len({group.get("groupName") for group in groups}) < len(groups):
        lines.append("cluster.workerGroupSpecs: two groups of one name")
    for group in groups:
        where = group.get("groupName", "?")
        lines += keys(where, group, WORKERS, ["groupName", "minReplicas", "maxReplicas", "template"])
        lines += group_mistakes(where, group)
        if not 0 <= group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0):
            lines.append(f"{where}: minReplicas, replicas and maxReplicas must rise")
    return lines


def job():
    return yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text())


def test_kuberay_accepts_the_manifest():
    assert mistakes(job()) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["spec", "entryPoint"], "python x.py", "spec: no key entryPoint"),
        (["spec", "backoffLimit"], "3", "spec.backoffLimit: wrong type"),
        (["spec", "shutdownAfterJobFinishes"], False, "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"),
        (["spec", "submissionMode"], "K8SJobMode", "spec.submissionMode: unknown"),
        (["spec", "rayClusterSpec", "rayVersion"], 2.6, "cluster.rayVersion: wrong type"),
        (["spec", "backoffLimit"], -1, "spec.backoffLimit: negative"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"], {"num-cpus": 0},
         "head.rayStartParams: wrong type"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"], {"labels": "role=head"},
         "head: labels belong to the group, not to rayStartParams"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "labels"], {"role": "g p u"},
         "gpu-spot: role=g p u is no label"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "groupName"], "cpu-spot",
         "cluster.workerGroupSpecs: two groups of one name"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 1, "maxReplicas"], 0,
         "cpu-spot: minReplicas, replicas and maxReplicas must rise"),
        (["spec", "rayClusterSpec", "authOptions"], {"mode": "Token"}, "cluster.authOptions.mode: unknown"),
        (["spec", "rayClusterSpec", "authOptions"], {"token": "x"}, "cluster.authOptions: no key token"),
        (["spec", "rayClusterSpec", "rayVersion"], "2.51.0", "cluster.authOptions: needs rayVersion 2.52.0 or newer"),
        (["spec", "rayClusterSpec", "autoscalerOptions"], {},
         "cluster.autoscalerOptions: only version v2 starts pods by their labels"),
        (["spec", "rayClusterSpec", "autoscalerOptions", "version"], "2", "cluster.autoscalerOptions.version: unknown"),
        (["spec", "rayClusterSpec", "autoscalerOptions", "idleTimeout"], 5,
         "cluster.autoscalerOptions: no key idleTimeout"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy"], "Always",
         "head: restartPolicy must be Never with the autoscaler"),
        (["metadata", "name"], "Cam_Robust", "metadata.name: Cam_Robust is no name of at most 47 characters"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_manifest_is_found(path, value, sentence):
    document = job()
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert mistakes(document) == [sentence]


def test_the_cluster_of_the_manifest_requires_a_token():
    assert job()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_every_pod_sees_the_weights_and_has_a_sized_disk():
    cluster = job()["spec"]["rayClusterSpec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        assert [volume["name"] for volume in pod["volumes"]] == ["weights"]
        (container,) = pod["containers"]
        assert container["volumeMounts"] == [{"name": "weights", "mountPath": "/weights"}]
        assert "VOLUME /weights" in (ROOT / "Dockerfile").read_text()
        assert all("ephemeral-storage" in amounts for amounts in container["resources"].values())


def test_rays_autoscaler_reads_the_groups_that_the_configuration_names(caplog):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    spec = job()["spec"]["rayClusterSpec"]
    with caplog.at_level(logging.WARNING):
        read = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": spec})
    assert "Ignoring labels" not in caplog.text
    types = read["available_node_types"]
    wanted = yaml.safe_load((ROOT / "jobs" / "configs" / "spot.yaml").read_text())["cluster"]
    loaders = wanted["loader_labels"].items()
    assert [name for name, one in types.items() if loaders <= one["labels"].items()] == ["cpu-spot"]
    assert types["gpu-spot"]["resources"]["GPU"] == 1
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert wanted["loader_labels"] == {"role": "cpu"}
    assert read["idle_timeout_minutes"] == 5
    on_vms = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert {one["labels"]["role"] for one in on_vms.values()} == {one["labels"]["role"] for one in types.values()}
