"""Tables of methods by name, which refuse duplicates and suggest near names."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Generic, Protocol, TypeVar

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short


class Named(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str:
        """The name in users' result tables; its meaning never changes."""


Entry = TypeVar("Entry", bound=Named)


LISTED = 40
"""Longest list of names that a message shows in full."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it tells the nearest match and all names, or of many names the nearest."""
    names, given = sorted(known), short(name)
    near = get_close_matches(given, names, n=8, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    shown = names if len(names) <= LISTED else [*(near or names[:8]), "…"]
    return UserError(f"unknown {kind} '{given}'; {hint}known: {', '.join(shown)}")


class Registry(Generic[Entry]):
    """Entries by name, in alphabetical order of the names.

    Args:
        kind: what an entry is called in messages, for example "CAM".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            ValueError: its name is taken.
        """
        if entry.name in self._entries:
            raise ValueError(f"registry: {self.kind} '{entry.name}' is registered twice; a method needs its own name")
        self._entries[entry.name] = entry

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
