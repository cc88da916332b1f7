"""Google Cloud Storage and Azure Blob Storage, to read from, by the clients that pyarrow carries.

Addresses are `gs://bucket/prefix`, `az://container/prefix` with the account in `AZURE_STORAGE_ACCOUNT`, and
`abfs://container@account.dfs.core.windows.net/prefix`. Credentials come from each cloud's usual chain (environment, a
login of its command line, the machine's identity); none is ever stored. How often and how long a call is tried is set
in `io.s3`, for all stores.

A run folder cannot be here: its lease needs "create only if nothing is there", which both services have and pyarrow's
clients do not offer.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from threading import Thread
from typing import Any, NoReturn, TypeVar

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.addresses import Address
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, check_size
from camrobust.io.s3 import BACKOFF_S, OBJECT_TIMEOUT_S, attempts

AZURE = ("az", "abfs", "abfss")
SCHEMES = ("gs", *AZURE)
TRIES = 4
"""How often Azure's own client tries a call; Google's tries for `BACKOFF_S`."""
AZURE_SUFFIX = "core.windows.net"
WAYS = {
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, log in with gcloud, or give the machine a service account",
    "az": "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, log in with az, or give the machine an identity",
}
READ_BYTES = 64 * 2**20
"""Asked for at a time: most photographs at once."""
T = TypeVar("T")


@dataclass(frozen=True)
class Cloud:
    """A prefix in a Google bucket or an Azure container; can be read, not written.

    Attributes:
        place: the prefix; its key is empty or ends with a slash.
        access: how it is read.
    """

    place: Address
    access: Access = "credentials"

    @property
    def uri(self) -> str:
        """Its address."""
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
            return google(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""), anonymous)
        return azure(os.getpid(), self.place.bucket.partition("@")[2], anonymous)

    def _path(self, key: str) -> str:
        """A path as these clients take it; raises UserError for a key that they would take for another one."""
        _check_key(self._at(key))
        return f"{self._bucket}/{self.place.key}{key}"

    def _at(self, key: str) -> Address:
        return replace(self.place, key=self.place.key + key)

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError where it is more than `most` bytes."""

        def whole() -> bytes:
            chunks: list[bytes] = []
            with self._filesystem.open_input_stream(self._path(key)) as stream:
                while chunk := stream.read(READ_BYTES):
                    chunks.append(chunk)
                    check_size(self.locate(key), sum(map(len, chunks)), most)
            return b"".join(chunks)

        try:
            return persistently(whole, self.locate(key))
        except MissingObjectError:
            self._check_bucket()
            raise

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below, sorted by key."""
        root = len(self._path(""))
        found = self._files(self._path(prefix[: prefix.rfind("/") + 1]).removesuffix("/"))
        entries = [Entry(one.path[root:], one.size) for one in found]
        for one in entries:
            _check_key(self._at(one.key))
        if not entries:
            self._check_bucket()
        yield from sorted((one for one in entries if one.key.startswith(prefix)), key=lambda one: one.key)

    def _files(self, folder: str) -> Iterator[Any]:
        """Files below a path.

        Azure is asked folder by folder: a folder with an empty name in it (`a//b`) stands in its own listing, and the
        client's own descent from there ends the process.
        """
        from pyarrow.fs import FileSelector, FileType

        waiting = [folder]
        while waiting:
            here = waiting.pop()
            selector = FileSelector(here, allow_not_found=True, recursive=self._scheme == "gs")
            for one in persistently(partial(self._filesystem.get_file_info, selector), self.uri):
                if one.type == FileType.File:
                    yield one
                elif self._scheme in AZURE:
                    below = one.path.partition("/")[2]
                    _check_key(replace(self.place, key=f"{below}//" if one.path == here else f"{below}/"))
                    waiting.append(one.path)

    def _check_bucket(self) -> None:
        """Raise where the bucket is not there; who may not look at it may still read what is in it."""
        from pyarrow.fs import FileType

        try:
            found = persistently(lambda: self._filesystem.get_file_info(self._bucket), self.uri)
        except DeniedObjectError:
            return
        if found.type == FileType.NotFound:
            kind = "bucket" if self._scheme == "gs" else "container"
            raise UserError(
                f"{self._scheme}: there is no {kind} '{self._bucket}' ({self.uri}); create it or mend the address"
            )

    def locate(self, key: str) -> str:
        """The address of an object, in the scheme that was given."""
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
        access: how to read it.

    Raises:
        UserError: no account in it, a key that these clients take for another one, or a way to read it that this cloud
            does not have.
    """
    if access == "requester_pays":
        raise UserError(f"access: requester_pays is for s3:// only, got {place.uri()}; use credentials or anonymous")
    if place.scheme in AZURE:
        azure_account(place.bucket.partition("@")[2])
    _check_key(place)
    return Cloud(place, access)


def _check_key(place: Address) -> None:
    """Raise UserError for a key that pyarrow's clients refuse, or take for another one."""
    if place.odd():
        raise UserError(
            f"{place.scheme}: '{place}' must hold no empty name, '.' or '..' between slashes and no control character, "
            "as this cloud's client would look elsewhere; rename it, or copy it to a folder or s3://"
        )


def refuse_output(uri: str) -> NoReturn:
    """Say why nothing is written there."""
    raise UserError(
        f"output: '{uri}' must be a folder or s3://bucket/prefix; gs:// and az:// can only be read, as a run's lease "
        "needs a conditional create there; write to one of these and copy it afterwards"
    )


