"""Azure Blob Storage through Microsoft's own libraries, azure-storage-blob and azure-identity.

Credentials come from the environment (a connection string, a key, a token) or from Azure's usual chain: a login of its
command line, the machine's identity. None is ever stored.
"""

import logging
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

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
    refused_credentials,
    unreachable,
)

SUFFIX = "core.windows.net"
SUFFIXES = (SUFFIX, "core.chinacloudapi.cn", "core.usgovcloudapi.net", "storage.azure.net", "fabric.microsoft.com")
"""Names under which Microsoft runs Blob Storage. Credentials are sent nowhere else, whatever a manifest names."""
HOST = r"[\w-]+(\.(?P<zone>z\d+\.)?(dfs|blob)\.(?P<suffix>[\w.-]+))?"
READ_BYTES = 64 * 2**20
"""The size of one read: most photos fit into it."""
WRITE_BYTES = 2**30
"""Contents up to this size are one put."""
PAGE = 5000
"""Objects in one page of a listing: the most that the service gives."""
CREDENTIALS = "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, log in with az, or give the machine an identity"
REFUSED = ("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation")
MISSING = ("ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled")


@dataclass(frozen=True)
class AzureContainer:
    """A container; a call asks once.

    Attributes:
        name: of the container.
        host: account.dfs.core.windows.net from the address; empty for the account that the environment names.
        anonymous: use no credentials.
    """

    name: str
    host: str
    anonymous: bool

    def _client(self) -> Any:
        return _client(os.getpid(), self.host, self.anonymous).get_container_client(self.name)

    def _blob(self, key: str) -> Any:
        return self._client().get_blob_client(key)

    def get(self, key: str, most: int | None, where: str) -> bytes:
        """The whole object as it is stored."""
        answer = self._blob(key).download_blob(decompress=False)
        check_size(where, answer.size, most)
        content: bytes = answer.readall()
        return content

    def part(self, key: str, start: int, count: int) -> bytes:
        """Some bytes, fewer at the end of the object."""
        from azure.core.exceptions import HttpResponseError

        try:
            content: bytes = self._blob(key).download_blob(offset=start, length=count, decompress=False).readall()
        except HttpResponseError as error:
            if error.status_code == 416:
                # The object ends before.
                return b""
            raise
        return content

    def size(self, key: str) -> int:
        """The size of the object in bytes."""
        return int(self._blob(key).get_blob_properties().size)

    def put(self, key: str, content: bytes, where: str) -> None:
        """Write the object."""
        del where
        self._blob(key).upload_blob(content, overwrite=True)

    def put_new(self, key: str, content: bytes, where: str) -> bool:
        """Write the object if the key is free (If-None-Match: *)."""
        from azure.core.exceptions import ResourceExistsError

        del where
        try:
            self._blob(key).upload_blob(content, overwrite=False)
        except ResourceExistsError as error:
            if _code(error) != "BlobAlreadyExists":
                raise
            return False
        return True

    def remove(self, key: str) -> None:
        """Delete the object."""
        self._blob(key).delete_blob()

    def page(self, prefix: str, token: str | None, where: str) -> tuple[list[Entry], str | None]:
        """One page of the objects below a prefix, and what asks for the next one; without markers of folders."""
        del where
        pages = self._client().list_blobs(name_starts_with=prefix or None, include=["metadata"], results_per_page=PAGE)
        pages = pages.by_page(token)
        found = [blob for blob in next(pages, ()) if not _is_folder(blob)]
        return [Entry(blob.name, blob.size) for blob in found], pages.continuation_token

    def explained(self, error: Exception, where: str) -> Exception:
        """The same error in one sentence with the remedy."""
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError

        if isinstance(error, ServiceRequestError):
            return unreachable(where)
        if isinstance(error, HttpResponseError) and error.status_code:
            return self._refused(error.status_code, _code(error), str(error.message), where)
        if isinstance(error, ClientAuthenticationError) and "igning" not in type(error).__name__:
            return missing_credentials(where, CREDENTIALS, forget_azure_clients)
        if isinstance(error, ClientAuthenticationError):
            return refused_credentials(where, "no valid key", forget_azure_clients, expired=False)
        return incomplete(where, f" ({type(error).__name__})")

    def _refused(self, status: int, code: str, message: str, where: str) -> Exception:
        if code in MISSING:
            return missing_bucket(where, "container", self.name)
        if status == 404:
            return missing_object(where)
        if not self.anonymous and (status == 401 or code in REFUSED):
            expired = re.search("expired|expiry|time frame", message) is not None
            return refused_credentials(where, code or str(status), forget_azure_clients, expired=expired)
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return no_permission(where, "read, list and write")
        return of_status(where, status, code or str(status))


