"""The parts that all commands share: the rows of the command table, values of options, JSON on standard output."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from camrobust.contract.quoting import harmless_json, short
from camrobust.interface.parser import Parser

if TYPE_CHECKING:
    from camrobust.contract.sharding import ShardRecord

Given = argparse.Namespace
"""The arguments that the user gave."""


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Attributes:
        name: "--output", or "config" for an argument that has a place of its own.
        settings: keywords of `argparse.ArgumentParser.add_argument`.
    """

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """One row of the table of commands.

    Attributes:
        function: takes the arguments given, returns the exit code.
        help: one line.
        arguments: all that the command takes beside --verbose.
    """

    function: Callable[[Given], int]
    help: str
    arguments: tuple[Argument, ...] = ()


def argument(name: str, text: str, **settings: Any) -> Argument:
    """An argument that takes one value; its help names the default, where it has one."""
    told = settings.get("default") not in (None, argparse.SUPPRESS) and "default" not in text
    return Argument(name, {"help": f"{text} (default: %(default)s)" if told else text, **settings})


def several(name: str, text: str, **settings: Any) -> Argument:
    """An option that takes one or more values and may be repeated."""
    return Argument(name, {"help": text, "nargs": "+", "action": "extend", "default": [], **settings})


def flag(name: str, text: str) -> Argument:
    """An option without a value."""
    return Argument(name, {"help": text, "action": "store_true"})


MOST = 10**12
"""Largest number of an argument; nothing can be counted or waited for beyond it."""
JSON = flag("--json", "print data instead of text")
VERBOSE = flag("--verbose", "show tracebacks and the output of Ray")


def add_commands(parser: argparse.ArgumentParser, metavar: str, commands: Mapping[str, Command]) -> Any:
    """Give a parser one subcommand per row of a table.

    Args:
        parser: gets the subcommands.
        metavar: what the help calls a subcommand.
        commands: the table, by name.

    Returns:
        The subcommands, so that further ones can be added.
    """
    subcommands = parser.add_subparsers(required=True, metavar=metavar, parser_class=Parser)
    for name, command in commands.items():
        subparser = subcommands.add_parser(name, help=command.help, description=command.help)
        subparser.set_defaults(command=command.function)
        for each in (*command.arguments, VERBOSE):
            subparser.add_argument(each.name, **each.settings)
    return subcommands


def positive(kind: type, most: float = MOST) -> Callable[[str], Any]:
    """A number above 0 and not above `most`: the `type` of an argument."""

    def read(text: str) -> Any:
        value = kind(text)
        if not 0 < value <= most:
            above = f" and at most {most:,}" if value > most else ""
            raise argparse.ArgumentTypeError(f"must be a number above 0{above}, got {short(text)}")
        return value

    read.__name__ = kind.__name__
    return read


def shard(text: str) -> "ShardRecord":
    """I/N: the `type` of an argument."""
    from camrobust.contract.sharding import parse_shard

    try:
        return parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def print_json(document: Any) -> None:
    """Print data on standard output."""
    sys.stdout.write(harmless_json(document) + "\n")


def print_rows(given: Given, title: str, rows: Any) -> int:
    """Print rows as a table, or as data under --json; returns exit code 0."""
    from camrobust.interface.terminal import show_table

    if given.json:
        print_json(rows)
    else:
        columns = list(rows[0])
        show_table(title, [name.replace("_", " ") for name in columns], [[*map(row.get, columns)] for row in rows])
    return 0
