"""Patterns for names of files, such as `photos/*.jpg` and `**/@eaDir/**`.

`*` and `?` stand for any text and any character without a slash, `**` for any number of folders, `[abc]` and `[!abc]`
for one character.
"""

import re
from collections.abc import Sequence

from camrobust.contract.errors import UserError

_WILDCARDS = "*?["
_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^/\]]+\]|.", re.DOTALL)
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


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


def matcher(*patterns: str) -> re.Pattern[str]:
    """The regular expression that a whole name must match: one of the patterns.

    Raises:
        UserError: the first pattern means nothing.
    """
    choices = ("".join(map(_meaning, _TOKENS.findall(pattern))) for pattern in patterns)
    try:
        return re.compile(f"(?s:{'|'.join(choices)})\\Z")
    except re.error as error:
        raise UserError(f"pattern: '{patterns[0]}' means nothing ({error.msg}); see docs/running.md") from error


def _meaning(token: str) -> str:
    if token.startswith("[") and len(token) > 1:
        inner = token[1:-1]
        negated = inner.startswith("!")
        signs = "".join(sign if sign == "-" else re.escape(sign) for sign in inner[negated:])
        return f"[^/{signs}]" if negated else f"[{signs}]"
    return _MEANINGS.get(token) or re.escape(token)


class Exclusions:
    """Patterns of names to leave out, and which of them have matched.

    A pattern without a slash holds at every depth, and a pattern that matches a folder holds for all below it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises UserError if a pattern means nothing."""
        self._unused = {pattern: matcher(*_spellings(pattern)) for pattern in patterns}
        self._used: list[re.Pattern[str]] = []

    def match(self, name: str) -> bool:
        """Whether a name is left out."""
        if any(known.match(name) for known in self._used):
            return True
        for pattern, meaning in self._unused.items():
            if meaning.match(name):
                self._used.append(self._unused.pop(pattern))
                return True
        return False

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that have matched no name so far."""
        return tuple(self._unused)


def _spellings(pattern: str) -> tuple[str, ...]:
    """The pattern and what else it means: all below what it matches, and at every depth if it has no slash."""
    inner = pattern.strip("/")
    deep = () if "/" in pattern.rstrip("/") else (f"**/{inner}", f"**/{inner}/**")
    return inner, f"{inner}/**", *deep
