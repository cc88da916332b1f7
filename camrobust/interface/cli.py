"""The command line.

Exit codes: 0 ok, 1 the run is incomplete, a check failed or something happened that nobody foresaw, 2 the user's
mistake; one line says which.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from camrobust.contract.defaults import CROP, RESIZE
from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, harmless
from camrobust.contract.secrecy import sentence
from camrobust.interface.bench import add_benchmarks
from camrobust.interface.command_line import Parser, positive, print_json

MOST = 4000
"""Characters of a message; what it quotes is shorter, so that only libraries reach it."""
Arguments = argparse.Namespace
BENCH = "speed, scale, and what survives faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    verbose = False
    try:
        given = _parser().parse_args(arguments)
        verbose = given.verbose
        # A model's own module, named by the configuration, may lie where the command was called; last, to hide nothing.
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        command: Callable[[Arguments], int] = given.command
        return command(given)
    except UserError as error:
        _error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _error("interrupted; run the same command again to resume")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - also what Rust's libraries raise, which is no Exception
        if verbose:
            sys.stderr.writelines(f"{harmless(sentence(line))}\n" for line in _traced(error))
        _error(_unforeseen(error))
        return 1


def _unforeseen(error: BaseException) -> str:
    """A sentence for what no other place has turned into one."""
    if isinstance(error, MemoryError):
        return "this machine's memory is not enough; measure less at once, or look whether the files given are sound"
    if isinstance(error, RecursionError):
        return "something is nested too deep to be read; look whether the files given are sound"
    return (
        f"stopped by {type(error).__name__}: {first_line(error)}; if the files given are sound, this is a mistake of "
        "camrobust: please report it with what --verbose shows"
    )


def _traced(error: BaseException) -> list[str]:
    return [line for part in traceback.format_exception(error) for line in part.splitlines()]


def _error(message: str) -> None:
    sys.stderr.write(f"camrobust: {harmless(sentence(' '.join(message[:MOST].split())))}\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="camrobust", description="How robust are class activation maps to noise?")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, command: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        one.add_argument("--verbose", action="store_true", help="show tracebacks, and of a run what Ray prints")
        return one

    def add_json(one: argparse.ArgumentParser) -> None:
        one.add_argument("--json", action="store_true", help="print data instead of text")

    def add_config(one: argparse.ArgumentParser) -> None:
        one.add_argument("config", help="YAML file, see jobs/configs")
        one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, in YAML")
        one.add_argument("--output", help="override the output folder")

    def add_running(one: argparse.ArgumentParser) -> None:
        one.add_argument("--address", default="local", help="local, auto, or the address of a Ray cluster")
        one.add_argument("--quiet", action="store_true", help="show no progress")

    one = add("run", _run, "measure, verify, aggregate and report; resumes what is there")
    add_config(one)
    add_running(one)
    one.add_argument("--fresh", action="store_true", help="start in a new folder beside an existing run")
    one.add_argument("--retry-failures", action="store_true", help="measure the images again that failed before")
    add_json(one)
    one = add("demo", _demo, "a small real run on photos and weights from installed packages")
    one.add_argument("--output", default="demo-run", help="folder for its results")
    add_running(one)
    add_json(one)
    one = add("plan", _plan, "count and estimate a run; spends nothing")
    add_config(one)
    one.add_argument(
        "--forwards-per-s", type=positive(float), help="forward passes per second and worker; default: measured here"
    )
    one.add_argument("--workers", type=positive(int), default=1, help="Explain workers to divide the time by")
    one.add_argument("--images", type=positive(int), help="take so many images as given; default: list them")
    one.add_argument("--dollars-per-hour", type=positive(float), help="price of one Explain worker, such as a spot GPU")
    add_json(one)
    for name, command, text in (
        ("status", _status, "how far a run is, running or stopped"),
        ("verify", _verify, "is every planned row there exactly once, or its image named in failures?"),
        ("report", _report, "draw the page and its figures"),
    ):
        one = add(name, command, text)
        one.add_argument("run", help="output folder of a run")
        add_json(one)
    one = add("aggregate", _aggregate, "reduce the scores of a run, or of runs that measured alike, to summary tables")
    one.add_argument("runs", nargs="+", metavar="RUN", help="output folders of runs")
    one.add_argument("--output", help="folder for the tables of several runs")
    one.add_argument("--intervals", choices=("delta", "bootstrap"), help="default: as the run was configured")
    add_json(one)
    one = add("compare", _compare, "what changed from one run to another: scores with intervals and tests, settings")
    one.add_argument("first", help="output folder of a run")
    one.add_argument("second", help="output folder of another")
    one.add_argument("--by", choices=("perturbation",), help="each alone; default: all together")
    one.add_argument("--raw", action="store_true", help="also the measures that are not adjusted for chance")
    one.add_argument("--exact", action="store_true", help="are all rows equal bit for bit? exit code 1 if not")
    add_json(one)
    one = add("watch-spot", _watch_spot, "drain this machine's Ray node when the cloud announces to take it back")
    one.add_argument("--metadata", default="http://169.254.169.254", help="base address of the metadata service")
    one.add_argument("--interval", type=float, default=5.0, help="seconds between two questions")
    one.add_argument("--node-id", help="of the Ray node; default: the one on this machine")
    one.add_argument("--address", help="of the cluster, with --node-id")
    one = add("list", _list, "what the registries hold")
    one.add_argument("kind", choices=("cams", "perturbations", "similarities", "segments", "models"))
    add_json(one)
    one = add("explain", _explain, "a picture of CAMs, and how they move under noise, for one photo")
    one.add_argument("image", help="an image file")
    one.add_argument("--model", required=True, help="torchvision:NAME[@WEIGHTS], timm:NAME or package.module:function")
    one.add_argument("--weights", help=".safetensors or .pth file")
    one.add_argument("--target-layer", help="dotted name of a submodule")
    one.add_argument("--mean", type=float, nargs=3, help="of the normalisation; default: the builder's")
    one.add_argument("--std", type=float, nargs=3, help="of the normalisation; default: the builder's")
    one.add_argument("--resize", type=int, default=RESIZE, help="shorter side after resizing, px")
    one.add_argument("--crop", type=int, default=CROP, help="side of the centre crop, px")
    one.add_argument("--classes", help="names of its classes: imagenet, or a text file with one per line")
    one.add_argument("--cam", action="append", required=True, help="name of a CAM; may be repeated")
    one.add_argument("--perturb", nargs="*", default=[], metavar="NAME:LEVEL", help="perturbations to compare with")
    one.add_argument("--output", default="explain.png", help="picture to write")
    one = add("sheet", _sheet, "a picture of perturbations at their five severities on one photo")
    one.add_argument("image", help="an image file")
    one.add_argument("--perturb", nargs="*", metavar="NAME", help="which; default: all that need no model")
    one.add_argument("--seed", type=int, default=0, help="of every random draw")
    one.add_argument(
        "--resave-jpeg-quality",
        type=int,
        metavar="QUALITY",
        help="quality of a JPEG file that images go through; ImageNet-C has 85",
    )
    one.add_argument("--cell", type=int, default=160, help="side of one picture, px")
    one.add_argument("--output", default="sheet.png", help="picture to write")
    add_benchmarks(commands.add_parser("bench", help=BENCH, description=BENCH))
    return parser


def _run(given: Arguments) -> int:
    from camrobust.contract.config import load_config

    return _carry_out(
        load_config(given.config, given.set, given.output), given, fresh=given.fresh, retry=given.retry_failures
    )


def _demo(given: Arguments) -> int:
    from camrobust.interface.demo import demo_config

    return _carry_out(demo_config(given.output), given, fresh=False, retry=False)


def _terminate(*_: object) -> NoReturn:
    """A scheduler's SIGTERM ends a run as Ctrl-C does: the lease is given back, what is committed stays."""
    raise KeyboardInterrupt


