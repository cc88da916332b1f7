"""Patterns for names of files, such as `photos/*.jpg` and `**/@eaDir/**`.

`*` and `?` stand for any text and any character without a slash, `**` for any number of folders, `[abc]` and `[!abc]`
for one character.
"""

import re
from collections.abc import Sequence
from itertools import groupby

from camrobust.contract.errors import UserError

_WILDCARDS = "*?["
_TOKENS = re.compile(r"\*+|\?|\[!?[^/\]]+\]|.", re.DOTALL)
_DEEP = "**"
_FOLDERS = "(?:[^/]*/)*"
_SPECIAL = re.compile(r"(?:^|/)\.[^./]")


def has_wildcard(text: str) -> bool:
    """Whether the text holds a character that has a meaning in patterns."""
    return any(sign in text for sign in _WILDCARDS)


def before_wildcard(pattern: str) -> tuple[str, str]:
    """The folder above the first wildcard, with its slash, and the pattern below it.

    >>> before_wildcard("s3://bucket/photos/*/a?.jpg")
    ('s3://bucket/photos/', '*/a?.jpg')
    """
    literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    folder = literal[: literal.rfind("/") + 1]
    return folder, pattern[len(folder) :]


def depth(pattern: str) -> int | None:
    """How many names one below another a pattern holds; None if it holds `**`, any number of them.

    >>> depth("*/a?.jpg"), depth("**/a.jpg")
    (2, None)
    """
    return None if _DEEP in pattern else pattern.count("/") + 1


def matcher(*patterns: str) -> re.Pattern[str]:
    """The regular expression that a whole name must match: one of the patterns.

    Where a `*` or `**` is followed by another one, its first end that fits the text between them is kept, as Python's
    fnmatch does; so the time grows with the length of the name only a little faster than linearly.

    Raises:
        UserError: the first pattern means nothing.
    """
    try:
        return re.compile(f"(?s:{'|'.join(map(_expression, patterns))})\\Z")
    except re.error as error:
        raise UserError(f"pattern: '{patterns[0]}' means nothing ({error.msg}); see docs/running.md") from error


def _expression(pattern: str) -> str:
    """A pattern as a regular expression."""
    # `**.jpg` stands for `**/*.jpg`; `a/**` for everything in a, at any depth.
    parts = re.sub(r"(^|/)\*\*+(?=[^*/])", r"\1**/*", pattern).split("/")
    parts = [*parts, "*"] if parts[-1] == _DEEP else parts
    runs = [list(run) for deep, run in groupby(parts, _DEEP.__eq__) if not deep]
    last, written = len(runs) - 1, ""
    for place, run in enumerate(runs):
        names = "/".join(map(_name, run))
        if place == 0 and parts[0] != _DEEP:
            written += names if place == last else f"{names}/"
        elif place == last:
            written += f"{_FOLDERS}{names}"
        else:
            written += f"(?>{_FOLDERS}?{names}/)"
    return written


def _name(part: str) -> str:
    """The regular expression of one name between slashes."""
    texts = [""]
    for token in _TOKENS.findall(part):
        if token.startswith("*"):
            texts.append("")
        else:
            texts[-1] += _sign(token)
    first, *rest = texts
    if not rest:
        return first
    middle = "".join(f"(?>[^/]*?{text})" for text in rest[:-1])
    return f"(?>{first}{middle}[^/]*{rest[-1]}(?=/|\\Z))"


def _sign(token: str) -> str:
    """The regular expression of one character."""
    if token.startswith("[") and len(token) > 1:
        inner = token[1:-1]
        negated = inner.startswith("!")
        signs = "".join(sign if sign == "-" else re.escape(sign) for sign in inner[negated:])
        return f"[^/{signs}]" if negated else f"[{signs}]"
    return "[^/]" if token == "?" else re.escape(token)


class Exclusions:
    """Patterns of names to leave out, and which of them have matched.

    A pattern without a slash holds at every depth, and a pattern that matches a folder holds for all below it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises UserError if a pattern means nothing."""
        self._unused = {pattern: matcher(*_spellings(pattern)) for pattern in patterns}
        self._used: list[re.Pattern[str]] = []

    def match(self, name: str) -> bool:
        """Whether a name is left out; every pattern that has not matched yet is tried."""
        found = [pattern for pattern, meaning in self._unused.items() if meaning.match(name)]
        self._used += [self._unused.pop(pattern) for pattern in found]
        return bool(found) or any(known.match(name) for known in self._used)

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have matched no name so far, except those of hidden names, which are not all listed."""
        return tuple(pattern for pattern in self._unused if not _SPECIAL.search(pattern))


def _spellings(pattern: str) -> tuple[str, ...]:
    """The pattern and what else it means: all below what it matches, and at every depth if it has no slash."""
    inner = pattern.strip("/")
    deep = () if "/" in pattern.rstrip("/") else (f"**/{inner}", f"**/{inner}/**")
    return inner, f"{inner}/**", *deep
