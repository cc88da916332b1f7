"""Calls to pyarrow's cloud clients: limited in time, tried again, and every error explained in one sentence."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

from camrobust.contract.errors import UserError
from camrobust.io.cloud_clients import forget_clients
from camrobust.io.retries import OBJECT_TIMEOUT_S, attempts, insist
from camrobust.io.store_errors import (
    RefusedCredentialsError,
    UnreachableStoreError,
    incomplete,
    missing_object,
    no_permission,
    overloaded,
    refused_credentials,
)

AZURE = ("az", "abfs", "abfss")
CLIENT_TRIES = 4
"""How often Azure's own client tries a call; Google's client tries for `BACKOFF_S`."""
CREDENTIALS = {
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, log in with gcloud, or give the machine a service account",
    "az": "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, log in with az, or give the machine an identity",
}
T = TypeVar("T")


def with_retries(call: Callable[[], T], where: str) -> T:
    """Return the result of a call, tried again while the store may recover.

    Args:
        call: asks the client.
        where: the address, for the sentence of an error.

    Raises:
        MissingObjectError: the object does not exist.
        UserError: no permission.
        PassingError: no credentials, no such endpoint, or the store still fails after the last attempt.
    """

    def once() -> T:
        with _explained(where):
            return _limited(call)

    scheme, _, path = where.partition("://")
    return insist(once, f"{scheme}://{path.partition('/')[0]}", 1, -(-attempts() // CLIENT_TRIES))


def _limited(call: Callable[[], T]) -> T:
    """The result of a call, or TimeoutError: these clients wait for ever for a store that accepts and never answers."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(OBJECT_TIMEOUT_S)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn an error of a client into one sentence with the remedy; raises as `with_retries` does."""
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError as error:
        raise missing_object(where) from error
    except (OSError, ArrowException) as error:
        raise _refused(error, where) from error


def _refused(error: Exception, where: str) -> Exception:
    scheme, text = where.partition("://")[0], " ".join(str(error).split())
    cloud = "az" if scheme in AZURE else "gs"
    azure_code, status = (re.findall(r"Azure Error: \[(\w*)\] ?(\d*)", text) or [("", "")])[0]
    code = azure_code or status or (re.findall(r"Status\((\w+):", text) or [type(error).__name__])[0]
    if status == "401" or code in ("UNAUTHENTICATED", "AuthenticationFailed"):
        return refused_credentials(where, code, forget_clients, expired=False)
    if "OAuth2 access token" in text or "Credential" in text:
        missing = RefusedCredentialsError(f"{scheme}: no credentials for {where}; {CREDENTIALS[cloud]}")
        missing.why, missing.before_next = "has no credentials here", forget_clients
        return missing
    if re.search(r"[Cc]ould( not|n't) (connect|resolve)", text):
        return UnreachableStoreError(f"{scheme}: cannot reach the store for {where}; check the address and the network")
    if isinstance(error, PermissionError) or status == "403" or code == "PublicAccessNotPermitted":
        return no_permission(where, "read and list")
    if code == "INVALID_ARGUMENT" or status in ("400", "409"):
        return UserError(f"{scheme}: {where} is refused ({code}); correct the address")
    if isinstance(error, TimeoutError):
        return incomplete(where, f" within {OBJECT_TIMEOUT_S} s")
    return overloaded(where, code)
