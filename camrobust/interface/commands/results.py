"""The commands that read the folders of runs: status, verify, report, aggregate, compare."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless, short
from camrobust.interface.command_line import Given, print_json

if TYPE_CHECKING:
    from camrobust.results.folder import RunFolder
    from camrobust.results.verify import Completeness


def status(given: Given) -> int:
    """`camrobust status`."""
    from camrobust.contract.units import counted, duration
    from camrobust.interface.terminal import say, show_table
    from camrobust.results.folder import open_run
    from camrobust.results.shards import sharded
    from camrobust.results.status import status as read_status

    folder = open_run(given.run)
    whole = sharded(folder)
    if whole is not None:
        return _status_of_shards(folder, whole.shards, given)
    state = read_status(folder)
    if given.json:
        print_json(state.as_dict())
        return 0
    say(state.sentence)
    updated = "" if state.updated is None else f", last recorded {state.updated}"
    counts = ((state.failures, "failure row"), (state.uncounted, "uncounted file"), (state.attempts, "attempt"))
    say(", ".join(counted(count, thing) for count, thing in counts) + updated)
    seconds = 0.0 if state.latest is None else state.latest.seconds
    rows = [
        (name, f"{stage.images:,.0f}", duration(stage.busy_s),
         duration(stage.busy_s / stage.images) if stage.images else None, stage.busy)
        for name, stage in state.stages.items()
    ]  # fmt: skip
    titles = ["stage", "images", "worked for", "per image", "busy workers"]
    show_table(f"Stages over all attempts (the last one took {duration(seconds)})", titles, rows)
    return 0


def _status_of_shards(output: "RunFolder", shards: int, given: Given) -> int:
    """One line per shard, begun or not."""
    from camrobust.interface.terminal import say
    from camrobust.results.status import status_of_shards

    states = status_of_shards(output, shards)
    if given.json:
        print_json({str(shard): None if state is None else state.as_dict() for shard, state in states.items()})
        return 0
    for shard, state in states.items():
        begin = f"not begun; run the same configuration with --shard {shard}"
        say(f"shard {shard}: {begin if state is None else state.sentence}")
    return 0


def verify(given: Given) -> int:
    """`camrobust verify`."""
    from camrobust.interface.terminal import show_completeness
    from camrobust.results.shards import open_results

    folder = open_results(given.run)
    completeness = _verified(folder, quiet=given.json)
    if given.json:
        print_json(completeness.as_dict())
    else:
        show_completeness(completeness, folder.uri)
    return 0 if completeness.complete else 1


def _verified(folder: "RunFolder", *, quiet: bool) -> "Completeness":
    """The completeness of a run; unless quiet, it names every shard that is incomplete."""
    from camrobust.interface.terminal import show_completeness
    from camrobust.results.verify import in_all
    from camrobust.results.verify import verify as check

    parts = {one.uri: check(one) for one in folder.folders}
    for uri, completeness in parts.items():
        if not quiet and uri != folder.uri and not completeness.complete:
            show_completeness(completeness, uri)
    return in_all([*parts.values()])


def report(given: Given) -> int:
    """`camrobust report`."""
    from camrobust.results.shards import open_results
    from camrobust.run import summarise

    form = _form(given)
    folder = open_results(given.run)
    if given.output is not None:
        address = summarise.report_to(folder, Path(given.output), form)
    else:
        address = summarise.report_pdf(folder) if form == "pdf" else summarise.report(folder)
    if given.json:
        print_json({"report": address})
    else:
        sys.stdout.write(f"{harmless(address)}\n")
    if given.open:
        _open(address)
    return 0


def _form(given: Given) -> str:
    """Html or pdf: as asked for, else as the output's name says.

    Raises:
        UserError: the two disagree, the output cannot be written, or a PDF has no browser that prints it.
    """
    from camrobust.contract.paths import is_folder
    from camrobust.interface.outputs import check_folder, is_remote
    from camrobust.report.paper import needed_browser

    if given.output is not None and is_remote(given.output):
        raise UserError("report: --output must be a folder or a file of this machine, not an address of a store")
    path = Path(given.output or "")
    ending = "" if is_folder(path) else path.suffix.removeprefix(".").lower()
    form: str = given.format or (ending if ending in ("html", "pdf") else "html")
    if ending in ("html", "pdf") and ending != form:
        raise UserError(f"report: --output ends in .{ending}, but --format is {form}; give one of the two")
    if form == "pdf":
        needed_browser()
    if given.output is None:
        check_folder(given.run, "report")
    else:
        check_folder(str(path.parent if ending in ("html", "pdf") else path), "report")
    return form


def _open(address: str) -> None:
    """Show a file in the user's browser."""
    import webbrowser

    if "://" in address or not webbrowser.open(Path(address).resolve().as_uri()):
        raise UserError(f"report: {short(address)} was written, but no browser could be started to show it")


def aggregate(given: Given) -> int:
    """`camrobust aggregate`."""
    from camrobust.interface.leaderboard import show_leaderboard
    from camrobust.interface.outputs import check_folder
    from camrobust.interface.terminal import say, show_completeness
    from camrobust.results.folder import open_run
    from camrobust.results.shards import open_results
    from camrobust.run import summarise

    if (len(given.runs) > 1) != (given.output is not None):
        raise UserError("aggregate: several runs need --output, a folder for their tables; one run keeps its own")
    own = "" if given.output else "its tables belong in the run: correct the permissions, or copy it"
    check_folder(given.output or given.runs[0], "aggregate", remedy=own)
    folders = [open_results(uri) for uri in given.runs]
    for folder in folders:
        completeness = _verified(folder, quiet=False)
        if not completeness.complete:
            show_completeness(completeness, folder.uri)
            return 1
    if given.output is None:
        tables = summarise.aggregate(folders[0], given.intervals, only=given.only)
    else:
        output = open_run(given.output)
        tables, left_out = summarise.combine(folders, output, given.intervals, given.strengths, given.only)
        for line in left_out:
            say(line)
    if given.json:
        print_json({name: table.to_dicts() for name, table in tables.items()})
    else:
        first = folders[0].run()
        show_leaderboard(tables["by_cam"], first.same_as if len(folders) == 1 else {}, first.controls)
    return 0


def compare(given: Given) -> int:
    """`camrobust compare`."""
    from camrobust.interface.differences import show_differences
    from camrobust.interface.terminal import say
    from camrobust.results.compare import compare_runs
    from camrobust.results.shards import open_results

    if given.exact:
        return _compare_exactly(given)
    changes = compare_runs(
        open_results(given.first), open_results(given.second), by=given.by, raw=given.raw, pairs=given.map
    )
    if given.json:
        print_json(changes.as_dict())
        return 0
    show_differences(changes.table, given.by)
    for line in changes.lines():
        say(line)
    return 0


def _compare_exactly(given: Given) -> int:
    from camrobust.interface.terminal import say
    from camrobust.results.exact import compare_exactly
    from camrobust.results.shards import open_results

    if given.by or given.raw or given.map:
        raise UserError("compare: --exact compares rows, so --by, --raw and --map have no meaning; leave them out")
    comparison = compare_exactly(open_results(given.first), open_results(given.second))
    if given.json:
        print_json(comparison.as_dict())
    else:
        for line in comparison.lines():
            say(line)
    return 0 if comparison.is_equal else 1
