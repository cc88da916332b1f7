"""The run on one page: what is pending, load → perturb → explain → commit, progress."""

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from typing import Any

import polars as pl
import ray
from ray.data import ActorPoolStrategy, Dataset

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.objects import DeniedObjectError
from camrobust.results.folder import RunFolder
from camrobust.run.ledger import open_ledger
from camrobust.run.observer import Observer, Report, observing
from camrobust.run.plan import Plan
from camrobust.run.stages.actors import GPUS_PER_EXPLAINER, UNKNOWN_LABEL, Commit, Explain, Load, Perturb

IMAGES_PER_LOAD = 8
IMAGES_PER_PERTURB = {"cpu": 1, "cuda": 8}
"""A core needs as long for each image alone; a GPU needs for eight of them hardly longer than for one."""
PERTURB_BYTES = 256 * 2**20
"""Most bytes of variants that are made at a time."""
COMMIT_CPUS = 0.1
STANDING_CPUS = 0.375
"""Share of the cores that workers which are always there may ask for. With more taken Ray Data, which keeps half of all
for its own balance, never starts to load: two Explain workers on two cores stood still for ever."""
COMMIT_BYTES = 64 * 2**20
"""Size of a score file to aim at when there is enough of it."""
IMAGES_PER_ROUND = 200_000
"""What the engine streams at a time. Its driver keeps something of every block until the stream ends (about a KiB per
image, measured), so ten million images in one stream would need ten GiB there."""
ROUNDING = 1e-6
"""Of sums of fractions of a core."""
RETRIED = "Failed to apply UDF transform"
"""So begins what Ray appends to the message of what a worker raised."""
COMMIT_SHARE = 100
"""No commit holds more than this fraction of the run, so that little is lost when the driver dies."""


