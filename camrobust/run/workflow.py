"""A whole run, as the command line and the jobs call it: measure, verify, aggregate, report."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from camrobust.contract.config import RunConfig
from camrobust.contract.defaults import METRIC
from camrobust.contract.errors import UserError
from camrobust.contract.run_documents import FinishedRecord
from camrobust.contract.run_record import RunRecord
from camrobust.contract.sharding import ShardRecord
from camrobust.io.retries import hasty, patient
from camrobust.results.commits import delete_uncounted, keep_rest
from camrobust.results.counted import pending_parts
from camrobust.results.environment import utc
from camrobust.results.folder import RunFolder
from camrobust.results.lease import Lease, held
from camrobust.results.progress import Progress, write_progress
from camrobust.results.verify import Completeness, verify
from camrobust.run.shards import beginning_of, open_output
from camrobust.run.summarise import aggregate, report, times

if TYPE_CHECKING:
    from camrobust.run.plan import Plan

Show = Callable[[Progress], None]
Say = Callable[[str], None]

WRITE_S = 10.0
"""Progress is written into the run folder about this often."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: its run folder.
        verdict: what was planned against what is there.
        measured: parts of images that were measured now; 0 when there was nothing to do.
        too_many_failures: a larger share of the images failed than the configuration allows.
    """

    folder: RunFolder
    verdict: Completeness
    measured: int
    too_many_failures: bool

    @property
    def exit_code(self) -> int:
        """0 complete, 1 rows are missing or too many images failed."""
        return 0 if self.verdict.complete and not self.too_many_failures else 1


def run(
    config: RunConfig,
    *,
    address: str = "local",
    fresh: bool = False,
    retry_failures: bool = False,
    shard: ShardRecord | None = None,
    verbose: bool = False,
    say: Say = lambda _: None,
    progress: Show = lambda _: None,
) -> Outcome:
    """Measure what is missing, then verify, aggregate and report; resumes by default.

    Args:
        config: the run.
        address: of the Ray cluster, see `run.session.session`.
        fresh: start over in a new folder beside an existing one.
        retry_failures: measure again the images that are named in failures.
        shard: measure only the images of this shard, in a folder of its own; None for all images.
        verbose: let Ray print.
        say: takes lines for the user.
        progress: takes the progress every few seconds, from another thread.

    Raises:
        UserError: a mistake in the configuration, data, weights or credentials, or a store that fails for good.
    """
    from camrobust.run.own_image import with_own_image

    config, source = with_own_image(config, fresh=fresh)
    folder = open_output(config, shard, fresh=fresh)
    begun = folder.record()
    from camrobust.run.session import check_reachable

    if begun is None:
        from camrobust.run.planned import planned

        check_reachable(address)
        begin = (
            _begin(config, folder, say, source)
            if shard is None
            else beginning_of(config, folder, shard, partial(planned, config, say=say, source=source), say)
        )
    else:
        from camrobust.run.unchanged import check_networks, check_plugins

        folder.check_same(begun, config)
        check_plugins(config, begun.plugins)
        check_networks(config, begun)
        if not retry_failures and folder.done() is not None:
            verdict = verify(folder)
            if verdict.complete:
                say(f"nothing to do: {folder.uri} is complete")
                return Outcome(folder, verdict, 0, verdict.failure_share > config.max_failure_share)
        check_reachable(address)
    if begun and begun.metric != METRIC and (retry_failures or _is_missing_parts(folder, begun)):
        folder.check_metric()
    folder.check_links()
    accept = partial(_without_failures, folder, say) if retry_failures and begun else partial(_accepted, folder)
    with patient(lambda _, line: say(line)), held(folder.store, accept, say) as lease:
        plan = (begin() if begun is None else None) or _recorded_plan(config, folder)

        def measure(pending: pl.DataFrame) -> None:
            folder.check_metric()
            _measure(plan, folder, pending, address, verbose, lease, _written_down(folder, lease.number, progress))

        measured = measure_until_done(folder, lease, measure, say)
        lease.check()
        return finish(folder, lease, config.max_failure_share, measured=measured)


def _is_missing_parts(folder: RunFolder, begun: RunRecord) -> bool:
    return not pending_parts(folder.manifest(), begun.planned.parts, folder.committed()).is_empty()


def _parts(pending: pl.DataFrame) -> int:
    return int(pending["parts"].list.len().sum())


def _accepted(folder: RunFolder, number: int) -> list[str]:
    """The commits that a new lease lists: all that count when it is taken."""
    del number
    return folder.committed().commits


def _without_failures(folder: RunFolder, say: Say, number: int) -> list[str]:
    """The commits that a new lease lists so that failed images are measured again."""
    committed = folder.committed()
    failed = folder.table("failures", committed).select("dataset", "image_id").unique()
    say(f"measuring {failed.height} failed images again")
    return keep_rest(folder.store, committed, failed, number, folder.run().score_columns())


def measure_until_done(
    folder: RunFolder, lease: Lease, measure: Callable[[pl.DataFrame], None], say: Say = lambda _: None
) -> int:
    """Measure what no commit holds, until nothing is left or a round brings nothing more.

    Each round ends with a new lease. Commits that are still on their way under the old one no longer count, so what
    counts is settled before it is verified.

    Args:
        folder: of the run.
        lease: held by the caller.
        measure: takes the pending images, see `results.counted.pending_parts`.
        say: takes lines for the user.

    Returns:
        How many parts of images were measured.
    """
    measured, before = 0, None
    parts = folder.run().planned.parts
    while True:
        committed = folder.committed()
        deleted = delete_uncounted(folder.store, committed, lease.number)
        if deleted:
            say(f"deleted {deleted} files that no commit counts")
        pending = pending_parts(folder.manifest(), parts, committed)
        left = _parts(pending)
        if not left or left == before:
            return measured
        if committed.parts.height and before is None:
            say(f"resuming: {committed.parts.height} of {committed.parts.height + left} images and parts are committed")
        measure(pending)
        measured, before = measured + left, left
        lease.renew(partial(_accepted, folder))


def _begin(config: RunConfig, folder: RunFolder, say: Say, source: str = "configuration") -> Callable[[], "Plan"]:
    """List images and check every model; returns a function that writes the manifest and run.json."""
    from camrobust.run.planned import planned
    from camrobust.run.unchanged import check_plugins

    plan, record = planned(config, folder, say, source)

    def begin() -> "Plan":
        """The plan as it now stands in the folder. Where another driver has begun in the meantime, its images count."""
        if folder.begin(record, plan.manifest):
            return plan
        begun = folder.run()
        folder.check_same(begun, config)
        check_plugins(config, begun.plugins)
        return _recorded_plan(config, folder)

    return begin


def _recorded_plan(config: RunConfig, folder: RunFolder) -> "Plan":
    """The plan of a run that has begun: its images and weights are those that the folder names."""
    from camrobust.run.plan import make_plan

    began = folder.run()
    plan = make_plan(config, folder.whole_manifest(), began.weights_sha256, began.pass_sizes, began.shard)
    return replace(
        plan, states=began.state_sha256, builders=began.builders, readouts=began.readouts(), kept=began.classes_kept
    )


def _written_down(folder: RunFolder, attempt: int, progress: Show) -> Show:
    """Shows the progress and writes it into the run folder now and then; errors of the store are ignored."""
    written = float("-inf")

    def show(now: Progress) -> None:
        nonlocal written
        progress(now)
        if now.seconds - written >= WRITE_S or now.done == now.total:
            written = now.seconds
            with suppress(UserError), hasty():
                write_progress(folder.store, attempt, now, utc())

    return show


def _measure(
    plan: "Plan", folder: RunFolder, pending: pl.DataFrame, address: str, verbose: bool, lease: Lease, show: Show
) -> None:
    """Measure the pending images on a cluster."""
    from camrobust.run.batch_sizes import longest_image_s
    from camrobust.run.pipeline import measure_pending
    from camrobust.run.placement import check_room
    from camrobust.run.session import session

    with session(address, plan.config.cluster, verbose=verbose, longest_image_s=longest_image_s(plan)):
        if address == "local":
            check_room(plan)
        measure_pending(plan, folder, pending, lease.number, show, lease.check)


def finish(folder: RunFolder, lease: Lease, max_failure_share: float, *, measured: int) -> Outcome:
    """Verify; if the run is complete, aggregate, report, and last declare it complete."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[RunFolder], Any]) -> Any:
        start = time.monotonic()
        result = step(folder)
        seconds[name] = round(time.monotonic() - start, 1)
        return result

    verdict: Completeness = timed("verify", verify)
    if verdict.complete:
        if verdict.score_rows:
            timed("aggregate", partial(aggregate, number=lease.number))
            timed("report", partial(report, number=lease.number))
        record = FinishedRecord(**verdict.as_dict(), finished=utc(), **dict(times(folder, seconds)))
        lease.check()
        folder.finish(lease.number, record)
    return Outcome(folder, verdict, measured, verdict.failure_share > max_failure_share)
