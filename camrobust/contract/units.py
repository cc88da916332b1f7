"""Amounts in units that a person reads: durations, sizes and counts."""

from math import floor, isfinite

MINUTE, HOUR, DAY = 60, 3600, 86_400
STORED = 1e-7
"""Rounding of a number that was stored as float32."""


def duration(seconds: float) -> str:
    """A time span, to about two digits.

    >>> duration(0.2), duration(36), duration(200), duration(5400), duration(200_000)
    ('0.2 s', '36 s', '3 min 20 s', '1 h 30 min', '2 d 8 h')
    """
    if not isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds > 0 else "0 s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    for large, small, names in ((DAY, HOUR, ("d", "h")), (HOUR, MINUTE, ("h", "min")), (MINUTE, 1, ("min", "s"))):
        if round(whole / small) * small >= large:
            first, rest = divmod(round(whole / small), large // small)
            return f"{first:,} {names[0]}" + (f" {rest} {names[1]}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    """Bytes, to two digits.

    >>> size(512), size(700_000), size(3.2e9)
    ('512 bytes', '0.7 MB', '3.2 GB')
    """
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_ / 10:
            amount = count / bytes_
            return f"{amount:,.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def counted(count: float, one: str, several: str | None = None) -> str:
    """A number of things.

    >>> counted(1, "image"), counted(24_000, "image"), counted(2, "CAM")
    ('1 image', '24,000 images', '2 CAMs')
    """
    return f"{count:,.0f} {one if count == 1 else several or one + 's'}"


def percent(share: float, digits: int = 0) -> str:
    """A share of 1 in percent.

    >>> percent(0.547), percent(0.547, 1)
    ('55 %', '54.7 %')
    """
    return f"{100 * share:.{digits}f} %"


def at_least(value: float) -> str:
    """A lower bound with three decimals, rounded down.

    >>> at_least(0.3999), at_least(-0.2301)
    ('0.399', '-0.231')
    """
    return f"{floor(1000 * (value + STORED)) / 1000:.3f}"
