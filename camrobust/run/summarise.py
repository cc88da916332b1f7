"""The steps after measuring: summary tables, the report, and several runs combined."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.errors import UserError
from camrobust.contract.paths import is_folder
from camrobust.contract.quoting import shell_word, short
from camrobust.contract.record import MAX_AMOUNT, MAX_NUMBER, content_of
from camrobust.contract.run_documents import MOST_STAGES, StageRecord, TimesPart
from camrobust.contract.run_files import numbered
from camrobust.contract.run_record import CombinedRecord
from camrobust.contract.schema import MAPS, SUMMARIES, summary_columns
from camrobust.contract.sharding import SHARDS
from camrobust.io.objects import MissingObjectError
from camrobust.io.parquet_budget import Budget
from camrobust.report.page import Report, build_report
from camrobust.report.paper import printed
from camrobust.report.pooled import pooled_sentences
from camrobust.report.reading import checked
from camrobust.results.arrow import empty_frame
from camrobust.results.counted import Committed
from camrobust.results.documents import read_record
from camrobust.results.environment import utc
from camrobust.results.folder import TOGETHER, RunFolder
from camrobust.results.progress import in_all, read_progress
from camrobust.results.reduce import combined_record, reduce_runs
from camrobust.results.run_yaml import saved_configuration
from camrobust.results.tables import read_frame
from camrobust.run.report_elsewhere import check_replaced, write_page, write_pdf


def times(folder: RunFolder, seconds: Mapping[str, float]) -> TimesPart:
    """How long measuring took, over all attempts, and the seconds of each step after it."""
    attempts = [attempt for one in folder.folders for attempt, _ in read_progress(one.store)]
    # Each attempt keeps to the bounds of a record; their sum need not, where somebody else wrote them.
    return TimesPart(
        attempts=len(attempts),
        seconds={"measure": min(round(sum(attempt.seconds for attempt in attempts), 1), MAX_AMOUNT), **seconds},
        stages={
            name: StageRecord(
                images=min(stage.images, MAX_AMOUNT),
                busy_s=min(stage.busy_s, MAX_AMOUNT),
                busy=min(stage.busy, MAX_NUMBER),
            )
            for name, stage in list(in_all(attempts).items())[:MOST_STAGES]
        },
    )


def aggregate(
    folder: RunFolder, intervals: str | None = None, number: int | None = None, only: str | None = None
) -> dict[str, pl.DataFrame]:
    """Reduce a run's scores to its summary tables and write them as parquet and csv.

    Args:
        folder: of the run.
        intervals: delta or bootstrap; None for the configured kind.
        number: of the lease that the tables belong to; None for the newest.
        only: correct or all; None for the configured kind.

    Raises:
        UserError: the folder holds no run, or the run has no scores.
    """
    place = numbered("summary", folder.generation() if number is None else number)
    return _written(folder, reduce_runs([folder], intervals, only=only), place)


def combine(
    folders: Sequence[RunFolder], output: RunFolder, intervals: str | None = None, strengths: str = "common",
    only: str | None = None,
) -> tuple[dict[str, pl.DataFrame], list[str]]:  # fmt: skip
    """Reduce several runs to one set of summary tables and one report, in a folder of their own.

    Returns:
        The tables, and what the runs have not in common, in sentences.

    Raises:
        UserError: the runs cannot be combined, or the output holds a run.
    """
    if output.holds("run.json") or output.holds(SHARDS):
        raise UserError(f"aggregate: {output.uri} holds a run; choose another --output")
    if read_record(output.store, "combined.json", CombinedRecord) is None:
        output.check_ours()
    output.check_links()
    record = combined_record({folder.uri: folder.run() for folder in folders}, utc(), strengths)
    tables = _written(output, reduce_runs(folders, intervals, strengths, only), "summary/")
    output.store.write("combined.json", content_of(record, defaults=True, indent=2))
    parts = [(folder, folder.committed()) for folder in folders]
    images, failures = (
        pl.concat([folder.table(name, held) for folder, held in parts]) for name in ("images", "failures")
    )
    images = images.unique(["dataset", "image_id"], keep="first", maintain_order=True)
    drawn = build_report(
        record, tables, pl.LazyFrame(), images, failures, empty_frame(MAPS), name=name_of(output), drawn=record.finished
    )
    _draw(output, drawn, "report/")
    return tables, pooled_sentences(record)


def name_of(folder: RunFolder) -> str:
    """What a run is called: the last part of its address."""
    return folder.uri.rstrip("/").rpartition("/")[2]


def _draw(folder: RunFolder, drawn: Report, place: str) -> str:
    for name, content in drawn.files():
        folder.store.write(f"{place}{name}", content)
    return folder.store.locate(f"{place}index.html")


def _written(folder: RunFolder, tables: dict[str, pl.DataFrame], place: str) -> dict[str, pl.DataFrame]:
    for name, table in tables.items():
        folder.write_csv(f"{place}{name}.csv", table)
    folder.write_together({f"{place}{name}.parquet": table for name, table in tables.items()})
    return tables


def summaries(folder: RunFolder, number: int | None = None) -> dict[str, pl.DataFrame]:
    """The summary tables that were written under a lease; None for the newest.

    Raises:
        UserError: there are none, or they were not written together.
    """
    record = folder.record()  # None in the folder of several runs together
    certified = ("certificates",) if record is not None and record.config.certify else ()
    names = (*SUMMARIES, "tests", "characteristics", *certified)
    place, budget = numbered("summary", folder.generation() if number is None else number), Budget()
    try:
        found = {
            name: read_frame(folder.store, f"{place}{name}.parquet", summary_columns(name), budget) for name in names
        }
    except MissingObjectError as error:
        raise UserError(f"report: {error}; run camrobust aggregate {shell_word(folder.uri)} first") from error
    if len({metadata.get(TOGETHER.encode()) for _, metadata in found.values()}) > 1:
        raise UserError(
            f"report: only some of the tables in {folder.store.locate(place)} were written again; run camrobust "
            f"aggregate {shell_word(folder.uri)} first"
        )
    return {
        name: checked(name, table, folder.store.locate(f"{place}{name}.parquet")) for name, (table, _) in found.items()
    }


def _masked(folder: RunFolder, committed: Committed) -> pl.DataFrame | None:
    """The rows of certificates of the gallery's images; None if the run has no certificates."""
    keys, budget = committed.tables("certificates"), Budget()
    tables = (read_frame(folder.store, key, CERTIFICATES, budget)[0].drop_nulls("membership") for key in keys)
    return pl.concat(tables) if keys else None


