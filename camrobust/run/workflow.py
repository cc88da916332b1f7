"""A whole run, as the command line and the jobs call it: measure, verify, aggregate, report."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import polars as pl

from camrobust.contract.config import RunConfig
from camrobust.contract.errors import UserError
from camrobust.contract.run_files import numbered
from camrobust.contract.run_record import FORMAT, CombinedRecord
from camrobust.contract.schema import MAPS, SUMMARIES, summary_columns
from camrobust.io.objects import MissingObjectError
from camrobust.io.parquet_budget import Budget
from camrobust.report.page import Report, build_report
from camrobust.report.reading import checked
from camrobust.results.arrow import empty_frame
from camrobust.results.commits import delete_uncounted, keep_rest
from camrobust.results.documents import read_record
from camrobust.results.folder import FENCED, RunFolder, fresh_folder, hardware, open_run, pending_units, utc, versions
from camrobust.results.lease import Lease, held
from camrobust.results.progress import Progress, in_all, read_progress, write_progress
from camrobust.results.reduce import combined_document, reduce_runs
from camrobust.results.tables import read_frame
from camrobust.results.verify import Completeness, verify

Show = Callable[[Progress], None]
Say = Callable[[str], None]

WRITE_S = 10.0
"""Between two writes of how far the run is."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: its run folder.
        verdict: planned against found.
        measured: images and parts that were measured now; 0 when there was nothing to do.
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
    verbose: bool = False,
    say: Say = lambda _: None,
    progress: Show = lambda _: None,
) -> Outcome:
    """Measure what is missing, then verify, aggregate and report; resumes by default.

    Args:
        config: the run.
        address: of the Ray cluster, see `cluster.session.session`.
        fresh: start over in a new folder beside an existing one.
        retry_failures: measure the images again that are named in failures.
        verbose: let Ray print.
        say: takes lines for the user.
        progress: takes how far the run is every few seconds, from another thread.

    Raises:
        UserError: a mistake in the configuration, data, weights or credentials, or a store that fails for good.
    """
    folder = fresh_folder(config.output) if fresh else open_run(config.output)
    found = folder.run() if folder.holds("run.json") else None
    if found is None:
        begin = _begin(config, folder, say)
    else:
        from camrobust.run.plan import check_weights

        folder.check_same(found, config)
        check_weights(config, found.get("weights_sha256", {}))
        if not retry_failures and folder.done() is not None:
            verdict = verify(folder)
            if verdict.complete:
                say(f"nothing to do: {folder.uri} is complete")
                return Outcome(folder, verdict, 0, verdict.failure_share > config.max_failure_share)
    folder.check_links()
    accept = partial(_without_failures, folder, say) if retry_failures and found else partial(_accepted, folder)
    with held(folder.store, accept, say) as lease:
        if found is None:
            begin()

        def measure(pending: pl.DataFrame) -> None:
            _measure(config, folder, pending, address, verbose, lease, _written_down(folder, lease.number, progress))

        measured = measure_until_done(folder, lease, measure, say)
        lease.check()
        return finish(folder, lease, config.max_failure_share, measured=measured)


def _count(pending: pl.DataFrame) -> int:
    return int(pending["parts"].list.len().sum())


def _accepted(folder: RunFolder, number: int) -> list[str]:
    """What a new lease lists: all that counts when it is taken."""
    del number
    return folder.committed().commits


def _without_failures(folder: RunFolder, say: Say, number: int) -> list[str]:
    """What a new lease lists so that failed images are measured again."""
    committed = folder.committed()
    failed = folder.table("failures", committed).select("dataset", "image_id").unique()
    say(f"measuring {failed.height} failed images again")
    return keep_rest(folder.store, committed, failed, number)


