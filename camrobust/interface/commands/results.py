"""The commands that read the folders of runs: status, verify, report, aggregate, compare."""

import sys

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless
from camrobust.interface.command_line import Given, print_json


def status(given: Given) -> int:
    """`camrobust status`."""
    from camrobust.interface.terminal import say, show_table
    from camrobust.results.folder import open_run
    from camrobust.results.status import status as read_status

    state = read_status(open_run(given.run))
    if given.json:
        print_json(state.as_dict())
        return 0
    say(state.sentence)
    updated = "" if state.updated is None else f", last recorded {state.updated}"
    say(f"{state.failures} failure rows, {state.uncounted} uncounted files, {state.attempts} attempts{updated}")
    seconds = 0.0 if state.latest is None else state.latest.seconds
    rows = [
        (name, stage.images, stage.busy_s, stage.images / stage.busy_s if stage.busy_s else None, stage.busy)
        for name, stage in state.stages.items()
    ]
    titles = ["stage", "images", "busy s", "images per busy s", "busy now"]
    show_table(f"Stages over all attempts (the last one took {seconds:.0f} s)", titles, rows)
    return 0


def verify(given: Given) -> int:
    """`camrobust verify`."""
    from camrobust.interface.terminal import show_completeness
    from camrobust.results.folder import open_run
    from camrobust.results.verify import verify as check

    folder = open_run(given.run)
    completeness = check(folder)
    if given.json:
        print_json(completeness.as_dict())
    else:
        show_completeness(completeness, folder.uri)
    return 0 if completeness.complete else 1


def report(given: Given) -> int:
    """`camrobust report`."""
    from camrobust.results.folder import open_run
    from camrobust.run import summarise

    address = summarise.report(open_run(given.run))
    if given.json:
        print_json({"report": address})
    else:
        sys.stdout.write(f"{harmless(address)}\n")
    return 0


def aggregate(given: Given) -> int:
    """`camrobust aggregate`."""
    from camrobust.interface.terminal import show_completeness, show_leaderboard
    from camrobust.results.folder import open_run
    from camrobust.results.verify import verify as check
    from camrobust.run import summarise

    if (len(given.runs) > 1) != (given.output is not None):
        raise UserError("aggregate: several runs need --output, a folder for their tables; one run keeps its own")
    folders = [open_run(uri) for uri in given.runs]
    for folder in folders:
        completeness = check(folder)
        if not completeness.complete:
            show_completeness(completeness, folder.uri)
            return 1
    if given.output is None:
        tables = summarise.aggregate(folders[0], given.intervals)
    else:
        tables = summarise.combine(folders, open_run(given.output), given.intervals)
    if given.json:
        print_json({name: table.to_dicts() for name, table in tables.items()})
    else:
        show_leaderboard(tables["by_cam"])
    return 0


def compare(given: Given) -> int:
    """`camrobust compare`."""
    from camrobust.interface.terminal import say, show_table
    from camrobust.results.compare import compare_runs
    from camrobust.results.folder import open_run

    if given.exact:
        return _compare_exactly(given)
    changes = compare_runs(open_run(given.first), open_run(given.second), by=given.by, raw=given.raw)
    if given.json:
        print_json(changes.as_dict())
        return 0
    alone = (given.by,) if given.by else ()
    columns = ("dataset", "model", "cam", *alone, "first", "second", "difference", "difference_lower",
               "difference_upper", "effect", "p_corrected", "n_images")  # fmt: skip
    titles = ("dataset", "model", "CAM", *alone, "first", "second", "difference", "lower", "upper", "r", "p (Holm)",
              "images")  # fmt: skip
    for (measure,), rows in changes.table.group_by("measure", maintain_order=True):
        show_table(f"{measure}: second minus first", titles, rows.select(columns).rows())
    for line in changes.lines():
        say(line)
    return 0


def _compare_exactly(given: Given) -> int:
    from camrobust.interface.terminal import say
    from camrobust.results.exact import compare_exactly
    from camrobust.results.folder import open_run

    if given.by or given.raw:
        raise UserError("compare: --exact compares rows, so --by and --raw have no meaning; leave them out")
    comparison = compare_exactly(open_run(given.first), open_run(given.second))
    if given.json:
        print_json(comparison.as_dict())
    else:
        for line in comparison.lines():
            say(line)
    return 0 if comparison.is_equal else 1
