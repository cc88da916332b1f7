"""How many workers each stage has, and what one of them asks for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from camrobust.contract.errors import UserError
from camrobust.run.plan import Plan
from camrobust.run.stages.explain import GPUS_PER_EXPLAINER

STANDING_CPUS = 0.375
"""Share of the cores that standing workers (actors) may ask for. Ray Data keeps half of all cores for its own balance.
With more than this share taken it never starts to load: two Explain workers on two cores stood still for ever."""
VARIANTS_PER_MODEL = 4
"""With more variants than this per model, taking them to another process is what costs on a GPU."""
ROUNDING = 1e-6
"""Tolerance for sums of fractions of a core."""


@dataclass(frozen=True)
class Placement:
    """How many workers each stage has, and what one of them asks for.

    Attributes:
        device: where Perturb and Explain compute, cpu or cuda.
        explain: options of `map_batches` for one Explain worker.
        perturb: likewise for Perturb.
        load: likewise for Load.
        explainers: least and most Explain workers.
        perturbers: least and most Perturb workers; None where Explain workers perturb.
    """

    device: str
    explain: dict[str, Any]
    perturb: dict[str, Any]
    load: dict[str, Any]
    explainers: tuple[int, int]
    perturbers: tuple[int, int] | None


def explain_perturbs(plan: Plan, device: str) -> bool:
    """Whether Explain workers make the variants themselves: `cluster.perturb`, decided.

    An image's variants are made once, whatever the number of models, so it is the trip to another process that counts.
    On a GPU that trip (to the host, into the object store, back) takes longer than a model needs for the variants, and
    several models hide it unless the variants are many. On cores the trip is cheap, but workers of their own have none
    to compute on: Explain workers take all cores anyway, and each process more takes seconds of one to start.

    Args:
        plan: the run.
        device: where Explain computes, cpu or cuda.
    """
    wanted = plan.config.cluster
    if wanted.perturb != "auto":
        return wanted.perturb == "with_explain"
    if device == "cpu":
        return wanted.perturbers is None
    models = len(plan.config.models)
    return models == 1 or len(plan.variants) > VARIANTS_PER_MODEL * models


def place(plan: Plan) -> Placement:
    """Resources of each stage, from the configuration and what the cluster has now."""
    wanted = plan.config.cluster
    cluster = ray.cluster_resources()
    gpus, cpus = int(cluster.get("GPU", 0)), max(1, int(cluster.get("CPU", 1)))
    on_gpu = gpus > 0 if wanted.gpus_per_explainer is None else wanted.gpus_per_explainer > 0
    if on_gpu:
        explain: dict[str, Any] = {"num_gpus": wanted.gpus_per_explainer or GPUS_PER_EXPLAINER, "num_cpus": 1}
        perturb: dict[str, Any] = {
            "num_gpus": 0.2 if wanted.gpus_per_perturber is None else wanted.gpus_per_perturber,
            "num_cpus": 1,
        }
        if wanted.accelerator:
            explain["accelerator_type"] = perturb["accelerator_type"] = wanted.accelerator
    else:
        # Fractions of a core let loading, perturbing and explaining share two cores without starving each other.
        explain, perturb = {"num_cpus": 0.5}, {"num_cpus": 0.25}
    asked = {"label_selector": wanted.gpu_labels, "resources": wanted.gpu_resources}
    for stage in (explain, perturb):
        stage |= {name: value for name, value in asked.items() if value}
    load: dict[str, Any] = {"num_cpus": wanted.cpus_per_loader or (1 if on_gpu else 0.5)}
    if wanted.loader_labels:
        load["label_selector"] = wanted.loader_labels
    most = max(8, gpus) if on_gpu else cpus
    # On cores all workers start at once: a pool that grows to them later took a seventh longer over 150 images.
    explainers = wanted.explainers or (1 if on_gpu else most, most)
    device = "cuda" if on_gpu else "cpu"
    perturbers = None
    if not explain_perturbs(plan, device):
        perturbers = wanted.perturbers or (1, most if on_gpu else max(1, cpus // 2))
    if not on_gpu:
        need = explainers[0] * explain["num_cpus"] + (perturbers[0] * perturb["num_cpus"] if perturbers else 0)
        for stage in (explain, perturb):
            stage["num_cpus"] = round(stage["num_cpus"] * min(1.0, STANDING_CPUS * cpus / need), 3)
    return Placement(device, explain, perturb, load, explainers, perturbers)


def check_room(plan: Plan) -> None:
    """Refuse a run whose workers do not fit on this machine alone, which cannot grow as a cluster can.

    Raises:
        UserError: naming what the workers ask for.
    """
    where, has = place(plan), ray.cluster_resources()
    perturbers = where.perturbers[0] if where.perturbers else 0
    stages = ((1, where.load), (perturbers, where.perturb), (where.explainers[0], where.explain))
    labels = ray.nodes()[0]["Labels"]
    wanted = {name: value for _, asked in stages for name, value in asked.get("label_selector", {}).items()}
    for name, value in wanted.items():
        if re.fullmatch(r"[\w.-]+", value) and labels.get(name) != value:
            raise UserError(
                f"cluster: workers ask for nodes with the label {name}={value}, which this machine does not have; "
                "leave it out here, or name a cluster by --address"
            )
    total: dict[str, float] = {}
    for workers, asked in stages:
        for name, amount in _amounts(asked).items():
            total[name] = total.get(name, 0.0) + workers * amount
    for name, amount in total.items():
        if amount > has.get(name, 0) + ROUNDING:
            raise UserError(f"cluster: a worker of load, {perturbers} of perturb and {where.explainers[0]} of "
                            f"explain together ask for {amount:g} {name}, this machine has {has.get(name, 0):g}; ask "
                            "for less under `cluster`, or name a cluster by --address")  # fmt: skip


def _amounts(asked: Mapping[str, Any]) -> dict[str, float]:
    """The resources of a cluster that one worker of a stage takes."""
    amounts = {"CPU": asked["num_cpus"], "GPU": asked.get("num_gpus", 0), **asked.get("resources", {})}
    kind = asked.get("accelerator_type")
    return amounts if kind is None else {**amounts, f"accelerator_type:{kind}": 0.001}
