"""`camrobust bench WHAT`: speed against a plain forward pass and the peers, scale, and what survives faults.

Each benchmark is one row of `BENCHMARKS`, with the options that it takes and no others.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camrobust.contract.defaults import PRECISIONS
from camrobust.interface.command_line import Parser, positive, print_json

Arguments = argparse.Namespace
Option = tuple[str, dict[str, Any]]

DEVICE: Option = ("--device", {"choices": ("cpu", "cuda"), "default": "cpu", "help": "where the models run"})
REPEATS: Option = ("--repeats", {"type": positive(int), "default": 15, "help": "interleaved repetitions"})
PRECISION: Option = ("--precision", {"choices": PRECISIONS, "default": PRECISIONS[0], "help": "of the layers"})
PEERS: Option = ("--peers", {"action": "store_true", "help": "also the same by imagecorruptions"})
IMAGES: Option = ("--images", {"type": positive(int), "default": 1000, "help": "how many", "metavar": "N"})
SEED: Option = ("--seed", {"type": int, "default": 0, "help": "of what is drawn"})


def _count(what: str) -> Option:
    return "count", {"type": positive(int), "metavar": "N", "help": what}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the command line.

    Attributes:
        command: takes the arguments, returns the exit code.
        help: one line.
        options: those it takes, beside --json and --verbose.
    """

    command: Callable[[Arguments], int]
    help: str
    options: tuple[Option, ...] = ()


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `camrobust bench` one subcommand per benchmark."""
    commands = parser.add_subparsers(required=True, metavar="WHAT", parser_class=Parser)
    for name, benchmark in BENCHMARKS.items():
        one = commands.add_parser(name, help=benchmark.help, description=benchmark.help)
        one.set_defaults(command=benchmark.command)
        one.add_argument("--verbose", action="store_true", help="show tracebacks")
        for option, keywords in benchmark.options:
            one.add_argument(option, **keywords)
        one.add_argument("--json", action="store_true", help="print data instead of text")


def _show(given: Arguments, title: str, rows: Sequence[Mapping[str, Any]]) -> int:
    from camrobust.interface.terminal import show_table

    if given.json:
        print_json(rows)
    else:
        columns = list(rows[0])
        show_table(title, [name.replace("_", " ") for name in columns], [[*map(row.get, columns)] for row in rows])
    return 0


def _speed(given: Arguments, *, peers: bool) -> int:
    from camrobust.bench.speed.passes import bench, show

    results = bench(given.device, peers=peers, repeats=given.repeats, precision=given.precision)
    if given.json:
        print_json(results)
    else:
        show(results)
    return 0


def _passes(given: Arguments) -> int:
    return _speed(given, peers=False)


def _peers(given: Arguments) -> int:
    return _speed(given, peers=True)


def _perturbations(given: Arguments) -> int:
    from camrobust.bench.speed.perturbing import BATCH, perturbing

    rows = perturbing(given.device, given.repeats, peers=given.peers)
    return _show(given, f"Severities 1 to 5 of one 224 px image, batch {BATCH[given.device]}", rows)


def _formats(given: Arguments) -> int:
    from camrobust.bench.speed.formats import formats

    return _show(given, "Milliseconds of one batch, plain forward", formats(given.device, given.repeats))


def _zoo(given: Arguments) -> int:
    from camrobust.bench.speed.zoo import zoo
    from camrobust.interface.terminal import say

    rows = zoo(say=(lambda _: None) if given.json else say)
    _show(given, f"{len(rows)} architectures", rows)
    return 0 if all(row["verdict"] == "ok" for row in rows) else 1


def _overhead(given: Arguments) -> int:
    from camrobust.bench.scale.overhead import overhead
    from camrobust.interface.terminal import say

    return _show(given, f"{given.count} images, 15 variants, resnet18, 4 CAMs", overhead(given.count, say))


def _scale(given: Arguments) -> int:
    from camrobust.bench.scale.images import scale
    from camrobust.interface.terminal import say

    return _show(given, f"{given.count:,} images", scale(given.count, say))


def _rows(given: Arguments) -> int:
    from camrobust.bench.scale.rows import volume
    from camrobust.interface.terminal import say

    return _show(given, f"{given.count:,} score rows", volume(given.count, say))


def _chaos(given: Arguments) -> int:
    from camrobust.bench.chaos.harness import chaos, summary
    from camrobust.interface.terminal import say, show_table

    def show(line: dict[str, Any]) -> None:
        end = "exact" if line["exact"] else f"NOT EXACT {line['last']}"
        injected = ", ".join(line["injected"]) or "nothing"
        say(
            f"{line['trial']:3} {line['config']} {line['store']}: {injected}; exits {line['exits']}, "
            f"{line['seconds']} s, {end}"
        )

    lines = chaos(given.count, given.seed, show)
    if given.json:
        print_json(lines)
    else:
        titles = ["injected", "times", "done at once", "most attempts", "rows lost", "doubled", "different", "touched"]
        show_table(f"{len(lines)} runs, seed {given.seed}", titles, summary(lines))
        seconds = sum(line["seconds"] for line in lines)
        say(f"{sum(line['exact'] for line in lines)} of {len(lines)} runs exact in the end, {seconds:.0f} s")
    return 0 if all(line["exact"] for line in lines) else 1


def _fuzz(given: Arguments) -> int:
    from camrobust.bench.chaos.fuzz import BUDGET_MIB, fuzz
    from camrobust.interface.terminal import say

    found = fuzz(given.images, given.seed, say)
    _show(given, f"{given.images:,} damaged pictures, seed {given.seed}", found.rows())
    for line in found.wrong:
        say(line)
    say(f"peak of a worker {found.peak_mib:.0f} MiB above idle, of {BUDGET_MIB}; {len(found.wrong)} ended wrongly")
    return 0 if found.passed else 1


BENCHMARKS = {
    "passes": Benchmark(_passes, "maps of one pass against a plain forward pass", (DEVICE, REPEATS, PRECISION)),
    "peers": Benchmark(
        _peers, "passes, and each method alone, as grad-cam, torchcam and captum have it", (DEVICE, REPEATS, PRECISION)
    ),
    "perturbations": Benchmark(_perturbations, "every perturbation at every severity", (DEVICE, REPEATS, PEERS)),
    "formats": Benchmark(_formats, "orders of memory and torch.compile, plain passes", (DEVICE, REPEATS)),
    "zoo": Benchmark(_zoo, "which architectures of torchvision and timm work"),
    "overhead": Benchmark(_overhead, "the job against a bare loop, over N images", (_count("images"),)),
    "scale": Benchmark(_scale, "all but the measuring, at N images that do not exist", (_count("images"),)),
    "rows": Benchmark(_rows, "all summaries of N made-up score rows", (_count("rows"),)),
    "chaos": Benchmark(_chaos, "N runs on a local cluster under injected faults", (_count("runs"), SEED)),
    "fuzz": Benchmark(
        _fuzz, "damaged pictures in every format through Load, in processes of their own", (IMAGES, SEED)
    ),
}
