"""The parser of the command line: arguments in any order, and one sentence about a mistake in them."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.registry import unknown
from camrobust.contract.spelling import suggestion

KINDS = {"int": "a whole number", "float": "a number"}
"""What a value must be, by the name of the function that reads it."""
COMMANDS_MEANT = {
    "evaluate": "run", "measure": "run", "start": "run", "resume": "run", "continue": "run", "estimate": "plan",
    "dry-run": "plan", "progress": "status", "check": "verify", "html": "report", "plot": "report", "show": "report",
    "summary": "aggregate", "summarise": "aggregate", "summarize": "aggregate", "diff": "compare", "heatmap": "explain",
    "new": "init", "template": "init", "config": "init", "help": "--help", "version": "--version",
}  # fmt: skip
"""What other programs call our commands."""
FILES = re.compile(
    r"\.(ya?ml|jpe?g|png|tiff?|webp|bmp|gif|npy|jp2|heic|avif|json|csv|parquet)$|/|^\.\.?$", re.IGNORECASE
)  # fmt: skip
"""How the path of a file looks."""
BUILDERS = ("torchvision:", "timm:", "hf:")
"""How the builder of a model begins, which may look like a path otherwise."""
NUMBER = re.compile(r"-\.?\d")


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line with exit code 2, as every other command does.

    An argument that has a place of its own, such as a photo, may stand before or after the options, and also behind the
    values of an option that takes several: `explain --cam gradcam layercam photo.jpg`.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The arguments; raises UserError for what is not known.

        Args:
            args: what the user gave after the name of the program or command; None for the program's own.
            namespace: as of argparse.
        """
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is not None:
            return super().parse_known_args(self._command_first(given), namespace)
        found, extra = super().parse_known_args(self._places_first(given), namespace)
        if extra:
            self.error(f"there is no place for '{short(extra[0])}'")
        return found, extra

    def error(self, message: str) -> NoReturn:
        """Raise the message as UserError."""
        if message.startswith("the following arguments are required: "):
            message = self._missing(message.partition(": ")[2].split(", "))
        message = re.sub(r"^argument (\S+): expected .*", r"\1 needs a value", message)
        end = "" if message.endswith("?") else ";"
        raise UserError(f"{message.removeprefix('argument ')}{end} see {self.prog} --help")

    def _missing(self, names: Sequence[str]) -> str:
        if self._subparsers is not None:
            commands = next(action.choices for action in self._actions if isinstance(action.choices, dict))
            return f"give one of the commands {', '.join(commands)}"
        helps = {_called(action): action.help for action in self._actions}
        return "missing: " + " and ".join(f"{name} ({helps[name]})" if helps.get(name) else name for name in names)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action.choices, dict):
            meant = COMMANDS_MEANT.get(str(value).casefold())
            if meant is not None and (meant in action.choices or meant.startswith("--")):
                raise argparse.ArgumentError(None, f"unknown command '{short(value)}'; did you mean '{meant}'?")
            raise argparse.ArgumentError(None, str(unknown("command", value, action.choices)))
        raise argparse.ArgumentError(None, str(unknown(f"value of {_called(action)}", value, map(str, action.choices))))

    def _get_values(self, action: argparse.Action, arg_strings: Any) -> Any:
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            # argparse would take the mark for no value, and give an empty list.
            raise argparse.ArgumentError(action, "expected a value")
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            kind = KINDS.get(getattr(action.type, "__name__", ""))
            try:
                action.type(arg_string)  # type: ignore[operator, misc]
            except ValueError:
                if kind is not None:
                    raise argparse.ArgumentError(action, f"must be {kind}, got '{short(arg_string)}'") from None
            except (TypeError, argparse.ArgumentTypeError):
                pass
            raise

    def _command_first(self, given: list[str]) -> list[str]:
        """Options of a command may stand before its name: `camrobust --json plan run.yaml`."""
        commands = next((action.choices for action in self._actions if isinstance(action.choices, dict)), {})
        place = next((number for number, token in enumerate(given) if token in commands), None)
        if place is None or not given[0].startswith("-") or self._option(given[0]) is not None:
            return given
        return [given[place], *given[:place], *given[place + 1 :]]

    def _places_first(self, given: list[str]) -> list[str]:
        """The same arguments, those with a place of their own first."""
        if "--" in given:
            return given
        places, options = [], []
        for token, action, values in self._groups(given):
            if action is None:
                places.append(token)
            else:
                options.append((token, values))
                self._let_go(places, action, values, given)
        return [*places, *(one for token, values in options for one in (token, *values))]

    def _groups(self, given: Sequence[str]) -> Iterator[tuple[str, argparse.Action | None, list[str]]]:
        """Every option with its values; every other argument alone, without an action."""
        waiting = list(given)
        while waiting:
            token = waiting.pop(0)
            action = self._option(token)
            if action is None and token.startswith("--"):
                known = [name for name in self._option_string_actions if name.startswith("--")]
                hint = suggestion(token.partition("=")[0], known)
                self.error(f"unknown option '{short(token)}'{'; ' + hint.rstrip() if hint else ''}")
            values: list[str] = []
            most = (
                0 if action is None or action.nargs == 0 or "=" in token else 1 if action.nargs is None else len(given)
            )
            while len(values) < most and waiting and (waiting[0][:1] != "-" or NUMBER.match(waiting[0])):
                values.append(waiting.pop(0))
            yield token, action, values

    def _option(self, token: str) -> argparse.Action | None:
        """The action of an option, also of one that is cut short; None for any other argument."""
        name = token.partition("=")[0]
        known = self._option_string_actions
        if name in known or not name.startswith("--"):
            return known.get(name)
        begun = {id(known[full]): known[full] for full in known if full.startswith(name)}
        return next(iter(begun.values())) if len(begun) == 1 else None

    def _let_go(self, places: list[str], action: argparse.Action, values: list[str], given: Sequence[str]) -> None:
        """Move arguments with a place of their own that an option has taken for its values."""
        needed = [one for one in self._actions if not one.option_strings and one.nargs != "?"]
        taken: list[str] = []
        while action.nargs == "+" and len(values) > 1 and len(places) + len(taken) < len(needed):
            if len(self._loose(given)) >= len(needed) or not _belongs(values[-1], needed[-1 - len(taken)]):
                break
            taken.insert(0, values.pop())
        places.extend(taken)

    def _loose(self, given: Sequence[str]) -> list[str]:
        return [token for token, action, _ in self._groups(given) if action is None]


def _called(action: argparse.Action) -> str:
    """What messages call an argument."""
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _belongs(token: str, place: argparse.Action) -> bool:
    """Whether an argument looks as if it had that place: one of its choices, or the path of a file."""
    if place.choices is not None:
        return token in place.choices
    if token.startswith(BUILDERS):
        return False
    try:
        return "=" not in token and (FILES.search(token) is not None or Path(token).exists())
    except (OSError, ValueError):
        return False
