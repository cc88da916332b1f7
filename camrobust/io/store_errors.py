"""The sentences in which the stores explain what a service answered; each begins with the scheme of the address."""

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.objects import DeniedObjectError, MissingObjectError


def _scheme(where: str) -> str:
    return where.partition("://")[0]


def missing_object(where: str) -> MissingObjectError:
    """There is no such object."""
    return MissingObjectError(f"there is no object {where}")


def missing_bucket(where: str, kind: str, bucket: str) -> UserError:
    """There is no such bucket or container."""
    return UserError(f"{_scheme(where)}: there is no {kind} '{bucket}' ({where}); create it or correct the address")


def no_permission(where: str, needed: str) -> DeniedObjectError:
    """The credentials are valid but may not do this."""
    return DeniedObjectError(f"{_scheme(where)}: no permission for {where}; these credentials need {needed} on it")


def refused_credentials(where: str, code: str) -> UserError:
    """The credentials are not valid."""
    return UserError(f"{_scheme(where)}: the credentials are refused for {where} ({code}); renew or correct them")


def overloaded(where: str, code: str) -> RunFailed:
    """The service is there and fails."""
    return RunFailed(f"{_scheme(where)}: {where} answered {code}; the store may be overloaded, run again to resume")
