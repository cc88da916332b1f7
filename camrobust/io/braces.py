"""Ranges and choices in braces, as people write the names of shards: `train-{000000..000063}.tar`, `{train,val}`."""

import re
from itertools import product

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short

MOST_NAMES = 100_000
_BRACES = re.compile(r"\{(\d{1,12}\.\.\d{1,12}|[^{}/]*,[^{}/]*)\}")


def has_braces(text: str) -> bool:
    """Whether the text holds a range or a choice in braces.

    >>> has_braces("a-{0..3}.tar"), has_braces("a-{0}.tar")
    (True, False)
    """
    return _BRACES.search(text) is not None


def expanded(text: str) -> list[str]:
    """Every name that a text with braces stands for; numbers keep the zeros before them.

    >>> expanded("{a,b}-{09..11}.tar")
    ['a-09.tar', 'a-10.tar', 'a-11.tar', 'b-09.tar', 'b-10.tar', 'b-11.tar']

    Raises:
        UserError: these are too many.
    """
    # Texts and the insides of braces take turns.
    parts = _BRACES.split(text)
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    count = 1
    for some in choices:
        count *= len(some)
    if count > MOST_NAMES:
        raise UserError(
            f"images: '{short(text)}' stands for more than {MOST_NAMES:,} names; give a folder or a pattern"
        )
    return ["".join(some) for some in product(*choices)]


def before_braces(text: str) -> tuple[str, str]:
    """The folder above the first braces, with its slash, and the rest.

    >>> before_braces("s3://b/x/a-{0..3}.tar")
    ('s3://b/x/', 'a-{0..3}.tar')
    """
    found = _BRACES.search(text)
    end = text.rfind("/", 0, found.start() if found else len(text)) + 1
    return text[:end], text[end:]


def _choices(inside: str) -> list[str]:
    first, dots, last = inside.partition("..")
    if not dots or "," in inside:
        return inside.split(",")
    low, high = int(first), int(last)
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    step = 1 if low <= high else -1
    numbers = range(low, high + step, step)
    return [f"{number:0{width}}" for number in numbers[: MOST_NAMES + 1]]
