"""Other people's text inside our sentences: short, and without anything that steers a terminal."""

import json
import re
import reprlib

MOST = 120
"""Characters of one quoted value."""
STEERS = (
    # Control characters; marks of direction, of width zero and of lines; half characters; tags.
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff"
)
UNSAFE = re.compile(f"[{STEERS}]")
UNSAFE_IN_JSON = re.compile(f"(?!\n)[{STEERS}]")


class _Short(reprlib.Repr):
    """Python's notation that looks at a few levels and members only, so that its cost is bounded, too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, MOST, MOST

    def repr_int(self, value: int, level: int) -> str:
        """Beyond some thousand digits Python refuses to write a number down."""
        return f"a number of {value.bit_length()} bits" if value.bit_length() > MOST else super().repr_int(value, level)


def shown(value: object) -> str:
    """A value in Python's notation, cut to `MOST` characters however large, deep or often shared it is.

    >>> shown("a" * 1000)[:20], shown([[[[1]]]])
    ("'aaaaaaaaaaaaaaaaaaa", '[[[...]]]')
    """
    return _cut(_Short().repr(value))


def short(value: object) -> str:
    """Text as it is, cut to `MOST` characters; anything else as `shown` writes it."""
    return _cut(value) if isinstance(value, str) else shown(value)


def _cut(text: str) -> str:
    half = MOST // 2
    return text if len(text) <= MOST else f"{text[:half]}…{text[-half + 1 :]}"


def harmless(text: str) -> str:
    r"""Text for a terminal: what would move its cursor, colour it or turn its direction is spelled out.

    >>> harmless("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless_json(document: object) -> str:
    """A document as JSON that holds the same and steers no terminal."""
    written = json.dumps(document, indent=2, ensure_ascii=False)
    return UNSAFE_IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], written)


def first_line(error: BaseException) -> str:
    """The first line of an error, or its kind where it says nothing."""
    text = str(error).strip()
    return short(text.splitlines()[0]) if text else type(error).__name__
