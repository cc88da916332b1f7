"""The cost of a run, estimated on this machine without a cluster."""

import time
from typing import Any

import polars as pl
import torch

from camrobust.contract.config import RunConfig
from camrobust.contract.defaults import REPLACEMENT_S
from camrobust.contract.model_config import ModelConfig
from camrobust.contract.sharding import ShardRecord
from camrobust.core.channels import noise
from camrobust.core.draws import Draws
from camrobust.core.segments import segment
from camrobust.io.manifest import SCHEMA
from camrobust.measure.image import explain_variants
from camrobust.measure.settings import ImageVariants, Sample
from camrobust.run.batch_sizes import images_per_block, images_per_commit
from camrobust.run.interruptions import Fleet, expected
from camrobust.run.own_image import with_own_image
from camrobust.run.plan import Plan, build, make_plan, settings_of
from camrobust.run.tried_models import check_models

PASSES = 3
DIGITS = 6
"""Decimals of hours: a small run takes seconds."""
CERTIFICATE_BYTES = 25
"""About how many bytes a row of certificates takes in a file."""
ATTACK_COST = 3
"""Cost of a forward and backward pass through the whole model, in forward passes."""


def estimate(
    config: RunConfig,
    forwards_per_s: float | None = None,
    workers: int = 1,
    images: int | None = None,
    dollars_per_hour: float | None = None,
    interruptions_per_h: float | None = None,
    replacement_s: float = REPLACEMENT_S,
    shard: ShardRecord | None = None,
) -> dict[str, Any]:
    """Counts, hours, bytes and, with a price, dollars of a run.

    Args:
        config: the run.
        forwards_per_s: shared passes per second and Explain worker; None times a few passes of each model here.
        workers: Explain workers that share the work.
        images: number of images; None lists them.
        dollars_per_hour: price of one Explain worker's machine.
        interruptions_per_h: how often such a machine is taken away, per hour; None leaves out what that adds.
        replacement_s: from the loss of a machine until another one works, s.
        shard: which of the images are measured; None for all.

    Returns:
        Planned counts, hours of work and bytes written, by name.

    Raises:
        UserError: the run itself would refuse this configuration, or it would not end on such machines.
    """
    config, source = with_own_image(config)
    plan = make_plan(config, None if images is None else _unlisted(images), shard=shard)
    counts = plan.counts()
    facts = check_models(plan) if images is None or forwards_per_s is None else {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if forwards_per_s is None:
        seconds_per_image = sum(_seconds_per_image(plan, model, device) for model in config.models)
    else:
        seconds_per_image = (
            (counts["forwards"] + counts.get("certificate_forwards", 0) + ATTACK_COST * counts["attack_passes"])
            / max(1, counts["images"])
            / forwards_per_s
        )
    segment_s, gpu = _segment_seconds(plan), _missing_gpu(config, device)
    hours = seconds_per_image * counts["images"] / 3600
    price = {} if dollars_per_hour is None else {"explain_dollars": round(hours * dollars_per_hour, 2)}
    return {
        **counts,
        "explain_worker_hours": round(hours, DIGITS),
        "explain_hours_on_these_workers": round(hours / workers, DIGITS),
        **price,
        **_on_spot(plan, seconds_per_image, workers, interruptions_per_h, replacement_s, dollars_per_hour),
        "load_core_hours": round(segment_s * counts["images"] / 3600, DIGITS),
        "score_bytes": counts["rows"] * plan.row_bytes,
        **({"certificate_bytes": counts["certificates"] * CERTIFICATE_BYTES} if "certificates" in counts else {}),
        "measured_on": f"given rate of {forwards_per_s:g} per second" if forwards_per_s else f"this machine's {device}",
        **({} if gpu is None else {"gpu": gpu}),
        "images_become": f"{config.image.in_words} ({source})",
        **{f"target_layer_of_{name}": fact["target_layer"] for name, fact in facts.items()},
        **{f"head_of_{name}": fact["head"] for name, fact in facts.items() if fact["head"] != "softmax"},
        **({"left_out": " ".join(plan.notes)} if plan.notes else {}),
        **({"warnings": " ".join(plan.warnings)} if plan.warnings else {}),
    }


def _missing_gpu(config: RunConfig, device: str) -> str | None:
    """The sentence for a configuration that asks for GPUs where there are none; None where all is well."""
    asked = [name for name in ("gpus_per_explainer", "gpus_per_perturber") if getattr(config.cluster, name)]
    if not asked or device == "cuda":
        return None
    less = " ".join(f"cluster.{name}=0" for name in asked)
    return (
        f"cluster.{asked[0]} asks for {getattr(config.cluster, asked[0]):g} of a GPU, and this machine has none; run "
        f"it on a cluster with GPUs (--address), or here with --set {less}"
    )


def _on_spot(
    plan: Plan,
    seconds_per_image: float,
    workers: int,
    interruptions_per_h: float | None,
    replacement_s: float,
    dollars_per_hour: float | None,
) -> dict[str, float]:
    """What the run takes on machines that are taken away, and how much of it is because of that."""
    if interruptions_per_h is None:
        return {}
    device = "cuda" if torch.cuda.is_available() or plan.config.cluster.gpus_per_explainer else "cpu"
    images = plan.counts()["images"]
    parts = images * len(plan.parts)
    block = images_per_block(plan, parts, workers, device)
    rows = block * len(plan.parts)
    blocks_per_commit = max(1, images_per_commit(plan, parts, rows) // rows)
    work_h, block_h = (seconds_per_image * some / 3600 for some in (images, block))
    fleet = Fleet(workers, interruptions_per_h, replacement_s / 3600)
    found = expected(work_h, block_h, blocks_per_commit, fleet)
    dollars = {} if dollars_per_hour is None else {
        "dollars_with_interruptions": round(found.machine_h * dollars_per_hour, 2),
        "interruptions_add_dollars": round((found.machine_h - work_h) * dollars_per_hour, 2),
    }  # fmt: skip
    return {
        "interruptions": round(found.interruptions, 2),
        "repeated_worker_hours": round(found.repeated_h, 3),
        "replacement_worker_hours": round(found.waiting_h, 3),
        "hours_with_interruptions": round(found.run_h, 3),
        "interruptions_add_hours": round(found.run_h - work_h / workers, 3),
        **dollars,
    }


def _unlisted(images: int) -> pl.DataFrame:
    """A manifest of images that are counted and not listed."""
    names = pl.int_range(images, eager=True).cast(pl.String)
    unknown = {"uri": "", "label": None, "place": None}
    return pl.DataFrame({"dataset": "unlisted", "image_id": names, **unknown}, schema=SCHEMA)


def _seconds_per_image(plan: Plan, config: ModelConfig, device: str) -> float:
    """Seconds to explain all variants and noisy copies of one image under one model, from a few timed passes."""
    model = build(config, plan.config.image.crop, device)
    settings = settings_of(plan.config, plan.pass_sizes[device])
    harmless = next((variant for variant in plan.variants if not variant.needs_model), None)
    planned = [] if harmless is None else [harmless] * (settings.batch - 1)
    pixels = noise(1, plan.config.channels, plan.config.image.crop).expand(len(planned) + 1, -1, -1, -1)
    sample = Sample("", "", 0, torch.zeros(pixels.shape[-2:], dtype=torch.int64))
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        (explained,) = explain_variants(model, [ImageVariants(sample, pixels, planned)], settings)
        explained.confidences.sum().item()
        times.append(time.perf_counter() - start)
    passes = len(plan.variants) + len(plan.parts) + plan.noisy_copies + ATTACK_COST * plan.attack_passes
    return min(times) / settings.batch * passes


def _segment_seconds(plan: Plan) -> float:
    """Seconds to segment one image of smooth noise, on one core."""
    segments, crop = plan.config.segments, plan.config.image.crop
    coarse = Draws.of(0, "", ["probe"], "estimate", "", 0).uniform((plan.config.channels, 14, 14))
    image = torch.nn.functional.interpolate(coarse, size=(crop, crop), mode="bilinear")
    start = time.perf_counter()
    segment(image, segments.method, **segments.parameters)
    return time.perf_counter() - start
