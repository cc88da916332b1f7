"""Google Cloud Storage through Google's own library, google-cloud-storage.

Credentials come from Google's usual chain: GOOGLE_APPLICATION_CREDENTIALS, a login of gcloud, the machine's service
account. `API_ENDPOINT_OVERRIDE` names another endpoint, `STORAGE_EMULATOR_HOST` an emulator, which knows no
credentials. None of them is ever stored.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.io.objects import Entry, check_size
from camrobust.io.retries import CONNECT_TIMEOUT_S, CONNECTIONS, READ_TIMEOUT_S
from camrobust.io.store_errors import (
    incomplete,
    missing_bucket,
    missing_credentials,
    missing_object,
    no_permission,
    of_status,
    overloaded,
    refused_credentials,
    unreachable,
)

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
PAGE = 1000
"""Objects in one page of a listing: the most that the service gives."""
TIMEOUT_S = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
RATE_LIMITS = ("rateLimitExceeded", "userRateLimitExceeded")
"""Reasons in answers 403 that mean the same as 429."""
CREDENTIALS = "set GOOGLE_APPLICATION_CREDENTIALS, log in with gcloud, or give the machine a service account"


@dataclass(frozen=True)
class GoogleBucket:
    """A bucket; a call asks once.

    Attributes:
        name: of the bucket.
        anonymous: use no credentials.
    """

    name: str
    anonymous: bool

    def _blob(self, key: str) -> Any:
        return _client(os.getpid(), _emulator(), self.anonymous).bucket(self.name).blob(key)

    def get(self, key: str, most: int | None, where: str) -> bytes:
        """The whole object as it is stored, with its checksum compared."""
        from google.api_core.exceptions import NotFound

        content = _Content(where, most)
        try:
            self._blob(key).download_to_file(content, raw_download=True, retry=None, timeout=TIMEOUT_S)
        except NotFound:
            self._check_bucket(key, where)
            raise
        return content.getvalue()

    def part(self, key: str, start: int, count: int) -> bytes:
        """Some bytes, fewer at the end of the object."""
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        blob = self._blob(key)
        try:
            found: bytes = blob.download_as_bytes(
                start=start, end=start + count - 1, raw_download=True, retry=None, timeout=TIMEOUT_S
            )
        except RequestRangeNotSatisfiable:
            # The object ends before.
            return b""
        return found

    def size(self, key: str) -> int:
        """The size of the object in bytes."""
        blob = self._blob(key)
        blob.reload(retry=None, timeout=TIMEOUT_S)
        return int(blob.size)

    def put(self, key: str, content: bytes, where: str) -> None:
        """Write the object."""
        self._upload(key, content, where)

    def put_new(self, key: str, content: bytes, where: str) -> bool:
        """Write the object if the key is free (ifGenerationMatch=0)."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._upload(key, content, where, if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    def _upload(self, key: str, content: bytes, where: str, **condition: int) -> None:
        from google.api_core.exceptions import NotFound

        blob = self._blob(key)
        # Google's caches keep an object of a public bucket for an hour. A driver would then see no beats of another.
        blob.cache_control = "no-store"
        try:
            blob.upload_from_string(
                content, content_type="application/octet-stream", retry=None, timeout=TIMEOUT_S, **condition
            )
        except NotFound as error:
            self._check_bucket(key, where)
            # An upload in several requests was forgotten.
            raise overloaded(where, "404") from error

    def _check_bucket(self, key: str, where: str) -> None:
        """Raise UserError if there is no such bucket, of which an answer 404 says nothing."""
        from google.api_core.exceptions import Forbidden, Unauthorized

        with suppress(Forbidden, Unauthorized):
            self.page(key, None, where)

    def remove(self, key: str) -> None:
        """Delete the object; raises NotFound."""
        self._blob(key).delete(retry=None, timeout=TIMEOUT_S)

    def page(self, prefix: str, token: str | None, where: str) -> tuple[list[Entry], str | None]:
        """One page of the objects below a prefix, and what asks for the next one."""
        from google.api_core.exceptions import NotFound

        client = _client(os.getpid(), _emulator(), self.anonymous)
        found = client.list_blobs(
            self.name, prefix=prefix or None, page_token=token, page_size=PAGE, fields="items(name,size),nextPageToken",
            retry=None, timeout=TIMEOUT_S,
        )  # fmt: skip
        try:
            entries = [Entry(blob.name, blob.size or 0) for blob in next(found.pages, ())]
        except NotFound as error:
            raise missing_bucket(where, "bucket", self.name) from error
        return entries, found.next_page_token

    def explained(self, error: Exception, where: str) -> Exception:
        """The same error in one sentence with the remedy."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

        if isinstance(error, DefaultCredentialsError):
            return missing_credentials(where, CREDENTIALS, forget_google_clients)
        if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
            return refused_credentials(where, type(error).__name__, forget_google_clients, expired=False)
        if _is_unreachable(error):
            return unreachable(where)
        if isinstance(error, GoogleAPICallError) and error.code is not None:
            return self._refused(int(error.code), {str(one.get("reason", "")) for one in error.errors or ()}, where)
        return incomplete(where, f" ({type(error).__name__})")

    def _refused(self, status: int, reasons: set[str], where: str) -> Exception:
        if status == 404:
            return missing_object(where)
        if status == 401 and not self.anonymous:
            return refused_credentials(where, "401", forget_google_clients, expired=False)
        if status in (401, 403):
            limit = reasons.intersection(RATE_LIMITS)
            return of_status(where, 429, limit.pop()) if limit else no_permission(where, "read, list and write")
        return of_status(where, status, str(status))


class _Content(BytesIO):
    """Takes what is downloaded, up to a size."""

    def __init__(self, where: str, most: int | None) -> None:
        super().__init__()
        self.where, self.most = where, most

    def write(self, chunk: Any) -> int:
        """Raise TooLargeObjectError beyond the size."""
        check_size(self.where, self.tell() + len(chunk), self.most)
        return super().write(chunk)


def _is_unreachable(error: Exception) -> bool:
    """Whether no connection was made; a connection that breaks is of the same type."""
    from google.auth.exceptions import TransportError
    from requests.exceptions import ConnectionError as NotConnected
    from requests.exceptions import SSLError
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

    if isinstance(error, (TransportError, SSLError)):
        return True
    cause = error.args[0] if isinstance(error, NotConnected) and error.args else None
    return isinstance(cause, MaxRetryError) and isinstance(cause.reason, (NewConnectionError, ConnectTimeoutError))


def _emulator() -> str:
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if not host or "://" in host else f"http://{host}"


@cache
def _client(process: int, emulator: str, anonymous: bool) -> Any:
    """The client of one process: a client must not be carried over a fork."""
    del process
    try:
        from google.cloud import storage
    except ImportError as error:
        raise UserError("gs: gs:// needs google-cloud-storage; pip install 'camrobust[gcs]'") from error
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter

    # Its warnings about projects and machines that are not Google's would be lines in the middle of a run.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    credentials = AnonymousCredentials() if anonymous or emulator else google.auth.default(scopes=[SCOPE])[0]
    session = AuthorizedSession(credentials)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return storage.Client(
        project=None, credentials=credentials, _http=session,
        client_options={"api_endpoint": emulator} if emulator else None,
    )  # fmt: skip


def forget_google_clients() -> None:
    """Drop the clients of this process, so that the next call reads the credentials again from where they are from."""
    _client.cache_clear()
