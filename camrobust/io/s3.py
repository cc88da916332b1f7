"""S3, and services that speak its protocol, as a store."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from camrobust.contract.errors import RunFailed, UserError
from camrobust.contract.secrecy import sentence
from camrobust.io.addresses import Address, parse
from camrobust.io.objects import Access, Entry, TooLargeObjectError, check_size
from camrobust.io.retries import OBJECT_TIMEOUT_S, attempts, pause
from camrobust.io.s3_client import client
from camrobust.io.store_errors import missing_bucket, missing_object, no_permission, overloaded, refused_credentials

CHUNK_BYTES = 2**20
FIRST_PAUSE_S = 0.1
ALREADY_THERE, BEING_WRITTEN = 412, 409
"""Status codes of a refused conditional put. After the second one the put must be tried again."""


@dataclass(frozen=True)
class Bucket:
    """A prefix in an S3 bucket.

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
        """The content; raises MissingObjectError, and TooLargeObjectError if it has more than `most` bytes."""
        where = self.locate(key)

        def get() -> Any:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key), **self._payer)
            try:
                check_size(where, answer["ContentLength"], most)
            except TooLargeObjectError:
                answer["Body"].close()
                raise
            return answer["Body"]

        with _explained(where):
            return _whole(get)

    def write(self, key: str, content: bytes) -> None:
        """One put: readers see the whole object or none."""
        with _explained(self.locate(key)):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def create(self, key: str, content: bytes) -> bool:
        """One conditional put (If-None-Match). A retry that finds its own content has succeeded."""
        from botocore.exceptions import ClientError

        with _explained(self.locate(key)):
            for attempt in range(attempts()):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == ALREADY_THERE:
                        return self.read(key) == content
                    if status != BEING_WRITTEN or attempt + 1 == attempts():
                        raise
                    pause(attempt, FIRST_PAUSE_S)
                else:
                    return True
        raise RunFailed(f"s3: {self.locate(key)} was never written; run again to resume")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key, except folder markers (`a/`)."""
        with _explained(self.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._key(prefix), **self._payer
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):
                        yield Entry(entry["Key"][len(self.place.key) :], entry["Size"])

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        with _explained(self.locate(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def locate(self, key: str) -> str:
        """The s3:// address of an object."""
        return str(replace(self.place, key=self._key(key)))


def _whole(get: Callable[[], Any]) -> bytes:
    """The whole body. botocore does not repeat a request whose body breaks off or is too slow, so this does."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for attempt in range(attempts()):
        if attempt:
            pause(attempt, FIRST_PAUSE_S)
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
                raise ResponseStreamingError(error=f"no end after {OBJECT_TIMEOUT_S} s")
    return b"".join(chunks)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn an error of S3 into one sentence with the remedy.

    Raises:
        MissingObjectError: the object does not exist.
        UserError: no credentials, no such bucket, no permission, or no such endpoint.
        RunFailed: the store still fails after the last attempt.
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
        message = sentence(" ".join(str(error).split()))
        raise UserError(f"s3: {where}: {message}; check the address and the network") from error
    except ValueError as error:
        # AWS_ENDPOINT_URL is not an address. It may hold a secret, so it is not quoted.
        raise UserError(
            f"s3: cannot request {where}; AWS_ENDPOINT_URL must be http://host or https://host, perhaps with a port"
        ) from error


def _refused(code: str, where: str) -> Exception:
    if code in ("NoSuchKey", "404", "NotFound"):
        return missing_object(where)
    if code == "NoSuchBucket":
        return missing_bucket(where, "bucket", parse(where).bucket)
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        return no_permission(where, "read, list and write")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return refused_credentials(where, code)
    return overloaded(where, code)
