"""What stopped a run, in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ActorDiedError, RayError

from camrobust.contract.errors import RunFailed, UserError

RETRIED = "Failed to apply UDF transform"
"""Beginning of the text that Ray appends to the message of a worker's error."""

OURS = re.compile(r"camrobust\.(?:contract\.errors|io\.\w+)\.\w+: (.+)")
"""Last line of the text of an error of ours. An error in an actor's constructor arrives as text only."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise what stopped the run as one sentence, without Ray's layers around it; commits so far are kept."""
    try:
        yield
    except Exception as error:
        own = _user_error(error)
        if own is not None:
            raise RunFailed(_lines(own)[0]) from error
        last = _lines(error)[-1]
        if isinstance(error, ActorDiedError) and (raised := OURS.fullmatch(last)):
            raise RunFailed(raised[1]) from error
        inner = getattr(error, "cause", None)
        if isinstance(inner, BaseException):
            why = f"{type(inner).__name__}: {_lines(inner)[0]}"
        else:
            why = f"{type(error).__name__}: {last}"
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
        # Ray's own errors are of the class of their cause, too, and hold a traceback.
        if isinstance(error, UserError) and not isinstance(error, RayError):
            return error
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
