"""S3, and services that speak its protocol, as a store."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from camrobust.contract.errors import UserError
from camrobust.contract.secrecy import sentence
from camrobust.io.addresses import Address, parse
from camrobust.io.objects import Access, Entry, TooLargeObjectError, check_size
from camrobust.io.retries import FIRST_PAUSE_S, OBJECT_TIMEOUT_S, insist
from camrobust.io.s3_client import client, forget_clients
from camrobust.io.store_errors import (
    UnreachableStoreError,
    incomplete,
    missing_bucket,
    missing_credentials,
    missing_object,
    no_permission,
    overloaded,
    refused_credentials,
    unexpected,
)

CHUNK_BYTES = 2**20
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
ALREADY_THERE, BEING_WRITTEN, TOO_MANY, NO_SUCH_RANGE = 412, 409, 429, 416
"""Status codes: of a refused conditional put, of one that must be tried again, of too many requests, of bytes that the
object does not have."""
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure", "UnrecognizedClientException")
OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
THROTTLED = (
    "RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException", "ThrottledException",
    "RequestThrottled", "RequestThrottledException", "RequestLimitExceeded", "TooManyRequestsException",
    "BandwidthLimitExceeded", "PriorRequestNotComplete",
)  # fmt: skip
"""Codes of answers below 500 that may be better next time."""
T = TypeVar("T")


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

    def _try(self, where: str, call: Callable[[Any], T]) -> T:
        """What the client answers, tried again while an error may pass, with every error in one sentence."""

        def once() -> T:
            with _explained(where):
                return call(self._client)

        return insist(once, f"s3://{self._bucket}", FIRST_PAUSE_S)

    def read(self, key: str, most: int | None = None) -> bytes:
        """The content; raises MissingObjectError, and TooLargeObjectError if it has more than `most` bytes."""
        where = self.locate(key)

        def get(client: Any) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=self._key(key), **self._payer)
            try:
                check_size(where, answer["ContentLength"], most)
            except TooLargeObjectError:
                answer["Body"].close()
                raise
            return _body(answer["Body"])

        return self._try(where, get)

    def head(self, key: str, count: int) -> bytes:
        """The first bytes; raises MissingObjectError."""
        return self.read_range(key, 0, count)

    def read_range(self, key: str, start: int, count: int) -> bytes:
        """Some bytes in one request; raises MissingObjectError."""
        from botocore.exceptions import ClientError

        asked = f"bytes={start}-{start + count - 1}"
        request = {"Bucket": self._bucket, "Key": self._key(key), "Range": asked, **self._payer}

        def get(client: Any) -> bytes:
            try:
                return _body(client.get_object(**request)["Body"])[:count]
            except ClientError as error:
                if _status(error) == NO_SUCH_RANGE:
                    # The object ends before.
                    return b""
                raise

        return self._try(self.locate(key), get) if count else b""

    def size_bytes(self, key: str) -> int:
        """Size of an object; raises MissingObjectError."""

        def ask(client: Any) -> int:
            return int(client.head_object(Bucket=self._bucket, Key=self._key(key), **self._payer)["ContentLength"])

        return self._try(self.locate(key), ask)

    def write(self, key: str, content: bytes) -> None:
        """One put: readers see the whole object or none."""
        self._try(
            self.locate(key), lambda client: client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)
        )

    def create(self, key: str, content: bytes) -> bool:
        """One conditional put (If-None-Match). A retry that finds its own content has succeeded."""
        from botocore.exceptions import ClientError

        def put(client: Any) -> bool:
            try:
                client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _status(error) != ALREADY_THERE:
                    raise
                return False
            return True

        return self._try(self.locate(key), put) or self.read(key) == content

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the prefix, sorted by key, except folder markers (`a/`)."""
        request = {"Bucket": self._bucket, "Prefix": self._key(prefix), **self._payer}
        more = True
        while more:
            page = self._try(self.uri, lambda client: client.list_objects_v2(**request))
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield Entry(entry["Key"][len(self.place.key) :], entry["Size"])
            more = bool(page.get("IsTruncated"))
            request["ContinuationToken"] = page.get("NextContinuationToken", "")

    def delete(self, key: str) -> None:
        """Remove an object; a missing object is no error."""
        self._try(self.locate(key), lambda client: client.delete_object(Bucket=self._bucket, Key=self._key(key)))

    def locate(self, key: str) -> str:
        """The s3:// address of an object."""
        return str(replace(self.place, key=self._key(key)))


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
        UserError: no such bucket, no permission, or another region.
        PassingError: it may pass: no or expired credentials, no answer, or an answer that says so.
        RunFailed: any other answer.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        EndpointConnectionError,
        HTTPClientError,
        IncompleteReadError,
        MetadataRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, MetadataRetrievalError) as error:
        # A file or a process that gives credentials may be at work on new ones.
        raise missing_credentials(where, CREDENTIALS, forget_clients) from error
    except EndpointConnectionError as error:
        raise UnreachableStoreError(
            f"s3: cannot reach the endpoint for {where}; check AWS_ENDPOINT_URL and the network"
        ) from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "")) or "Unknown"
        raise _refused(code, _status(error), where) from error
    except (HTTPClientError, IncompleteReadError) as error:
        raise incomplete(where, f" ({type(error).__name__})") from error
    except BotoCoreError as error:
        message = sentence(" ".join(str(error).split()))
        raise UserError(f"s3: {where}: {message}; check the address and the network") from error
    except ValueError as error:
        # AWS_ENDPOINT_URL is not an address. It may hold a secret, so it is not quoted.
        raise UserError(
            f"s3: cannot request {where}; AWS_ENDPOINT_URL must be http://host or https://host, perhaps with a port"
        ) from error


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _refused(code: str, status: int, where: str) -> Exception:
    if code in ("NoSuchKey", "404", "NotFound"):
        return missing_object(where)
    if code == "NoSuchBucket":
        return missing_bucket(where, "bucket", parse(where).bucket)
    if code in ("AccessDenied", "403", "Forbidden", "AllAccessDisabled"):
        return no_permission(where, "read, list and write")
    if code in EXPIRED or code in REFUSED:
        return refused_credentials(where, code, forget_clients, expired=code in EXPIRED)
    if code in OTHER_REGION:
        return UserError(f"s3: {where} is in another region ({code}); set AWS_REGION to the region of its bucket")
    if status >= 500 or status in (BEING_WRITTEN, TOO_MANY) or code in THROTTLED:
        return overloaded(where, code)
    return unexpected(where, code)