def measure_until_done(
    folder: RunFolder, lease: Lease, measure: Callable[[pl.DataFrame], None], say: Say = lambda _: None
) -> int:
    """Measure what no commit holds, until nothing is left or nothing more comes of it.

    Each time the next lease is taken afterwards, so that what is still on its way counts no more and what counts is
    settled before it is verified.

    Args:
        folder: of the run.
        lease: held by the caller.
        measure: takes the pending images, see `io.runs.pending_units`.
        say: takes lines for the user.

    Returns:
        Images and parts that were measured.
    """
    measured, before = 0, None
    parts = folder.run()["planned"]["parts"]
    while True:
        committed = folder.committed()
        deleted = delete_uncounted(folder.store, committed, lease.number)
        if deleted:
            say(f"deleted {deleted} files that no commit counts")
        pending = pending_units(folder.manifest(), parts, committed)
        left = _count(pending)
        if not left or left == before:
            return measured
        if committed.units.height and before is None:
            say(f"resuming: {committed.units.height} of {committed.units.height + left} images are committed")
        measure(pending)
        measured, before = measured + left, left
        lease.renew(partial(_accepted, folder))


def _begin(config: RunConfig, folder: RunFolder, say: Say) -> Callable[[], None]:
    """List images and check every model; returns what writes the manifest and run.json."""
    from camrobust.run.plan import check_models, controls, families, make_plan

    say("listing images and checking models …")
    plan = make_plan(config)
    folder.check_ours()
    facts = check_models(plan)
    document = {
        "version": versions()["camrobust"],
        "digest": f"{FENCED}{config.digest()}",
        "config": config.model_dump(mode="json"),
        "numbers": config.numbers(),
        "planned": plan.counts(),
        "models": [one.name for one in config.models],
        "cams": list(config.cams),
        "controls": controls(config.cams),
        "families": families(plan.variants),
        "variants": [
            {"perturbation": one.perturbation, "severity": one.severity, "strength": one.strength,
             "replicate": one.replicate}
            for one in plan.variants
        ],
        "warnings": list(plan.warnings),
        "target_layers": {name: fact["target_layer"] for name, fact in facts.items()},
        "weights_sha256": {name: fact["weights_sha256"] for name, fact in facts.items()},
        "tails": {name: fact["tail"] for name, fact in facts.items()},
        "same_as": {name: fact["same_as"] for name, fact in facts.items()},
        "classes": {name: fact["class_names"] for name, fact in facts.items() if fact["class_names"]},
        "versions": versions(),
        "hardware": hardware(),
        "started": utc(),
    }  # fmt: skip
    for warning in plan.warnings:
        say(f"warning: {warning}")
    counts = plan.counts()
    say(
        f"images × models × variants × CAMs = {counts['images']} × {counts['models']} × {counts['variants']} × "
        f"{counts['cams']} = {counts['rows']:,} rows"
    )

    def begin() -> None:
        """Another driver may have begun in the meantime."""
        if not folder.begin(document, plan.manifest):
            folder.check_same(folder.run(), config)

    return begin


def _written_down(folder: RunFolder, attempt: int, progress: Show) -> Show:
    """Shows the progress, and writes it into the run folder now and then; that the store fails ends nothing."""
    written = float("-inf")

    def show(now: Progress) -> None:
        nonlocal written
        progress(now)
        if now.seconds - written >= WRITE_S or now.done == now.total:
            written = now.seconds
            with suppress(UserError):
                write_progress(folder.store, attempt, now, utc())

    return show


def _measure(
    config: RunConfig, folder: RunFolder, pending: pl.DataFrame, address: str, verbose: bool, lease: Lease, show: Show
) -> None:
    from camrobust.run.pipeline import check_room, measure_pending
    from camrobust.run.plan import make_plan
    from camrobust.run.session import session

    plan = make_plan(config, folder.manifest(), folder.run().get("weights_sha256"))
    with session(address, config.cluster, verbose=verbose):
        if address == "local":
            check_room(plan)
        measure_pending(plan, folder, pending, lease.number, show, lease.check)


