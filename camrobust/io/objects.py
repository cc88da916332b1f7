"""What every store is: bytes by key."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from camrobust.contract.errors import UserError
from camrobust.contract.secrecy import refuse_address

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
    """The object is larger than it may be; takes one string, so that it unpickles."""


class DeniedObjectError(UserError):
    """These credentials may not read or write it."""


def check_size(where: str, size_bytes: int, most: int | None) -> None:
    """Raise TooLargeObjectError where an object has more bytes than it may have."""
    if most is not None and size_bytes > most:
        raise TooLargeObjectError(f"{where} has more than {most} bytes, and is left unread")


def refuse_secret(uri: str) -> None:
    """Addresses are written into manifests and logs, so one that holds a key or a token is not even repeated.

    Raises:
        UserError: it does.
    """
    refuse_address(uri)


class Store(Protocol):
    """A place for bytes by key; keys are relative, with forward slashes."""

    @property
    def uri(self) -> str:
        """Its address."""

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError where it is more than `most` bytes."""

    def write(self, key: str, content: bytes) -> None:
        """Put the content there, all or nothing."""

    def create(self, key: str, content: bytes) -> bool:
        """Put the content there only if nothing is; False where something else is. Of two writers one gets True."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def locate(self, key: str) -> str:
        """Address of an object, byte for byte; polars reads it with glob=False."""