def _code(error: Any) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _is_folder(blob: Any) -> bool:
    """Whether an empty object only marks a folder, as accounts with a hierarchy and Hadoop's client have them."""
    marks = {name.lower(): value for name, value in (blob.metadata or {}).items()}
    return str(marks.get("hdi_isfolder", "")).lower() == "true"


@cache
def _client(process: int, host: str, anonymous: bool) -> Any:
    """The client of one process: a client must not be carried over a fork."""
    del process
    try:
        from azure.core.pipeline.transport import RequestsTransport
        from azure.storage.blob import BlobServiceClient
    except ImportError as error:
        raise UserError("az: az:// needs azure-storage-blob; pip install 'camrobust[azure]'") from error
    from requests import Session
    from requests.adapters import HTTPAdapter

    # What its library says about odd answers and credentials that are not there would be lines in the middle of a run.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    session = Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    settings = _settings_for(host)
    return BlobServiceClient(
        _endpoint(host, settings),
        credential=None if anonymous else _credential(azure_account(host), settings),
        transport=RequestsTransport(
            session=session, connection_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S
        ),
        retry_total=0,
        max_single_get_size=READ_BYTES,
        max_chunk_get_size=READ_BYTES,
        max_single_put_size=WRITE_BYTES,
    )  # fmt: skip


def _credential(account: str, settings: dict[str, str]) -> Any:
    if "AccountKey" in settings:
        return {"account_name": account, "account_key": settings["AccountKey"]}
    if "SharedAccessSignature" in settings:
        from azure.core.credentials import AzureSasCredential

        return AzureSasCredential(settings["SharedAccessSignature"])
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _endpoint(host: str, settings: dict[str, str]) -> str:
    if settings.get("BlobEndpoint"):
        return settings["BlobEndpoint"].rstrip("/")
    found = re.fullmatch(HOST, host)
    zone, suffix = (found["zone"], found["suffix"]) if found else (None, None)
    return f"https://{azure_account(host)}.{zone or ''}blob.{suffix or settings.get('EndpointSuffix') or SUFFIX}"


def forget_azure_clients() -> None:
    """Drop the clients of this process, so that the next call reads the environment again."""
    _client.cache_clear()


def azure_account(host: str) -> str:
    """The account that an address or the environment names.

    Raises:
        UserError: neither names one, or the address leads to a machine that is not Azure's.
    """
    settings = _settings()
    account = host.partition(".")[0] or settings.get("AccountName", "")
    if not account:
        raise UserError(
            "store: an az:// address names no account; set AZURE_STORAGE_ACCOUNT, or write "
            "abfs://container@account.dfs.core.windows.net/prefix"
        )
    found = re.fullmatch(HOST, host)
    if host and (found is None or found["suffix"] not in (None, *SUFFIXES, settings.get("EndpointSuffix"))):
        raise UserError(
            f"store: '{host}' is no account of Azure, and credentials are sent nowhere else; write "
            "abfs://container@account.dfs.core.windows.net/prefix, or name the EndpointSuffix in "
            "AZURE_STORAGE_CONNECTION_STRING"
        )
    return account


def _settings_for(host: str) -> dict[str, str]:
    """The environment's settings, if they are of this account: a key or token must not be sent to another one."""
    settings = _settings()
    return settings if azure_account(host) == settings.get("AccountName") else {}


def _settings() -> dict[str, str]:
    """The environment's settings of an Azure account, by their names in a connection string; never to be stored."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    settings = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
    if "SharedAccessSignature" in settings and "BlobEndpoint" in settings:
        # Such a string, as the portal writes it, names the account in the endpoint only.
        settings.setdefault("AccountName", (urlsplit(settings["BlobEndpoint"]).hostname or "").partition(".")[0])
    names = {
        "AccountName": ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"),
        "AccountKey": ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY"),
        "SharedAccessSignature": ("AZURE_STORAGE_SAS_TOKEN",),
    }
    for name, variables in names.items():
        value = next((os.environ[variable] for variable in variables if os.environ.get(variable)), "")
        if value:
            settings.setdefault(name, value)
    return settings
