"""Where bytes live: a folder or an S3 prefix, behind one small interface.

Writes are atomic: a reader sees the whole object or none. Credentials come from boto3's usual chain (environment,
profile, instance role) and the endpoint from `AWS_ENDPOINT_URL`; neither is ever stored.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from camrobust.errors import RunFailed, UserError

ATTEMPTS = 8
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    size_bytes: int


class MissingObjectError(Exception):
    """There is no such object; takes one string, so that it unpickles."""


class Store(Protocol):
    """A place for bytes by key; keys are relative, with forward slashes."""

    @property
    def uri(self) -> str:
        """Its address."""

    def read(self, key: str) -> bytes:
        """The content; raises MissingObjectError."""

    def write(self, key: str, content: bytes) -> None:
        """Put the content there, all or nothing."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def locate(self, key: str) -> str:
        """Address of an object, as polars and Ray take it."""


@dataclass(frozen=True)
class Folder:
    """A local (or mounted) directory."""

    uri: str

    def read(self, key: str) -> bytes:
        """The content; raises MissingObjectError."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"there is no file {self.locate(key)}") from error
        except (IsADirectoryError, PermissionError) as error:
            raise UserError(f"store: cannot read {self.locate(key)} ({error.strerror}); check the path") from error

    def write(self, key: str, content: bytes) -> None:
        """Write beside the final name, flush to the disk, then rename."""
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise UserError(f"store: cannot write {path} ({error.strerror}); choose a writable output") from error

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file below, hidden and unfinished ones left out, sorted by key."""
        root = Path(self.uri)
        start = root / prefix.rpartition("/")[0]
        found = [
            Entry(path.relative_to(root).as_posix(), path.stat().st_size)
            for path in start.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        ]
        yield from sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: one.key)

    def delete(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        self._path(key).unlink(missing_ok=True)

    def locate(self, key: str) -> str:
        """Absolute path of a file."""
        return str(self._path(key))

    def _path(self, key: str) -> Path:
        return Path(self.uri) / key


@dataclass(frozen=True)
class Bucket:
    """A prefix in an S3 bucket."""

    uri: str

    @property
    def _bucket(self) -> str:
        return urlsplit(self.uri).netloc

    def _key(self, key: str) -> str:
        prefix = urlsplit(self.uri).path.strip("/")
        return "/".join(part for part in (prefix, key) if part)

    def read(self, key: str) -> bytes:
        """The content; raises MissingObjectError."""
        with explained(self.locate(key)):
            content: bytes = client().get_object(Bucket=self._bucket, Key=self._key(key))["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        """One put; a store shows it whole or not at all."""
        with explained(self.locate(key)):
            client().put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below, sorted by key, a thousand per request."""
        root = self._key("")
        root = f"{root}/" if root else ""
        with explained(self.uri):
            pages = client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root + prefix)
            for page in pages:
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):
                        yield Entry(entry["Key"][len(root) :], entry["Size"])

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with explained(self.locate(key)):
            client().delete_object(Bucket=self._bucket, Key=self._key(key))

    def locate(self, key: str) -> str:
        """s3:// address of an object."""
        return f"s3://{self._bucket}/{self._key(key)}"


def open_store(uri: str) -> Store:
    """The store at a local path, file:// or s3:// address.

    Raises:
        UserError: another scheme, or no bucket in the address.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Folder(str(Path(uri).expanduser().resolve()))
    if scheme == "file":
        return Folder(str(Path(rest).resolve()))
    if scheme != "s3":
        raise UserError(f"store: '{uri}' must be a path, file:// or s3://, got {scheme}://; copy it to one of these")
    if not urlsplit(uri).netloc:
        raise UserError(f"store: '{uri}' names no bucket; write s3://bucket/prefix")
    return Bucket(uri.rstrip("/"))


def open_object(uri: str) -> tuple[Store, str]:
    """The store and the key of a single object."""
    if "://" not in uri:
        path = Path(uri).expanduser().resolve()
        return Folder(str(path.parent)), path.name
    parent, _, key = uri.rpartition("/")
    return open_store(parent), key


def read_object(uri: str) -> bytes:
    """The content of one object; raises MissingObjectError."""
    store, key = open_object(uri)
    return store.read(key)


@cache
def _client(process: int) -> Any:
    """One client per process: a client must not be carried over a fork."""
    del process
    import boto3
    from botocore.config import Config

    if os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"):
        for kind in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
            os.environ.setdefault(kind, "when_required")
    return boto3.Session().client(
        "s3",
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        config=Config(
            retries={"max_attempts": ATTEMPTS, "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=64,
        ),
    )


def client() -> Any:
    """The S3 client of this process; retries with backoff, bounded by timeouts."""
    return _client(os.getpid())


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what S3 answers into one sentence with the remedy.

    Raises:
        MissingObjectError: the object is not there.
        UserError: no credentials, no such bucket, no permission, no such endpoint.
    """
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise UserError(
            f"s3: no credentials for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
        ) from error
    except EndpointConnectionError as error:
        raise UserError(f"s3: cannot reach the endpoint for {where}; check AWS_ENDPOINT_URL and the network") from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "")) or "Unknown"
        raise _refused(code, where) from error
    except BotoCoreError as error:
        raise UserError(f"s3: {where}: {' '.join(str(error).split())}; check the address and the network") from error


def _refused(code: str, where: str) -> Exception:
    bucket = urlsplit(where).netloc
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObjectError(f"there is no object {where}")
    if code == "NoSuchBucket":
        return UserError(f"s3: there is no bucket '{bucket}' ({where}); create it or mend the address")
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        return UserError(f"s3: no permission for {where}; these credentials need read, list and write on it")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return UserError(f"s3: the credentials are refused for {where} ({code}); renew or mend them")
    return RunFailed(f"s3: {where} answered {code}; the store may be overloaded, run again to resume")


def polars_options(uri: str) -> dict[str, str] | None:
    """Storage options for polars to read the same place, None for a folder; never to be stored or logged."""
    if not uri.startswith("s3://"):
        return None
    import boto3

    credentials = boto3.Session().get_credentials()
    options = {"aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key, "aws_secret_access_key": frozen.secret_key}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options


def arrow_filesystem(uri: str) -> Any:
    """The pyarrow filesystem of a place, for engines that read through Arrow; None for a folder."""
    if not uri.startswith("s3://"):
        return None
    from pyarrow import fs

    options = polars_options(uri) or {}
    endpoint = options.get("aws_endpoint_url", "")
    scheme, _, address = endpoint.partition("://")
    keys = {
        "access_key": options.get("aws_access_key_id"),
        "secret_key": options.get("aws_secret_access_key"),
        "session_token": options.get("aws_session_token"),
        "endpoint_override": address.rstrip("/") or None,
        "scheme": scheme or None,
        "region": options["aws_region"],
    }
    return fs.S3FileSystem(
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
        **{name: value for name, value in keys.items() if value},
    )
