"""The run on one page: pending images → load → perturb → explain → commit."""

from collections.abc import Callable, Generator
from contextlib import closing
from hashlib import sha256
from heapq import nsmallest
from typing import Any, NamedTuple

import polars as pl
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from camrobust.results.folder import RunFolder
from camrobust.run.batch_sizes import images_per_block, images_per_commit
from camrobust.run.ledger import open_ledger
from camrobust.run.observer import Observer, Report, observing
from camrobust.run.placement import place
from camrobust.run.plain_errors import plain_errors
from camrobust.run.plan import Plan
from camrobust.run.stages.batches import pending_batch
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb

COMMIT_CPUS = 0.1
BLOCKS_PER_WORKER = {"cpu": 2, "cuda": 4}
"""Blocks that a Perturb or Explain worker has in work or waiting. Ray Data hands out work ten times a second, and a GPU
may be done with a block in less time."""
PIXELS_PER_LOADER = 64 * 224**2
"""One process loads about so many pixels of crops in the time in which another one starts."""
IMAGES_PER_ROUND = 200_000
"""Images in one stream. The driver keeps something of every block until its stream ends (measured: about 1 KiB per
image), so ten million images in one stream would take 10 GiB there."""


class Kinds(NamedTuple):
    """The classes of the four stages; benchmarks put others in their places."""

    load: type[Any] = Load
    perturb: type[Any] = Perturb
    explain: type[Any] = Explain
    commit: type[Any] = Commit


KINDS = Kinds()


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
        pending: images and their missing parts, from `results.counted.pending_parts`.
        number: of the lease under which the results count.
        report: takes the progress every few seconds, from another thread.
        check: called after every commit; what it raises ends the run.

    Raises:
        RunFailed: the store or a model fails for good, in one sentence.
    """
    parts = int(pending["parts"].list.len().sum())
    ledger, kept = open_ledger(folder.uri), gallery(plan)
    observer = Observer(ledger, folder.uri, pending.height, parts, len(plan.config.models), report)

    def one_round(images: pl.DataFrame) -> Dataset:
        return stages(plan, folder, images, parts, kept, ledger, number)

    commits = in_rounds(pending, one_round, IMAGES_PER_ROUND)
    # Close the stream here: closed at exit, it would make Ray start a new cluster.
    with plain_errors(), observing(observer), closing(commits):
        for commit in commits:
            observer.add(commit)
            check()


def in_rounds(
    pending: pl.DataFrame, one_round: Callable[[pl.DataFrame], Dataset], most: int
) -> Generator[dict[str, Any]]:
    """The rows of one stream after the other, each over some of the pending images.

    Args:
        pending: all images.
        one_round: makes the stream over some of them.
        most: images in a round.
    """
    for images in pending.iter_slices(most):
        # Without prefetching: Ray Data's thread for it may still ask Ray for a block when the run ends.
        commits: Any = one_round(images).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for rows in commits:
            yield from rows.to_pylist()


def stages(
    plan: Plan,
    folder: RunFolder,
    images: pl.DataFrame,
    parts: int,
    kept: frozenset[tuple[str, str]],
    ledger: Any,
    number: int,
    kinds: Kinds = KINDS,
) -> Dataset:
    """The stream from pending images to commits; `run.stages.batches` says what passes between its stages.

    Ray Data restarts actors and retries their batches without end, which is its default; a finite number would turn a
    lost node into a failed run. The ledger finds the images that are the cause.

    Args:
        plan: the run.
        folder: where its results go.
        images: those to be measured, with their missing parts.
        parts: how many are missing in the whole run.
        kept: images whose maps are kept, from `gallery`.
        ledger: of the run.
        number: of the lease under which the results count.
        kinds: the classes of the stages.
    """
    config, where = plan.config, place(plan)
    block = images_per_block(plan, parts, where.explainers[1], where.device)
    rows = block * len(plan.parts)
    loaded = in_blocks(images, block).map_batches(
        kinds.load(config, ledger),
        batch_size=block,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(-(-images.height * config.image.crop**2 // PIXELS_PER_LOADER)),
        **where.load,
    )
    if where.perturbers is not None:
        loaded = loaded.map_batches(
            kinds.perturb,
            fn_constructor_args=(config, plan.parts, where.device, ledger, plan.sources),
            batch_size=block,
            batch_format="pyarrow",
            compute=_pool(where.perturbers, where.device),
            **where.perturb,
        )
    return loaded.map_batches(
        kinds.explain,
        fn_constructor_args=(config, plan.parts, kept, plan.weights, where.device, plan.pass_sizes[where.device]),
        fn_constructor_kwargs={
            "ledger": ledger,
            "sources": plan.sources,
            "states": plan.states,
            "builders": plan.builders,
            "readouts": plan.readouts,
            "kept": plan.kept,
            "perturbs": where.perturbers is None,
        },
        batch_size=block if where.perturbers is None else rows,
        batch_format="pyarrow",
        compute=_pool(where.explainers, where.device),
        **where.explain,
    ).map_batches(
        kinds.commit(folder.uri, number),
        batch_size=images_per_commit(plan, parts, rows),
        batch_format="pyarrow",
        num_cpus=COMMIT_CPUS,
    )


def in_blocks(images: pl.DataFrame, block: int) -> Dataset:
    """A stream of pending images that begins as blocks of so many.

    The driver cuts them, because a stage that only cuts would cost it more for every block than all of this.
    """
    return ray.data.from_arrow([pending_batch(some) for some in images.iter_slices(block)])


def gallery(plan: Plan) -> frozenset[tuple[str, str]]:
    """The images whose maps are kept: those with the smallest hash, so the same ones on every attempt."""

    def rank(key: tuple[str, str]) -> bytes:
        return sha256(f"{plan.config.seed}\0{key[0]}\0{key[1]}".encode()).digest()

    keys = plan.manifest.select("dataset", "image_id").iter_rows()
    return frozenset(nsmallest(plan.config.gallery_images, keys, key=rank))


def _pool(size: tuple[int, int], device: str) -> ActorPoolStrategy:
    return ActorPoolStrategy(
        min_size=size[0], max_size=size[1], max_tasks_in_flight_per_actor=BLOCKS_PER_WORKER[device]
    )
