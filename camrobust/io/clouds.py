"""Google Cloud Storage and Azure Blob Storage as stores, through the clouds' own libraries.

Addresses are `gs://bucket/prefix`, `az://container/prefix` with the account in `AZURE_STORAGE_ACCOUNT`, and
`abfs://container@account.dfs.core.windows.net/prefix`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from threading import Thread
from typing import Protocol, TypeVar

from camrobust.contract.errors import UserError
from camrobust.contract.secrecy import masked_text
from camrobust.io.addresses import Address, parse
from camrobust.io.azure import AzureContainer, azure_account
from camrobust.io.google import GoogleBucket
from camrobust.io.objects import Access, Entry, MissingObjectError, TooLargeObjectError
from camrobust.io.retries import FIRST_PAUSE_S, OBJECT_TIMEOUT_S, insist
from camrobust.io.store_errors import incomplete

AZURE = ("az", "abfs", "abfss")
SCHEMES = ("gs", *AZURE)
T = TypeVar("T")


class Service(Protocol):
    """A bucket or container; each call asks once, and `explained` turns what it raises into a sentence."""

    def get(self, key: str, most: int | None, where: str) -> bytes:
        """The whole object; raises TooLargeObjectError."""

    def part(self, key: str, start: int, count: int) -> bytes:
        """Some bytes, fewer at the end of the object."""

    def size(self, key: str) -> int:
        """The size of the object in bytes."""

    def put(self, key: str, content: bytes, where: str) -> None:
        """Write the object."""

    def put_new(self, key: str, content: bytes, where: str) -> bool:
        """Write the object if the key is free; whether it was."""

    def remove(self, key: str) -> None:
        """Delete the object."""

    def page(self, prefix: str, token: str | None, where: str) -> tuple[list[Entry], str | None]:
        """One page of the objects below a prefix, and what asks for the next one."""

    def explained(self, error: Exception, where: str) -> Exception:
        """The same error in one sentence with the remedy."""


@dataclass(frozen=True)
class Cloud:
    """A prefix in a Google bucket or an Azure container.

    Attributes:
        place: the prefix; its key is empty or ends with a slash.
        access: how the bucket is read.
    """

    place: Address
    access: Access = "credentials"

    @property
    def uri(self) -> str:
        """The store's address."""
        return self.place.uri()

    @property
    def _service(self) -> Service:
        name, _, host = self.place.bucket.partition("@")
        anonymous = self.access == "anonymous"
        return GoogleBucket(name, anonymous) if self.place.scheme == "gs" else AzureContainer(name, host, anonymous)

    def _key(self, key: str) -> str:
        """The key in the bucket; raises UserError for one that the services would change."""
        _check_key(self._at(key))
        return self.place.key + key

    def _at(self, key: str) -> Address:
        return replace(self.place, key=self.place.key + key)

    def _try(self, where: str, call: Callable[[Service], T], *, writes: bool = False) -> T:
        """What the service answers, tried again while an error may pass, with every error in one sentence."""
        service = self._service

        def once() -> T:
            try:
                return call(service) if writes else _in_time(partial(call, service), where)
            except (UserError, MissingObjectError, TooLargeObjectError):
                raise
            except Exception as error:  # noqa: BLE001 - raised again as one sentence
                # The address of a request may hold a token, and logs show causes.
                secret = masked_text(str(error)) != str(error)
                raise service.explained(error, where) from (None if secret else error)

        return insist(once, str(replace(self.place, key="")), FIRST_PAUSE_S)

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError if it has more than `most` bytes."""
        where, whole = self.locate(key), self._key(key)
        return self._try(where, lambda service: service.get(whole, most, where))

    def head(self, key: str, count: int) -> bytes:
        """The first bytes; raises MissingObjectError."""
        return self.read_range(key, 0, count)

    def read_range(self, key: str, start: int, count: int) -> bytes:
        """Some bytes in one request; raises MissingObjectError."""
        whole = self._key(key)
        return self._try(self.locate(key), lambda service: service.part(whole, start, count)) if count else b""

    def size_bytes(self, key: str) -> int:
        """Size of an object; raises MissingObjectError."""
        whole = self._key(key)
        return self._try(self.locate(key), lambda service: service.size(whole))

    def write(self, key: str, content: bytes) -> None:
        """One put: readers see the whole object or none."""
        where, whole = self.locate(key), self._key(key)
        self._try(where, lambda service: service.put(whole, content, where), writes=True)

    def create(self, key: str, content: bytes) -> bool:
        """One conditional put. A retry that finds its own content has succeeded."""
        where, whole = self.locate(key), self._key(key)
        ours = self._try(where, lambda service: service.put_new(whole, content, where), writes=True)
        return ours or self.read(key) == content

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key, except folder markers (`a/`)."""
        found = [
            Entry(entry.key.removeprefix(self.place.key), entry.size_bytes)
            for entry in self._entries(self.place.key + prefix)
            if not entry.key.endswith("/")
        ]
        for entry in found:
            _check_key(self._at(entry.key))
        yield from sorted(found, key=attrgetter("key"))

    def _entries(self, prefix: str) -> Iterator[Entry]:
        token: str | None = None
        while True:
            page = self._try(self.uri, partial(_page, prefix=prefix, token=token, where=self.uri))
            yield from page[0]
            token = page[1]
            if not token:
                return

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        whole = self._key(key)
        with suppress(MissingObjectError):
            self._try(self.locate(key), lambda service: service.remove(whole))

    def locate(self, key: str) -> str:
        """The address of an object, in the scheme of the given address."""
        return str(self._at(key))


def _page(service: Service, prefix: str, token: str | None, where: str) -> tuple[list[Entry], str | None]:
    return service.page(prefix, token, where)


def _in_time(call: Callable[[], T], where: str) -> T:
    """The result of a call; these libraries would wait for ever for a store that sends a few bytes now and then."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    try:
        return answer.result(OBJECT_TIMEOUT_S)
    except TimeoutError as error:
        raise incomplete(where, f" within {OBJECT_TIMEOUT_S} s") from error


def open_cloud(place: Address, access: Access) -> Cloud:
    """The store at a gs://, az:// or abfs:// address.

    Args:
        place: the prefix; its key is empty or ends with a slash.
        access: how to read the bucket.

    Raises:
        UserError: no account is named, the services would change the key, or the access is for S3 only.
    """
    if access == "requester_pays":
        raise UserError(f"access: requester_pays is for s3:// only, got {place.uri()}; use credentials or anonymous")
    if place.scheme in AZURE:
        azure_account(place.bucket.partition("@")[2])
    _check_key(place)
    return Cloud(place, access)


def one_spelling(uri: str) -> str:
    """The same address for az://, abfs:// and abfss:// with the same account; other addresses as they are."""
    place = parse(uri)
    if place.scheme not in AZURE:
        return uri
    container, _, host = place.bucket.partition("@")
    return str(Address("az", f"{container}@{azure_account(host)}", place.key))


def _check_key(place: Address) -> None:
    """Raise UserError for a key that a service or its library would change."""
    if place.odd():
        raise UserError(
            f"{place.scheme}: '{place}' must hold no empty name, '.' or '..' between slashes and no control character, "
            "as this cloud's client would look elsewhere; rename it, or copy it to a folder or s3://"
        )
    if place.scheme in AZURE and "\\" in place.key:
        raise UserError(f"{place.scheme}: '{place}' must hold no backslash, as Azure takes it for a slash; rename it")