@cache
def google(process: int, endpoint: str, anonymous: bool) -> Any:
    """The client of Google Cloud Storage of this process; STORAGE_EMULATOR_HOST names another endpoint.

    Args:
        process: whose it is, as a client must not be carried over a fork.
        endpoint: of an emulator, which knows no credentials; empty for the cloud.
        anonymous: look for no credentials.
    """
    del process
    from pyarrow.fs import GcsFileSystem

    scheme, separator, address = endpoint.partition("://")
    other = {"scheme": scheme if separator else "http", "endpoint_override": (address or scheme).rstrip("/")}
    return GcsFileSystem(
        anonymous=anonymous or bool(endpoint),
        retry_time_limit=timedelta(seconds=BACKOFF_S),
        **(other if endpoint else {}),
    )


def _connection() -> dict[str, str]:
    """What the environment says of an Azure account, by the names of a connection string; never to be kept."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    found = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
    names = {
        "AccountName": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
        "AccountKey": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        "SharedAccessSignature": ("AZURE_STORAGE_SAS_TOKEN",),
    }
    for name, variables in names.items():
        given = next((os.environ[one] for one in variables if os.environ.get(one)), "")
        if given:
            found.setdefault(name, given)
    return found


def azure_account(host: str) -> str:
    """The account that an address or the environment names.

    Raises:
        UserError: none does.
    """
    account = host.partition(".")[0] or _connection().get("AccountName", "")
    if not account:
        raise UserError(
            "store: an az:// address names no account; set AZURE_STORAGE_ACCOUNT, or write "
            "abfs://container@account.dfs.core.windows.net/prefix"
        )
    return account


@cache
def azure(process: int, host: str, anonymous: bool) -> Any:
    """The client of an Azure account of this process.

    Args:
        process: whose it is, as a client must not be carried over a fork.
        host: account.dfs.core.windows.net as the address names it; empty for the account of the environment.
        anonymous: look for no credentials.
    """
    del process
    from pyarrow.fs import AzureFileSystem, FileSystem

    account, given = azure_account(host), _connection()
    if account != given.get("AccountName", account):
        given = {}  # another account's key or token must not go there
    scheme, _, address = given.get("BlobEndpoint", "").partition("://")
    authority = address.partition("/")[0] if address and account in address.partition("/")[2] else ""
    suffix = re.sub(r"^(dfs|blob)\.", "", host.partition(".")[2]) or given.get("EndpointSuffix") or AZURE_SUFFIX
    if anonymous:
        place = f"{account}@{authority}" if authority else f"{account}.dfs.{suffix}"
        tls = str(scheme != "http").lower()
        return FileSystem.from_uri(f"abfs://{place}/?enable_tls={tls}&credential_kind=anonymous")[0]
    settings = {
        "account_key": given.get("AccountKey"),
        "sas_token": None if "AccountKey" in given else given.get("SharedAccessSignature"),
        "blob_storage_authority": authority or f".blob.{suffix}",
        "dfs_storage_authority": authority or f".dfs.{suffix}",
        "blob_storage_scheme": scheme if authority else None,
        "dfs_storage_scheme": scheme if authority else None,
    }
    return AzureFileSystem(account_name=account, **{name: value for name, value in settings.items() if value})


def persistently(call: Callable[[], T], where: str) -> T:
    """What a call gives, asked again with backoff for as long as the store may come round.

    Raises:
        MissingObjectError: the object is not there.
        UserError: no credentials, no permission, no such endpoint.
        RunFailed: the store is there and fails, however often it is asked.
    """
    for attempt in range(-(-attempts() // TRIES)):
        if attempt:
            time.sleep(random.uniform(0, min(BACKOFF_S, 2**attempt)))
        try:
            with explained(where):
                return _bounded(call)
        except RunFailed as error:
            failed = error
    raise failed


def _bounded(call: Callable[[], T]) -> T:
    """What a call gives, or TimeoutError: these clients wait for ever for a store that accepts and says nothing."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(OBJECT_TIMEOUT_S)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what a cloud answers into one sentence with the remedy; raises as `persistently` does."""
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError as error:
        raise MissingObjectError(f"there is no object {where}") from error
    except (OSError, ArrowException) as error:
        raise _refused(error, where) from error


def _refused(error: Exception, where: str) -> Exception:
    scheme, text = where.partition("://")[0], " ".join(str(error).split())
    cloud = "az" if scheme in AZURE else "gs"
    azure_code, status = (re.findall(r"Azure Error: \[(\w*)\] ?(\d*)", text) or [("", "")])[0]
    code = azure_code or status or (re.findall(r"Status\((\w+):", text) or [type(error).__name__])[0]
    if status == "401" or code in ("UNAUTHENTICATED", "AuthenticationFailed"):
        return UserError(f"{scheme}: the credentials are refused for {where} ({code}); renew or mend them")
    if "OAuth2 access token" in text or "Credential" in text:
        return UserError(f"{scheme}: no credentials for {where}; {WAYS[cloud]}")
    if re.search(r"[Cc]ould( not|n't) (connect|resolve)", text):
        return UserError(f"{scheme}: cannot reach the store for {where}; check the address and the network")
    if isinstance(error, PermissionError) or status == "403" or code == "PublicAccessNotPermitted":
        return DeniedObjectError(f"{scheme}: no permission for {where}; these credentials need read and list on it")
    if code == "INVALID_ARGUMENT" or status in ("400", "409"):
        return UserError(f"{scheme}: {where} is refused ({code}); mend the address")
    if isinstance(error, TimeoutError):
        return RunFailed(f"{scheme}: {where} did not answer in full within {OBJECT_TIMEOUT_S} s; run again to resume")
    return RunFailed(f"{scheme}: {where} answered {code}; the store may be overloaded, run again to resume")
