"""What all commands share: a parser whose mistakes are one line, numbers above 0, JSON on standard output."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import harmless_json


class Parser(argparse.ArgumentParser):
    """A mistake in the arguments is one line and exit code 2, as every other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def positive(kind: type) -> Callable[[str], Any]:
    """A number above 0, finite; the `type` of an argument."""

    def read(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
        return value

    read.__name__ = kind.__name__
    return read


def print_json(document: Any) -> None:
    """Print data on standard output."""
    sys.stdout.write(harmless_json(document) + "\n")
