"""What all stores have in common: bytes by key."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from camrobust.contract.errors import UserError

Access = Literal["credentials", "anonymous", "requester_pays"]
"""How a bucket is read: with the user's credentials, without any, or with credentials and at the reader's cost."""


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    size_bytes: int


class MissingObjectError(Exception):
    """There is no such object; takes one string, so that it unpickles."""


class TooLargeObjectError(Exception):
    """The object is larger than allowed; takes one string, so that it unpickles."""


class DeniedObjectError(UserError):
    """These credentials may not read or write the object."""


def check_size(where: str, size_bytes: int, most: int | None) -> None:
    """Raise TooLargeObjectError if an object has more than `most` bytes."""
    if most is not None and size_bytes > most:
        raise TooLargeObjectError(f"{where} has more than {most} bytes and is not read")


class Store(Protocol):
    """A place for bytes by key; keys are relative and use forward slashes."""

    @property
    def uri(self) -> str:
        """The store's address."""

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError if it has more than `most` bytes."""

    def head(self, key: str, count: int) -> bytes:
        """The first `count` bytes, or all if there are fewer; raises MissingObjectError."""

    def read_range(self, key: str, start: int, count: int) -> bytes:
        """Bytes from `start` on, at most `count` and fewer at the end of the object; raises MissingObjectError."""

    def size_bytes(self, key: str) -> int:
        """Size of an object; raises MissingObjectError."""

    def write(self, key: str, content: bytes) -> None:
        """Store the content, all or nothing."""

    def create(self, key: str, content: bytes) -> bool:
        """Store the content if the key is free; False if it holds something else. Of two writers one gets True."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""

    def locate(self, key: str) -> str:
        """The address of an object, byte for byte; polars reads it with glob=False."""
