"""Tables of methods by name, which refuse duplicates and suggest near names."""

import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.spelling import nearest, suggestion


class Named(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str:
        """The name in users' result tables; its meaning never changes."""


Entry = TypeVar("Entry", bound=Named)


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\+*")
"""Configurations and result tables write names into lists, so a name holds none of their separators."""
JOIN = re.compile(r"\+(?=[A-Za-z0-9])")
"""The + between two names; one at the end of a name has no letter or digit behind it."""
MODULE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
"""The dotted name of a module."""
LISTED = 40
"""Longest list of names that a message shows in full."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it tells the nearest match and all names, or of many names the nearest."""
    names, given = sorted(known), short(name)
    shown = names if len(names) <= LISTED else [*(nearest(given, names) or names[:8]), "…"]
    return UserError(f"unknown {kind} '{given}'; {suggestion(given, names)}known: {', '.join(shown)}")


class NameTakenError(ValueError):
    """A method asks for a name that another one has; takes the sentence."""


def module_of(entry: object) -> str:
    """Name of the module that holds a method's function, "" where the entry has none."""
    function = getattr(entry, "function", None)
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", None) or "")


def registering_module() -> str:
    """Name of the module that called the function that calls this one: a decorator's user."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))  # noqa: SLF001 - Python's own way to see a caller


def from_camrobust(entry: object) -> bool:
    """Whether a method is camrobust's own, not one of a user's package."""
    return module_of(entry).partition(".")[0] in ("", "camrobust")


def _reloaded(known: object, entry: object) -> bool:
    """Whether an entry is the same function of a user's module that was loaded again, as notebooks do."""
    names = [getattr(getattr(one, "function", None), "__qualname__", None) for one in (known, entry)]
    same = names[0] is not None and names[0] == names[1] and module_of(known) == module_of(entry)
    return same and not from_camrobust(known)


class Registry(Generic[Entry]):
    """Entries by name, in alphabetical order of the names.

    Args:
        kind: what an entry is called in messages, for example "CAM".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._places: dict[str, str] = {}

    def add(self, entry: Entry, place: str = "") -> None:
        """Add an entry; a function of a user's module that was loaded again replaces itself.

        Args:
            entry: the method.
            place: name of the module that registers it.

        Raises:
            NameTakenError: another method has that name.
            ValueError: the name holds something else than letters, digits and `_ . -`, with `+` at its end.
        """
        if not NAME.fullmatch(entry.name):
            raise ValueError(
                f"registry: the name of a {self.kind} must be letters, digits and _ . -, with + only at its end, got "
                f"'{short(entry.name)}'; choose another name"
            )
        known = self._entries.get(entry.name)
        if known is not None and not _reloaded(known, entry):
            raise NameTakenError(
                f"{self.kind} '{entry.name}' is registered already by {module_of(known) or 'camrobust'}; give the new "
                "one another name"
            )
        self._entries[entry.name] = entry
        self._places[entry.name] = place

    def place(self, name: str) -> str:
        """Name of the module that registered a method, "" where none was told."""
        return self._places.get(name, "")

    def discard(self, name: str) -> None:
        """Forget an entry, where there is one of that name."""
        self._entries.pop(name, None)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name; raises UserError for an unknown one."""
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return (self._entries[name] for name in self.names())

    def __len__(self) -> int:
        return len(self._entries)
