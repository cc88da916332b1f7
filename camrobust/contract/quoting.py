"""Quotes untrusted text in our sentences: short, and without characters that control a terminal."""

import json
import re
import reprlib
import shlex

MOST = 120
"""Most characters of one quoted value."""
CONTROLS = (
    # Control characters; direction marks, zero-width characters and line separators; lone surrogates; tags.
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff"
)
UNSAFE = re.compile(f"[{CONTROLS}]")
UNSAFE_IN_LINES = re.compile(f"(?!\n)[{CONTROLS}]")
UNSAFE_IN_QUOTES = re.compile(rf"[!'\\{CONTROLS}]")


class _Short(reprlib.Repr):
    """Python's notation of the first levels and members only, so that its cost is limited, too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, MOST, MOST

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to print a number of some thousand digits."""
        return f"a number of {value.bit_length()} bits" if value.bit_length() > MOST else super().repr_int(value, level)


def shown(value: object) -> str:
    """A value in Python's notation, cut to `MOST` characters, however large or deep it is.

    >>> shown("a" * 1000)[:20], shown([[[[1]]]])
    ("'aaaaaaaaaaaaaaaaaaa", '[[[...]]]')
    """
    return _cut(_Short().repr(value))


def short(value: object) -> str:
    """Text as it is, cut to `MOST` characters; any other value as in `shown`."""
    return _cut(value) if isinstance(value, str) else shown(value)


def _cut(text: str) -> str:
    half = MOST // 2
    return text if len(text) <= MOST else f"{text[:half]}…{text[-half + 1 :]}"


def harmless(text: str) -> str:
    r"""Text for a terminal, with control characters written as escapes.

    >>> harmless("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def harmless_lines(text: str) -> str:
    """The same for text of several lines."""
    return UNSAFE_IN_LINES.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def shell_word(place: str) -> str:
    r"""A path or an address as one word of a shell line that can be pasted, and never an option.

    Control characters, on which a terminal would act while it is pasted, become bytes as bash, zsh and ksh take them.

    >>> print(shell_word("my run"), shell_word("it's\x15"))
    'my run' $'it\x27s\x15'
    """
    text = f"./{place}" if place.startswith("-") else place
    return f"$'{UNSAFE_IN_QUOTES.sub(_in_bytes, text)}'" if UNSAFE.search(text) else shlex.quote(text)


def _in_bytes(match: re.Match[str]) -> str:
    # A lone surrogate of this range stands for a byte in the name of a file.
    errors = "surrogateescape" if "\udc80" <= match[0] <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode(errors=errors))


def harmless_json(document: object) -> str:
    """A document as JSON, with control characters written as escapes."""
    written = json.dumps(document, indent=2, ensure_ascii=False)
    return UNSAFE_IN_LINES.sub(lambda match: json.dumps(match[0])[1:-1], written)


def first_line(error: BaseException) -> str:
    """The first line of an error; its class if it has no text."""
    text = str(error).strip()
    return short(text.splitlines()[0]) if text else type(error).__name__
