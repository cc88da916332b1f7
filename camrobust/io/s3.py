"""S3 and what speaks like it. Every retry, timeout and backoff of the project's own calls is set here.

Credentials come from boto3's usual chain (environment, profile, instance role) and the endpoint from
`AWS_ENDPOINT_URL`; neither is ever stored.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.secrecy import sentence
from camrobust.io.addresses import Address, parse
from camrobust.io.objects import Access, DeniedObjectError, Entry, MissingObjectError, TooLargeObjectError, check_size

ATTEMPTS = 8
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""Between two bytes of an answer."""
OBJECT_TIMEOUT_S = 600
"""For all of an object, so that one that trickles is given up, too."""
BACKOFF_S = 20
CHUNK_BYTES = 2**20
ALREADY_THERE, BEING_WRITTEN = 412, 409
"""Answers to a conditional put; after the second it is to be tried again."""


@dataclass(frozen=True)
class Bucket:
    """A prefix in an S3 bucket.

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
    def _bucket(self) -> str:
        return self.place.bucket

    @property
    def _client(self) -> Any:
        return client(anonymous=self.access == "anonymous")

    @property
    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.access == "requester_pays" else {}

    def _key(self, key: str) -> str:
        return self.place.key + key

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError where it is more than `most` bytes."""
        where = self.locate(key)

        def get() -> Any:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **self._payer)
            try:
                check_size(where, answer["ContentLength"], most)
            except TooLargeObjectError:
                answer["Body"].close()
                raise
            return answer["Body"]

        with explained(where):
            return _whole(get)

    def write(self, key: str, content: bytes) -> None:
        """One put; a store shows it whole or not at all."""
        with explained(self.locate(key)):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def create(self, key: str, content: bytes) -> bool:
        """One conditional put (If-None-Match); a retry that finds its own content has won."""
        from botocore.exceptions import ClientError

        with explained(self.locate(key)):
            for attempt in range(attempts()):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == ALREADY_THERE:
                        return self.read(key) == content
                    if status != BEING_WRITTEN or attempt + 1 == attempts():
                        raise
                    time.sleep(random.uniform(0, min(BACKOFF_S, 0.1 * 2**attempt)))
                else:
                    return True
        raise RunFailed(f"s3: {self.locate(key)} was never written; run again to resume")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below but folder markers (keys that end with a slash), sorted by key, a thousand per request."""
        with explained(self.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._key(prefix), **self._payer
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):
                        yield Entry(entry["Key"][len(self.place.key) :], entry["Size"])

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with explained(self.locate(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def locate(self, key: str) -> str:
        """s3:// address of an object."""
        return str(replace(self.place, key=self._key(key)))


def _whole(get: Callable[[], Any]) -> bytes:
    """A body; one that breaks off or trickles is asked for again, which botocore leaves to us."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for attempt in range(attempts()):
        if attempt:
            time.sleep(random.uniform(0, min(BACKOFF_S, 0.1 * 2**attempt)))
        stream = get()
        try:
            return _body(stream)
        except (IncompleteReadError, HTTPClientError) as error:
            broken = error
    raise broken


def _body(stream: Any) -> bytes:
    from botocore.exceptions import ResponseStreamingError

    deadline = time.monotonic() + OBJECT_TIMEOUT_S
    chunks = []
    with closing(stream) as body:
        for chunk in body.iter_chunks(CHUNK_BYTES):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                raise ResponseStreamingError(error=f"no end of it after {OBJECT_TIMEOUT_S} s")
    return b"".join(chunks)


def attempts() -> int:
    """How often a call to the store is tried: AWS_MAX_ATTEMPTS, or 8."""
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return int(given) if given.isdigit() and int(given) else ATTEMPTS


@cache
def _client(process: int, anonymous: bool) -> Any:
    """One client per process: a client must not be carried over a fork."""
    del process
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    if os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"):
        for kind in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
            os.environ.setdefault(kind, "when_required")
    return boto3.Session().client(
        "s3",
        region_name=_region(),
        config=Config(
            retries={"total_max_attempts": attempts(), "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=64,
            signature_version=UNSIGNED if anonymous else None,
        ),
    )


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def client(*, anonymous: bool = False) -> Any:
    """The S3 client of this process; retries with backoff, bounded by timeouts."""
    return _client(os.getpid(), anonymous)


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what S3 answers into one sentence with the remedy.

    Raises:
        MissingObjectError: the object is not there.
        UserError: no credentials, no such bucket, no permission, no such endpoint.
        RunFailed: the store is there and fails, however often it is asked.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
    )

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
    except (HTTPClientError, IncompleteReadError) as error:
        raise RunFailed(
            f"s3: {where} did not answer in full ({type(error).__name__}, {attempts()} attempts); run again to resume"
        ) from error
    except BotoCoreError as error:
        told = sentence(" ".join(str(error).split()))
        raise UserError(f"s3: {where}: {told}; check the address and the network") from error
    except ValueError as error:
        # Of an endpoint that is none; the address may hold a secret and is not repeated.
        raise UserError(
            f"s3: cannot ask for {where}; AWS_ENDPOINT_URL must be http://host or https://host, perhaps with a port"
        ) from error


def _refused(code: str, where: str) -> Exception:
    bucket = parse(where).bucket
    if code in ("NoSuchKey", "404", "NotFound"):
        return MissingObjectError(f"there is no object {where}")
    if code == "NoSuchBucket":
        return UserError(f"s3: there is no bucket '{bucket}' ({where}); create it or mend the address")
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        return DeniedObjectError(f"s3: no permission for {where}; these credentials need read, list and write on it")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return UserError(f"s3: the credentials are refused for {where} ({code}); renew or mend them")
    return RunFailed(f"s3: {where} answered {code}; the store may be overloaded, run again to resume")


def polars_options(uri: str) -> dict[str, Any] | None:
    """Storage options for polars to read the same place, None for a folder; never to be stored or logged."""
    if not uri.startswith("s3://"):
        return None
    import boto3

    credentials = boto3.Session().get_credentials()
    options: dict[str, Any] = {"aws_region": _region(), "max_retries": attempts()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key, "aws_secret_access_key": frozen.secret_key}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options
