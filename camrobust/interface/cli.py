"""The console command: read the arguments, run one command, turn every error into one line.

Exit codes: 0 means ok. 1 means that the run is incomplete, that a check failed, or an unexpected error. 2 means a
mistake of the user. Of a run, `run.workflow.Outcome` decides between 0 and 1; of other commands, their functions in
`interface/commands/`; `contract.errors` says which errors are 1 and which are 2.
"""

import argparse
import atexit
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, harmless
from camrobust.contract.secrecy import sentence
from camrobust.interface.command_line import add_commands
from camrobust.interface.commands import BENCHMARKS, COMMANDS
from camrobust.interface.parser import Parser

LONGEST_MESSAGE = 4000
"""In characters. Our own messages are shorter; only a library's can be cut here."""
BEGIN = "To begin: `camrobust demo`, which needs nothing, or `camrobust init FOLDER`, for photos of your own."
BENCH = "measure speed and scale, and test what survives faults"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_closed()
    try:
        exit_code = _carry_out(arguments)
    except SystemExit:
        if not _flushed():
            raise SystemExit(1) from None
        raise
    return exit_code if _flushed(quiet=exit_code != 0) else 1


def _carry_out(arguments: Sequence[str] | None) -> int:
    verbose = False
    try:
        parser = _parser()
        given = parser.parse_args(arguments)
        given.parser = parser
        verbose = given.verbose
        # A configuration may name a module of the working directory. Its place is last, so that it hides no other.
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        exit_code: int = given.command(given)
    except UserError as error:
        _error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _error("interrupted; run the same command again to resume")
        return 1
    except BrokenPipeError:
        return 1
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in a Rust library is not an Exception
        if verbose:
            sys.stderr.writelines(f"{harmless(sentence(line))}\n" for line in _traced(error))
        _error(_unforeseen(error))
        return 1
    return exit_code


def _open_closed() -> None:
    """Standard streams that were closed, as by `>&-`, lead nowhere: what is printed there is no error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
            atexit.register(nowhere.close)
            setattr(sys, name, nowhere)


def _flushed(*, quiet: bool = False) -> bool:
    """Whether standard output took everything; what it did not take would become a traceback when Python ends."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not quiet and not isinstance(error, BrokenPipeError):
            _error(_unforeseen(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


class _Version(argparse.Action):
    """Prints the version; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"camrobust {version('camrobust')}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="camrobust", description="How robust are class activation maps to noise?", epilog=BEGIN)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    subcommands = add_commands(parser, "COMMAND", COMMANDS)
    add_commands(subcommands.add_parser("bench", help=BENCH, description=BENCH), "BENCHMARK", BENCHMARKS)
    return parser


def _unforeseen(error: BaseException) -> str:
    """One sentence about an error that no other place has explained."""
    if isinstance(error, MemoryError):
        return "this machine has too little memory; measure less at once, or check that the given files are intact"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"a disk is full ({error.strerror}); free some space and run the same command again"
    if isinstance(error, RecursionError):
        return "something is nested too deep to be read; check that the given files are intact"
    return (
        f"stopped by {type(error).__name__}: {first_line(error)}; if the given files are intact, this is a bug in "
        "camrobust: please report it with the output of --verbose"
    )


def _traced(error: BaseException) -> list[str]:
    return [line for part in traceback.format_exception(error) for line in part.splitlines()]


def _error(message: str) -> None:
    sys.stderr.write(f"camrobust: {harmless(sentence(' '.join(message[:LONGEST_MESSAGE].split())))}\n")