def _carry_out(config: Any, given: Arguments, *, fresh: bool, retry: bool) -> int:
    from camrobust.interface.terminal import Meter, say
    from camrobust.run import workflow

    signal.signal(signal.SIGTERM, _terminate)
    quiet = given.quiet or given.json
    with Meter(quiet=quiet) as meter:
        outcome = workflow.run(
            config,
            address=given.address,
            fresh=fresh,
            retry_failures=retry,
            verbose=given.verbose,
            say=(lambda _: None) if quiet else say,
            progress=meter,
        )
    if given.json:
        print_json({"output": outcome.folder.uri, "measured": outcome.measured, **outcome.verdict.as_dict()})
        return outcome.exit_code
    _show_verdict(outcome.verdict, outcome.folder.uri)
    if outcome.verdict.complete and outcome.verdict.score_rows:
        _show_leaderboard(workflow.summaries(outcome.folder)["by_cam"])
        say(f"report: {outcome.folder.store.locate(outcome.folder.place('report') + 'index.html')}")
    if outcome.too_many_failures:
        share = f"{outcome.verdict.failure_share:.1%}"
        say(
            f"{share} of the images failed, more than max_failure_share ({config.max_failure_share:.1%}); see "
            "failures/, correct the cause, and run with --retry-failures"
        )
    return outcome.exit_code


