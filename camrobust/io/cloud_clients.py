"""pyarrow's clients of Google Cloud Storage and Azure Blob Storage, one per process and account.

Credentials come from each cloud's usual chain: the environment, a login of its command line, the machine's identity.
None is ever stored.
"""

import os
import re
from datetime import timedelta
from functools import cache
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.io.retries import BACKOFF_S

AZURE_SUFFIX = "core.windows.net"


def google(*, anonymous: bool) -> Any:
    """The client of Google Cloud Storage; STORAGE_EMULATOR_HOST names another endpoint.

    Args:
        anonymous: use no credentials.
    """
    return _google(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""), anonymous)


@cache
def _google(process: int, endpoint: str, anonymous: bool) -> Any:
    """The client of one process: a client must not be carried over a fork. Emulators know no credentials."""
    del process
    from pyarrow.fs import GcsFileSystem

    scheme, separator, address = endpoint.partition("://")
    other = {"scheme": scheme if separator else "http", "endpoint_override": (address or scheme).rstrip("/")}
    return GcsFileSystem(
        anonymous=anonymous or bool(endpoint),
        retry_time_limit=timedelta(seconds=BACKOFF_S),
        **(other if endpoint else {}),
    )


def azure(host: str, *, anonymous: bool) -> Any:
    """The client of an Azure account.

    Args:
        host: account.dfs.core.windows.net from the address; empty for the account that the environment names.
        anonymous: use no credentials.
    """
    return _azure(os.getpid(), host, anonymous)


@cache
def _azure(process: int, host: str, anonymous: bool) -> Any:
    """The client of one process: a client must not be carried over a fork."""
    del process
    from pyarrow.fs import AzureFileSystem, FileSystem

    account, connection = azure_account(host), _connection()
    if account != connection.get("AccountName", account):
        connection = {}  # the key or token belongs to another account and must not be sent to this one
    scheme, _, address = connection.get("BlobEndpoint", "").partition("://")
    authority = address.partition("/")[0] if address and account in address.partition("/")[2] else ""
    suffix = re.sub(r"^(dfs|blob)\.", "", host.partition(".")[2]) or connection.get("EndpointSuffix") or AZURE_SUFFIX
    if anonymous:
        place = f"{account}@{authority}" if authority else f"{account}.dfs.{suffix}"
        tls = str(scheme != "http").lower()
        return FileSystem.from_uri(f"abfs://{place}/?enable_tls={tls}&credential_kind=anonymous")[0]
    settings = {
        "account_key": connection.get("AccountKey"),
        "sas_token": None if "AccountKey" in connection else connection.get("SharedAccessSignature"),
        "blob_storage_authority": authority or f".blob.{suffix}",
        "dfs_storage_authority": authority or f".dfs.{suffix}",
        "blob_storage_scheme": scheme if authority else None,
        "dfs_storage_scheme": scheme if authority else None,
    }
    return AzureFileSystem(account_name=account, **{name: value for name, value in settings.items() if value})


def forget_clients() -> None:
    """Drop the clients of this process, so that the next call reads the environment again."""
    _google.cache_clear()
    _azure.cache_clear()


def azure_account(host: str) -> str:
    """The account that an address or the environment names.

    Raises:
        UserError: neither names one.
    """
    account = host.partition(".")[0] or _connection().get("AccountName", "")
    if not account:
        raise UserError(
            "store: an az:// address names no account; set AZURE_STORAGE_ACCOUNT, or write "
            "abfs://container@account.dfs.core.windows.net/prefix"
        )
    return account


def _connection() -> dict[str, str]:
    """The environment's settings of an Azure account, by their names in a connection string; never to be stored."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    settings = dict(part.strip().split("=", 1) for part in text.split(";") if "=" in part)
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
