"""Suggestions for names that are spelled otherwise: case, marks between words, a part of the name, a slip."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 8
"""Most suggestions for one name."""
SHORTEST_PART = 3
"""Fewest characters by which a name is found inside another one."""
ALIKE = 0.65
"""Least similarity of two spellings, as difflib counts it. Below, suggestions are chance: `sklearn` for `clean`."""


def folded(name: str) -> str:
    """A name without its case and without the marks between its words; `plus` stands for +.

    >>> folded("Grad-CAM PlusPlus"), folded("jpeg_compression")
    ('gradcam++', 'jpegcompression')
    """
    return re.sub(r"[\s_.:-]+", "", name.casefold()).replace("plus", "+")


def nearest(given: str, names: Iterable[str]) -> list[str]:
    """The names that may be meant, the likeliest first.

    Spelled alike but for case and marks; then names that begin with what was given; then those that hold it, or that it
    holds; then slips.

    >>> nearest("gradCAM", ["gradcam++", "gradcam", "random"])
    ['gradcam', 'gradcam++']
    >>> nearest("jpeg", ["fog", "jpeg_compression"])
    ['jpeg_compression']
    """
    wanted = folded(given)
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(folded(name), []).append(name)
    if not wanted:
        return []
    # Names that are as long as what was given are nearer than longer ones.
    near = sorted((one for one in spelled if _rank(wanted, one) is not None), key=lambda one: (
        _rank(wanted, one), abs(len(one) - len(wanted)), one))  # fmt: skip
    near += get_close_matches(wanted, spelled, n=NEAR, cutoff=ALIKE)
    # Of names that differ in case alone, those come first that are written as what was given.
    ordered = [name for one in dict.fromkeys(near) for name in sorted(spelled[one], key=lambda name: (
        name.islower() != given.islower(), name))]  # fmt: skip
    return ordered[:NEAR]


def suggestion(given: str, names: Iterable[str]) -> str:
    """A question that names what may be meant, with a space behind it; "" where nothing is near.

    >>> suggestion("gaussian", ["gaussian_blur", "gaussian_noise"]), suggestion("zzz", ["fog"])
    ("did you mean 'gaussian_blur' or 'gaussian_noise'? ", '')
    """
    near = nearest(given, names)
    wanted = folded(given)
    begun = [name for name in near if _rank(wanted, folded(name)) == 1]
    meant = begun[:3] if begun and near[0] == begun[0] else near[:1]
    return f"did you mean {' or '.join(map(repr, meant))}? " if meant else ""


def _rank(wanted: str, name: str) -> int | None:
    """How a name holds the one that was given; None where it does not."""
    if name == wanted:
        return 0
    if min(len(name), len(wanted)) < SHORTEST_PART:
        return None
    if name.startswith(wanted):
        return 1
    return 2 if wanted in name or name in wanted else None
