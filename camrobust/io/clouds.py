"""Google Cloud Storage and Azure Blob Storage as stores that can only be read, through pyarrow's clients.

Addresses are `gs://bucket/prefix`, `az://container/prefix` with the account in `AZURE_STORAGE_ACCOUNT`, and
`abfs://container@account.dfs.core.windows.net/prefix`.

A run folder cannot lie here: its lease needs "create only if the key is free", which both services offer but pyarrow's
clients do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, NoReturn

from camrobust.contract.errors import UserError
from camrobust.io.addresses import Address
from camrobust.io.cloud_calls import AZURE, with_retries
from camrobust.io.cloud_clients import azure, azure_account, google
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, check_size
from camrobust.io.store_errors import missing_bucket

SCHEMES = ("gs", *AZURE)
READ_BYTES = 64 * 2**20
"""The size of one read: most photos fit into it."""


@dataclass(frozen=True)
class Cloud:
    """A prefix in a Google bucket or an Azure container, read-only.

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
    def _scheme(self) -> str:
        return self.place.scheme

    @property
    def _bucket(self) -> str:
        return self.place.bucket.partition("@")[0]

    @property
    def _filesystem(self) -> Any:
        anonymous = self.access == "anonymous"
        if self._scheme == "gs":
            return google(anonymous=anonymous)
        return azure(self.place.bucket.partition("@")[2], anonymous=anonymous)

    def _path(self, key: str) -> str:
        """The path in the form these clients need; raises UserError for a key that they would change."""
        _check_key(self._at(key))
        return f"{self._bucket}/{self.place.key}{key}"

    def _at(self, key: str) -> Address:
        return replace(self.place, key=self.place.key + key)

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError if it has more than `most` bytes."""

        def whole() -> bytes:
            chunks: list[bytes] = []
            with self._filesystem.open_input_stream(self._path(key)) as stream:
                while chunk := stream.read(READ_BYTES):
                    chunks.append(chunk)
                    check_size(self.locate(key), sum(map(len, chunks)), most)
            return b"".join(chunks)

        try:
            return with_retries(whole, self.locate(key))
        except MissingObjectError:
            self._check_bucket()
            raise

    def head(self, key: str, count: int) -> bytes:
        """The first bytes; raises MissingObjectError."""
        return self.read_range(key, 0, count)

    def read_range(self, key: str, start: int, count: int) -> bytes:
        """Some bytes; raises MissingObjectError."""

        def some() -> bytes:
            with self._filesystem.open_input_file(self._path(key)) as file:
                return bytes(file.read_at(count, start)) if start < file.size() else b""

        return with_retries(some, self.locate(key))

    def size_bytes(self, key: str) -> int:
        """Size of an object; raises MissingObjectError."""

        def ask() -> int:
            with self._filesystem.open_input_file(self._path(key)) as file:
                return int(file.size())

        return with_retries(ask, self.locate(key))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key."""
        root = len(self._path(""))
        files = self._files(self._path(prefix[: prefix.rfind("/") + 1]).removesuffix("/"))
        entries = [Entry(file.path[root:], file.size) for file in files]
        for entry in entries:
            _check_key(self._at(entry.key))
        if not entries:
            self._check_bucket()
        yield from sorted((entry for entry in entries if entry.key.startswith(prefix)), key=attrgetter("key"))

    def _files(self, folder: str) -> Iterator[Any]:
        """Files below a path.

        Azure is listed folder by folder. A folder that contains an empty name (`a//b`) appears in its own listing, and
        the client's own recursion would then crash the process.
        """
        from pyarrow.fs import FileSelector, FileType

        waiting = [folder]
        while waiting:
            here = waiting.pop()
            selector = FileSelector(here, allow_not_found=True, recursive=self._scheme == "gs")
            for info in with_retries(partial(self._info, selector), self.uri):
                if info.type == FileType.File:
                    yield info
                elif self._scheme in AZURE:
                    below = info.path.partition("/")[2]
                    _check_key(replace(self.place, key=f"{below}//" if info.path == here else f"{below}/"))
                    waiting.append(info.path)

    def _info(self, what: Any) -> Any:
        """What the client of this moment says: after refused credentials it is a new one."""
        return self._filesystem.get_file_info(what)

    def _check_bucket(self) -> None:
        """Raise UserError if there is no such bucket; without permission to look, its objects may still be readable."""
        from pyarrow.fs import FileType

        try:
            info = with_retries(partial(self._info, self._bucket), self.uri)
        except DeniedObjectError:
            return
        if info.type == FileType.NotFound:
            raise missing_bucket(self.uri, "bucket" if self._scheme == "gs" else "container", self._bucket)

    def locate(self, key: str) -> str:
        """The address of an object, in the scheme of the given address."""
        return str(self._at(key))

    def write(self, key: str, content: bytes) -> None:
        """Refused."""
        del key, content
        refuse_output(self.uri)

    def create(self, key: str, content: bytes) -> bool:
        """Refused."""
        del key, content
        refuse_output(self.uri)

    def delete(self, key: str) -> None:
        """Refused."""
        del key
        refuse_output(self.uri)


def open_cloud(place: Address, access: Access) -> Cloud:
    """The store at a gs://, az:// or abfs:// address.

    Args:
        place: the prefix; its key is empty or ends with a slash.
        access: how to read the bucket.

    Raises:
        UserError: no account is named, these clients would change the key, or the access is for S3 only.
    """
    if access == "requester_pays":
        raise UserError(f"access: requester_pays is for s3:// only, got {place.uri()}; use credentials or anonymous")
    if place.scheme in AZURE:
        azure_account(place.bucket.partition("@")[2])
    _check_key(place)
    return Cloud(place, access)


def _check_key(place: Address) -> None:
    """Raise UserError for a key that pyarrow's clients refuse or change."""
    if place.odd():
        raise UserError(
            f"{place.scheme}: '{place}' must hold no empty name, '.' or '..' between slashes and no control character, "
            "as this cloud's client would look elsewhere; rename it, or copy it to a folder or s3://"
        )


def refuse_output(uri: str) -> NoReturn:
    """Raise UserError: results cannot be written to this store."""
    raise UserError(
        f"output: '{uri}' must be a folder or s3://bucket/prefix, as gs:// and az:// can only be read; write to a "
        "folder or S3 and copy the run afterwards"
    )
