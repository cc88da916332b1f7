"""The run on one page: what is pending, load → perturb → explain → commit, progress."""

from collections.abc import Callable, Generator
from contextlib import closing
from hashlib import sha256
from heapq import nsmallest
from typing import Any

import polars as pl
import ray
from ray.data import ActorPoolStrategy, Dataset

from camrobust.results.folder import RunFolder
from camrobust.run.batch_sizes import IMAGES_PER_LOAD, images_per_commit, images_per_perturb
from camrobust.run.ledger import open_ledger
from camrobust.run.observer import Observer, Report, observing
from camrobust.run.placement import place
from camrobust.run.plain_errors import plain_errors
from camrobust.run.plan import Plan
from camrobust.run.stages.batches import UNKNOWN_LABEL
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb

COMMIT_CPUS = 0.1
IMAGES_PER_ROUND = 200_000
"""What the engine streams at a time. Its driver keeps something of every block until the stream ends (about a KiB per
image, measured), so ten million images in one stream would need ten GiB there."""


def _pool(size: tuple[int, int]) -> ActorPoolStrategy:
    return ActorPoolStrategy(min_size=size[0], max_size=size[1], max_tasks_in_flight_per_actor=2)


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
    with plain_errors(), observing(observer), closing(streamed):
        for commit in streamed:
            observer.add(commit)
            check()
