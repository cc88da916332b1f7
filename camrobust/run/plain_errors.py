"""What stopped a run, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from camrobust.contract.errors import RunFailed, UserError
from camrobust.io.objects import DeniedObjectError

RETRIED = "Failed to apply UDF transform"
"""Beginning of the text that Ray appends to the message of a worker's error."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what stopped the run as one sentence, without Ray's layers around it; commits so far are kept."""
    try:
        yield
    except Exception as error:
        own = _user_error(error)
        if own is not None:
            raise RunFailed(_lines(own)[0]) from error
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            why = f"{type(inner).__name__}: {_lines(inner)[0]}"
        else:
            why = f"{type(error).__name__}: {_lines(error)[-1]}"
        raise RunFailed(f"run: stopped by {why}; run again to resume, with --verbose to see all of it") from error


def _lines(error: BaseException) -> list[str]:
    """The lines of an error's message, at least one, without Ray's text about retries."""
    text, retried, _ = str(error.args[0] if len(error.args) == 1 else error).partition(RETRIED)
    text = text.rstrip(": '\n") if retried else text
    return [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]


def _user_error(error: BaseException | None) -> UserError | None:
    """The first error among the causes whose message is a sentence of ours; None where there is none."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)
        if isinstance(error, UserError) and type(error) in (UserError, RunFailed, DeniedObjectError):
            return error
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