def finish(folder: RunFolder, lease: Lease, max_failure_share: float, *, measured: int) -> Outcome:
    """Verify; where the run is complete, aggregate, report, and declare it complete last."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[RunFolder], Any]) -> Any:
        start = time.monotonic()
        found = step(folder)
        seconds[name] = round(time.monotonic() - start, 1)
        return found

    verdict: Completeness = timed("verify", verify)
    if verdict.complete:
        if verdict.score_rows:
            timed("aggregate", partial(aggregate, number=lease.number))
            timed("report", partial(report, number=lease.number))
        times = _times(folder)
        times["seconds"] |= seconds
        lease.check()
        folder.finish(lease.number, {**verdict.as_dict(), "finished": utc(), **times})
    return Outcome(folder, verdict, measured, verdict.failure_share > max_failure_share)


def _times(folder: RunFolder) -> dict[str, Any]:
    """How long measuring took, over all attempts."""
    attempts = [attempt for attempt, _ in read_progress(folder.store)]
    return {
        "attempts": len(attempts),
        "seconds": {"measure": round(sum(attempt.seconds for attempt in attempts), 1)},
        "stages": {name: asdict(stage) for name, stage in in_all(attempts).items()},
    }


def aggregate(folder: RunFolder, intervals: str | None = None, number: int | None = None) -> dict[str, pl.DataFrame]:
    """Reduce a run's scores to its summary tables and write them as parquet and csv.

    Args:
        folder: of the run.
        intervals: delta or bootstrap, None for what its configuration says.
        number: of the lease that the tables belong to, None for the newest.

    Raises:
        UserError: there is no run, or it has no scores.
    """
    place = numbered("summary", folder.generation() if number is None else number)
    return _written(folder, reduce_runs([folder], intervals), place)


def combine(folders: Sequence[RunFolder], output: RunFolder, intervals: str | None = None) -> dict[str, pl.DataFrame]:
    """Reduce several runs to one set of summary tables with one report, in a folder of their own.

    Raises:
        UserError: the runs do not go together, or the output holds a run.
    """
    if output.holds("run.json"):
        raise UserError(f"aggregate: {output.uri} holds a run; choose another --output")
    if read_record(output.store, "combined.json", CombinedRecord) is None:
        output.check_ours()
    output.check_links()
    tables = _written(output, reduce_runs(folders, intervals), "summary/")
    document = combined_document({folder.uri: folder.run() for folder in folders})
    output.write_json("combined.json", {"format": FORMAT, **document, "finished": utc()})
    parts = [(folder, folder.committed()) for folder in folders]
    images, failures = (
        pl.concat([folder.table(name, held) for folder, held in parts]) for name in ("images", "failures")
    )
    images = images.unique(["dataset", "image_id"], keep="first", maintain_order=True)
    drawn = build_report({**document, "finished": utc()}, tables, pl.LazyFrame(), images, failures, empty_frame(MAPS))
    _draw(output, drawn, "report/")
    return tables


def _draw(folder: RunFolder, drawn: Report, place: str) -> str:
    for name, content in drawn.files():
        folder.store.write(f"{place}{name}", content)
    return folder.store.locate(f"{place}index.html")


def _written(folder: RunFolder, tables: dict[str, pl.DataFrame], place: str) -> dict[str, pl.DataFrame]:
    for name, table in tables.items():
        folder.write_table(f"{place}{name}.parquet", table)
        folder.write_csv(f"{place}{name}.csv", table)
    return tables


def summaries(folder: RunFolder, number: int | None = None) -> dict[str, pl.DataFrame]:
    """The summary tables as they were written under a lease, None for the newest.

    Raises:
        UserError: they were not.
    """
    names = (*SUMMARIES, "tests", "characteristics")
    place, budget = numbered("summary", folder.generation() if number is None else number), Budget()
    try:
        found = {
            name: read_frame(folder.store, f"{place}{name}.parquet", summary_columns(name), budget)[0] for name in names
        }
    except MissingObjectError as error:
        raise UserError(f"report: {error}; run camrobust aggregate {folder.uri} first") from error
    return {name: checked(name, table, folder.store.locate(f"{place}{name}.parquet")) for name, table in found.items()}


def report(folder: RunFolder, number: int | None = None) -> str:
    """Draw the page and its figures from the summary tables of a lease, None for the newest.

    Returns:
        The address of the page.
    """
    number = folder.generation() if number is None else number
    document = folder.run()
    committed = folder.committed()
    maps = folder.table("maps", committed)
    drawn = build_report(
        {**document, "finished": utc(), "times": _times(folder)},
        summaries(folder, number),
        folder.scores(committed, maps.select("dataset", "image_id").unique()).lazy(),
        folder.table("images", committed),
        folder.table("failures", committed),
        maps,
    )
    return _draw(folder, drawn, numbered("report", number))
