"""The commands that help to begin: init, schema, completion."""

import sys

from camrobust.interface.command_line import Given


def init(given: Given) -> int:
    """`camrobust init`."""
    from camrobust.interface.beginning import begin
    from camrobust.interface.terminal import say

    for line in begin(given.config, given.images, given.model, given.output, given.example):
        say(line)
    return 0


def schema(given: Given) -> int:
    """`camrobust schema`."""
    from camrobust.interface.config_schema import schema_text

    del given
    sys.stdout.write(schema_text())
    return 0


def completion(given: Given) -> int:
    """`camrobust completion`."""
    from camrobust.interface.completion import script

    sys.stdout.write(f"{script(given.parser, given.shell).rstrip()}\n")
    return 0