def report(folder: RunFolder, number: int | None = None) -> str:
    """Draw the page and its figures from the summary tables of a lease; None for the newest.

    Returns:
        The address of the page.
    """
    number = folder.generation() if number is None else number
    return _draw(folder, drawn_report(folder, number), numbered("report", number))


def drawn_report(folder: RunFolder, number: int | None = None) -> Report:
    """The page and its figures from the summary tables of a lease; None for the newest. Nothing is written."""
    number = folder.generation() if number is None else number
    committed = folder.committed()
    maps = folder.table("maps", committed)
    return build_report(
        folder.run(),
        summaries(folder, number),
        folder.scores(committed, maps.select("dataset", "image_id").unique()).lazy(),
        folder.table("images", committed),
        folder.table("failures", committed),
        maps,
        certificates=_masked(folder, committed),
        name=name_of(folder),
        saved=saved_configuration(folder.store),
        drawn=utc(),
        times=times(folder, {}),
    )


def report_pdf(folder: RunFolder) -> str:
    """Print the page into the run folder, beside itself.

    Returns:
        The address of the PDF.
    """
    number = folder.generation()
    key = f"{numbered('report', number)}report.pdf"
    folder.store.write(key, printed(drawn_report(folder, number).page))
    return folder.store.locate(key)


def report_to(folder: RunFolder, output: Path, form: str) -> str:
    """Write a report of a run elsewhere on this machine.

    Args:
        folder: of the run.
        output: a folder, or a file that ends in .html or .pdf; the figures of a page lie in figures/ beside it.
        form: "html" or "pdf".

    Returns:
        The path of the page or the PDF.

    Raises:
        UserError: it cannot be written, or a file that camrobust did not write would be replaced.
    """
    named = output.suffix.lower() == f".{form}" and not is_folder(output)
    name = output if named else output / ("index.html" if form == "html" else "report.pdf")
    try:
        check_replaced(name)
        name.parent.mkdir(parents=True, exist_ok=True)
        drawn = drawn_report(folder)
        if form == "pdf":
            write_pdf(name, printed(drawn.page))
            return str(name)
        write_page(name, drawn.files())
    except OSError as error:
        raise UserError(
            f"report: {short(str(name))} cannot be written ({error.strerror}); choose another --output"
        ) from error
    return str(name)
