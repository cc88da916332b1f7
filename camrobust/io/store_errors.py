"""The sentences in which the stores explain what a service answered; each begins with the scheme of the address."""

from collections.abc import Callable

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.objects import DeniedObjectError, MissingObjectError

PASSING = (408, 410, 429)
"""Statuses below 500 that may be better next time: a slow request, an upload that was forgotten, too many requests."""


class PassingError(UserError):
    """An error that may pass, so that the call is tried again (`io.retries`); takes one string, so that it unpickles.

    Attributes:
        why: what the store does, in a few words.
        always: it may pass anywhere; else only where this process has reached the store before.
        tries: attempts outside a run; None for as many as for any call.
        before_next: called before the next attempt.
    """

    why = "fails"
    always = True
    tries: int | None = None
    before_next: Callable[[], None] = staticmethod(lambda: None)


class FailingStoreError(PassingError, RunFailed):
    """The service is there and fails."""


class UnreachableStoreError(PassingError):
    """Nothing answers at this address."""

    why = "cannot be reached"
    tries = 3


class RefusedCredentialsError(PassingError):
    """The credentials have expired, or are not valid. A new client reads them again from where they are from."""

    why = "refuses the credentials"
    tries = 2


def _scheme(where: str) -> str:
    return where.partition("://")[0]


def unreachable(where: str) -> UnreachableStoreError:
    """Nothing answers at this address."""
    return UnreachableStoreError(
        f"{_scheme(where)}: cannot reach the store for {where}; check the address and the network"
    )


def missing_object(where: str) -> MissingObjectError:
    """There is no such object."""
    return MissingObjectError(f"there is no object {where}")


def missing_bucket(where: str, kind: str, bucket: str) -> UserError:
    """There is no such bucket or container."""
    return UserError(f"{_scheme(where)}: there is no {kind} '{bucket}' ({where}); create it or correct the address")


def no_permission(where: str, needed: str) -> DeniedObjectError:
    """The credentials are valid but may not do this."""
    return DeniedObjectError(f"{_scheme(where)}: no permission for {where}; these credentials need {needed} on it")


def missing_credentials(where: str, remedy: str, renew: Callable[[], None]) -> RefusedCredentialsError:
    """There are no credentials, or not yet.

    Args:
        where: the address.
        remedy: what gives some.
        renew: makes the next attempt look for them again.
    """
    error = RefusedCredentialsError(f"{_scheme(where)}: no credentials for {where}; {remedy}")
    error.why, error.before_next = "has no credentials here", renew
    return error


def refused_credentials(where: str, code: str, renew: Callable[[], None], *, expired: bool) -> RefusedCredentialsError:
    """The credentials are not valid, or no longer.

    Args:
        where: the address.
        code: of the service.
        renew: makes the next attempt read the credentials again.
        expired: they were valid before.
    """
    error = RefusedCredentialsError(
        f"{_scheme(where)}: the credentials are refused for {where} ({code}); renew or correct them"
    )
    error.why, error.before_next, error.always = f"refuses the credentials ({code})", renew, expired
    return error


def overloaded(where: str, code: str) -> FailingStoreError:
    """The service is there and fails."""
    error = FailingStoreError(
        f"{_scheme(where)}: {where} answered {code}; the store may be overloaded, run again to resume"
    )
    error.why = f"answered {code}"
    return error


def incomplete(where: str, how: str) -> FailingStoreError:
    """An answer that broke off, or came too late."""
    error = FailingStoreError(f"{_scheme(where)}: {where} did not answer in full{how}; run again to resume")
    error.why = "did not answer in full"
    return error


def unexpected(where: str, code: str) -> RunFailed:
    """An answer that a second attempt would not change."""
    return RunFailed(f"{_scheme(where)}: {where} answered {code}, as it would again; check address and endpoint")


def of_status(where: str, status: int, code: str) -> UserError:
    """An answer of which no more is known than its status.

    Args:
        where: the address.
        status: of the answer.
        code: what the service calls it.
    """
    if status >= 500 or status in PASSING:
        return overloaded(where, code)
    if status == 400:
        return UserError(f"{_scheme(where)}: {where} is refused ({code}); correct the address")
    return unexpected(where, code)