def _show_verdict(verdict: Any, uri: str) -> None:
    from camrobust.interface.terminal import say

    failed = f", {verdict.failed_images} images failed" if verdict.failed_images else ""
    if verdict.complete:
        say(f"complete: {verdict.score_rows:,} of {verdict.planned_rows:,} rows scored{failed} ({uri})")
        return
    say(
        f"incomplete: {verdict.score_rows:,} of {verdict.planned_rows:,} rows, {verdict.missing} image-model pairs "
        f"missing, {verdict.surplus} surplus{failed}; for example {', '.join(verdict.examples)} ({uri})"
    )


def _show_leaderboard(by_cam: Any) -> None:
    from camrobust.contract.schema import ADJUSTED
    from camrobust.interface.terminal import show_table

    columns = ["dataset", "model", "cam", "robustness_adjusted", "consistency_adjusted", "responsiveness_adjusted",
               "robustness", "flip_rate", "flat_share", "n_images"]  # fmt: skip
    titles = ["dataset", "model", "CAM", "RM adj.", "cons. adj.", "resp. adj.", "RM raw", "flips", "flat", "images"]
    best = by_cam.sort("robustness_adjusted", descending=True, nulls_last=True)
    show_table(f"Robustness of the maps (adjusted: {ADJUSTED})", titles, best.select(columns).rows())


def _plan(given: Arguments) -> int:
    from camrobust.contract.config import load_config
    from camrobust.interface.terminal import show_table
    from camrobust.results.folder import open_run
    from camrobust.run.estimate import estimate

    config = load_config(given.config, given.set, given.output)
    folder = open_run(config.output)
    rows = estimate(config, given.forwards_per_s, given.workers, given.images, given.dollars_per_hour)
    if not folder.holds("run.json"):
        folder.check_ours()
    if given.json:
        print_json(rows)
    else:
        show_table("Plan", ["what", "amount"], [(name.replace("_", " "), value) for name, value in rows.items()])
    return 0


def _status(given: Arguments) -> int:
    from camrobust.interface.terminal import say, show_table
    from camrobust.results.folder import open_run
    from camrobust.results.status import status

    found = status(open_run(given.run))
    if given.json:
        print_json(found.as_dict())
        return 0
    say(found.sentence)
    updated = "" if found.updated is None else f", last written down {found.updated}"
    uncounted = f"{found.uncounted} files that no commit counts"
    say(f"{found.failures} failure rows, {uncounted}, {found.attempts} attempts{updated}")
    seconds = 0.0 if found.latest is None else found.latest.seconds
    rows = [
        (name, stage.images, stage.busy_s, stage.images / stage.busy_s if stage.busy_s else None, stage.busy)
        for name, stage in found.stages.items()
    ]
    titles = ["stage", "images", "busy s", "images per busy s", "busy now"]
    show_table(f"Stages, all attempts (the last one: {seconds:.0f} s)", titles, rows)
    return 0


def _verify(given: Arguments) -> int:
    from camrobust.results.folder import open_run
    from camrobust.results.verify import verify

    folder = open_run(given.run)
    verdict = verify(folder)
    if given.json:
        print_json(verdict.as_dict())
    else:
        _show_verdict(verdict, folder.uri)
    return 0 if verdict.complete else 1