@dataclass(frozen=True)
class Placement:
    """How wide each stage runs and what one of its workers asks for."""

    device: str
    explain: dict[str, Any]
    perturb: dict[str, Any]
    load: dict[str, Any]
    explainers: tuple[int, int]
    perturbers: tuple[int, int]


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
    perturbers = wanted.perturbers or (1, most if on_gpu else max(1, cpus // 2))
    if not on_gpu:
        need = explainers[0] * explain["num_cpus"] + perturbers[0] * perturb["num_cpus"]
        for stage in (explain, perturb):
            stage["num_cpus"] = round(stage["num_cpus"] * min(1.0, STANDING_CPUS * cpus / need), 3)
    return Placement("cuda" if on_gpu else "cpu", explain, perturb, load, explainers, perturbers)


def check_room(plan: Plan) -> None:
    """Refuse workers that a cluster of this machine alone will never have room for; another cluster may grow.

    Raises:
        UserError: naming what they ask for.
    """
    where, has = place(plan), ray.cluster_resources()
    stages = ((1, where.load), (where.perturbers[0], where.perturb), (where.explainers[0], where.explain))
    labels = ray.nodes()[0]["Labels"]
    wanted = {name: value for _, asked in stages for name, value in asked.get("label_selector", {}).items()}
    for name, value in wanted.items():
        if re.fullmatch(r"[\w.-]+", value) and labels.get(name) != value:
            raise UserError(f"cluster: workers ask for nodes with the label {name}={value}, which this machine has "
                            "not; leave it out here, or name a cluster by --address")  # fmt: skip
    total: dict[str, float] = {}
    for workers, asked in stages:
        for name, amount in _amounts(asked).items():
            total[name] = total.get(name, 0.0) + workers * amount
    for name, amount in total.items():
        if amount > has.get(name, 0) + ROUNDING:
            raise UserError(f"cluster: a worker of load, {where.perturbers[0]} of perturb and {where.explainers[0]} of "
                            f"explain together ask for {amount:g} {name}, this machine has {has.get(name, 0):g}; ask "
                            "for less under `cluster`, or name a cluster by --address")  # fmt: skip


def _amounts(asked: Mapping[str, Any]) -> dict[str, float]:
    """What one worker of a stage takes of a cluster's resources."""
    amounts = {"CPU": asked["num_cpus"], "GPU": asked.get("num_gpus", 0), **asked.get("resources", {})}
    kind = asked.get("accelerator_type")
    return amounts if kind is None else {**amounts, f"accelerator_type:{kind}": 0.001}


def _pool(size: tuple[int, int]) -> ActorPoolStrategy:
    return ActorPoolStrategy(min_size=size[0], max_size=size[1], max_tasks_in_flight_per_actor=2)


def images_per_commit(plan: Plan, pending: int) -> int:
    """Images in one commit: files of a good size for an object store, but never much of the run at once."""
    bytes_per_image = plan.rows_per_image * plan.row_bytes
    return max(1, min(COMMIT_BYTES // bytes_per_image, -(-pending // COMMIT_SHARE)))


def images_per_perturb(plan: Plan, device: str, images_per_load: int) -> int:
    """Images that are perturbed at once: no more than memory holds, or than are loaded, as else workers stay idle."""
    bytes_per_image = 3 * plan.config.image.crop**2 * (len(plan.variants) + len(plan.parts))
    return max(1, min(IMAGES_PER_PERTURB[device], images_per_load, PERTURB_BYTES // bytes_per_image))


def gallery(plan: Plan) -> frozenset[tuple[str, str]]:
    """The images whose maps are kept: those with the smallest hash, so the same ones on every attempt."""

    def rank(key: tuple[str, str]) -> bytes:
        return sha256(f"{plan.config.seed}\0{key[0]}\0{key[1]}".encode()).digest()

    return frozenset(
        nsmallest(plan.config.gallery_images, plan.manifest.select("dataset", "image_id").iter_rows(), key=rank)
    )


def stages(
    plan: Plan,
    folder: RunFolder,
    source: pl.DataFrame,
    pending: int,
    kept: frozenset[tuple[str, str]],
    ledger: Any,
    number: int,
) -> Dataset:
    """The streaming job from pending images to commits.

    Actors restart and their batches are retried without end, which is Ray Data's default; a finite number would turn a
    lost node into a failed run. The ledger finds the images that are the cause.
    """
    config, where = plan.config, place(plan)
    images_per_load = max(1, min(IMAGES_PER_LOAD, pending // (4 * where.explainers[1])))
    rows_per_explain = max(1, 32 // (1 + len(plan.parts[0])))
    return (
        ray.data.from_arrow(source.to_arrow())
        .repartition(target_num_rows_per_block=images_per_load)
        .map_batches(Load(config, ledger), batch_size=images_per_load, batch_format="numpy", **where.load)
        .map_batches(
            Perturb,
            fn_constructor_args=(config, plan.parts, where.device, ledger),
            batch_size=images_per_perturb(plan, where.device, images_per_load),
            batch_format="numpy",
            compute=_pool(where.perturbers),
            **where.perturb,
        )
        .map_batches(
            Explain,
            fn_constructor_args=(config, plan.parts, kept, plan.weights, where.device, ledger),
            batch_size=rows_per_explain,
            batch_format="numpy",
            compute=_pool(where.explainers),
            **where.explain,
        )
        .map_batches(
            Commit(folder.uri, number),
            batch_size=images_per_commit(plan, pending),
            batch_format="numpy",
            num_cpus=COMMIT_CPUS,
        )
    )


def stream(
    source: pl.DataFrame, output: str, stage: Callable[[dict[str, Any]], dict[str, Any]], commit: int
) -> Dataset:
    """The job with one stage in the place of load, perturb and explain: counts of every commit.

    Args:
        source: the pending images.
        output: folder of the commits.
        stage: rows of the source to rows as Explain gives them.
        commit: images in one commit.
    """
    return (
        ray.data.from_arrow(source.to_arrow())
        .repartition(target_num_rows_per_block=IMAGES_PER_LOAD)
        .map_batches(stage, batch_size=IMAGES_PER_LOAD, batch_format="numpy", num_cpus=0.5)
        .map_batches(Commit(output, 0), batch_size=commit, batch_format="numpy", num_cpus=COMMIT_CPUS)
    )


def in_rounds(pending: pl.DataFrame, round_: Callable[[pl.DataFrame], Dataset], most: int) -> Generator[dict[str, Any]]:
    """Rows of one stream after the other, each over some of the pending images.

    Args:
        pending: all images.
        round_: some of them to the stream over these.
        most: images in a round.
    """
    for some in pending.iter_slices(most):
        yield from round_(some).iter_rows()


def measure_pending(
    plan: Plan,
    folder: RunFolder,
    pending: pl.DataFrame,
    number: int,
    report: Report,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Measure and commit every pending image; returns when all are committed.

    Args:
        plan: the run.
        folder: where its results go.
        pending: images and their missing parts, from `io.runs.pending_units`.
        number: of the lease under which the results count.
        report: takes the progress every few seconds, from another thread.
        check: called after every commit; what it raises ends the run.

    Raises:
        RunFailed: the store or a model fails for good, in one sentence.
    """
    table = pending.with_columns(
        pl.col("parts").cast(pl.List(pl.String)).list.join(","), pl.col("label").fill_null(UNKNOWN_LABEL)
    )
    total = int(pending["parts"].list.len().sum())
    ledger, kept = open_ledger(folder.uri), gallery(plan)
    observer = Observer(ledger, folder.uri, pending.height, total, len(plan.config.models), report)
    streamed = in_rounds(
        table, lambda source: stages(plan, folder, source, total, kept, ledger, number), IMAGES_PER_ROUND
    )
    # A stream that is left open is closed when the program ends, for which Ray would start a cluster of its own.
    with _plain_errors(), observing(observer), closing(streamed):
        for commit in streamed:
            observer.add(commit)
            check()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Tell what stopped the run in one sentence, without Ray's layers around it; what was committed is kept."""
    try:
        yield
    except Exception as error:
        told = _user_error(error)
        if told is not None:
            raise RunFailed(_said(told)[0]) from error
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            why = f"{type(inner).__name__}: {_said(inner)[0]}"
        else:
            why = f"{type(error).__name__}: {_said(error)[-1]}"
        raise RunFailed(f"run: stopped by {why}; run again to resume, with --verbose to see all of it") from error


def _said(error: BaseException) -> list[str]:
    """The lines of an error's message, at least one, without what Ray adds of its retries."""
    text, retried, _ = str(error.args[0] if len(error.args) == 1 else error).partition(RETRIED)
    text = text.rstrip(": '\n") if retried else text
    return [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]


def _user_error(error: BaseException | None) -> UserError | None:
    """The sentence somewhere among the causes of an error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)
        if isinstance(error, UserError) and type(error) in (UserError, RunFailed, DeniedObjectError):
            return error
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