def _watch_spot(given: Arguments) -> int:
    from camrobust.interface.terminal import say
    from camrobust.run.spot import watch

    if (given.node_id is None) != (given.address is None):
        raise UserError("watch-spot: --node-id and --address belong together; give both or neither")
    watch(given.metadata, given.interval, say, (given.node_id, given.address) if given.node_id else None)
    return 0


def _aggregate(given: Arguments) -> int:
    from camrobust.results.folder import open_run
    from camrobust.results.verify import verify
    from camrobust.run import workflow

    if (len(given.runs) > 1) != (given.output is not None):
        raise UserError("aggregate: several runs need --output, a folder for their tables; one run keeps its own")
    folders = [open_run(uri) for uri in given.runs]
    for folder in folders:
        verdict = verify(folder)
        if not verdict.complete:
            _show_verdict(verdict, folder.uri)
            return 1
    if given.output is None:
        tables = workflow.aggregate(folders[0], given.intervals)
    else:
        tables = workflow.combine(folders, open_run(given.output), given.intervals)
    if given.json:
        print_json({name: table.to_dicts() for name, table in tables.items()})
    else:
        _show_leaderboard(tables["by_cam"])
    return 0


def _compare(given: Arguments) -> int:
    from camrobust.interface.terminal import say, show_table
    from camrobust.results.compare import compare_runs
    from camrobust.results.folder import open_run

    if given.exact:
        return _compare_exactly(given)
    found = compare_runs(open_run(given.first), open_run(given.second), by=given.by, raw=given.raw)
    if given.json:
        print_json(found.as_dict())
        return 0
    alone = (given.by,) if given.by else ()
    columns = ("dataset", "model", "cam", *alone, "first", "second", "difference", "difference_lower",
               "difference_upper", "effect", "p_corrected", "n_images")  # fmt: skip
    titles = ("dataset", "model", "CAM", *alone, "first", "second", "difference", "lower", "upper", "r", "p (Holm)",
              "images")  # fmt: skip
    for (measure,), rows in found.table.group_by("measure", maintain_order=True):
        show_table(f"{measure}: second minus first", titles, rows.select(columns).rows())
    for line in found.lines():
        say(line)
    return 0


def _compare_exactly(given: Arguments) -> int:
    from camrobust.interface.terminal import say
    from camrobust.results.exact import compare_exactly
    from camrobust.results.folder import open_run

    if given.by or given.raw:
        raise UserError("compare: --exact compares rows, so --by and --raw say nothing; leave them out")
    comparison = compare_exactly(open_run(given.first), open_run(given.second))
    if given.json:
        print_json(comparison.as_dict())
    else:
        for line in comparison.lines():
            say(line)
    return 0 if comparison.is_equal else 1


def _report(given: Arguments) -> int:
    from camrobust.results.folder import open_run
    from camrobust.run import workflow

    address = workflow.report(open_run(given.run))
    if given.json:
        print_json({"report": address})
    else:
        sys.stdout.write(f"{harmless(address)}\n")
    return 0


def _list(given: Arguments) -> int:
    from camrobust.interface.listing import catalogue
    from camrobust.interface.terminal import show_table

    rows = catalogue(given.kind)
    if given.json:
        print_json(rows)
    else:
        show_table(given.kind, list(rows[0]), [list(row.values()) for row in rows])
    return 0


def _explain(given: Arguments) -> int:
    from camrobust.interface.explain_grid import explain_picture

    explain_picture(
        given.image, given.output, model=given.model, weights=given.weights, target_layer=given.target_layer,
        mean=given.mean and tuple(given.mean), std=given.std and tuple(given.std), resize=given.resize, crop=given.crop,
        classes=given.classes, cams=given.cam, perturbations=given.perturb,
    )  # fmt: skip
    sys.stdout.write(f"{harmless(given.output)}\n")
    return 0


def _sheet(given: Arguments) -> int:
    from camrobust.interface.contact_sheet import installed, sheet
    from camrobust.interface.terminal import say

    names = given.perturb
    if names is None:
        names, missing = installed()
        for reason in missing:
            say(f"left out: {reason}")
    sheet(
        given.image, given.output, perturbations=names, seed=given.seed, jpeg=given.resave_jpeg_quality, cell=given.cell
    )
    sys.stdout.write(f"{harmless(given.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
