"""How the outputs of a network may be read, as a configuration names it: "multilabel", "value:tolerance=0.5"."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown

HEADS = {
    "softmax": "one of n classes, the one with the highest logit; kept: it stays the highest",
    "binary": "one logit z, class 1 where z > 0, else class 0, which -z explains; kept: the class stays",
    "multilabel": "n independent labels, of which the clean image's highest is explained on all variants; kept: its "
    "logit stays above 0, or not above 0",
    "value": "a number (regression); kept: it moves by the tolerance at most",
}
"""Each way of reading outputs, and when an image's decision counts as kept."""
SETTINGS = {"binary": ("outputs",), "multilabel": ("explained", "outputs"), "value": ("tolerance", "explained")}
OUTPUTS = ("logits", "probabilities")
MOST_DIGITS = 9


def chooses_class(head: str) -> bool:
    """Whether a model with this head chooses one class, which a label could show to be right or wrong.

    Args:
        head: as in a configuration; softmax and binary choose a class, labels and values are none.

    Examples:
        >>> from camrobust.contract.heads import chooses_class
        >>> chooses_class("binary:outputs=logits"), chooses_class("value:tolerance=0.5")
        (True, False)
    """
    return head.partition(":")[0] in ("softmax", "binary")


@dataclass(frozen=True)
class Head:
    """How a network's outputs are read.

    Attributes:
        kind: one of `HEADS`.
        explained: number of the output that is explained, or a name that still has to be looked up; None leaves the
            choice to the network.
        tolerance: largest change of a value that counts as kept, in the output's unit.
        outputs: one of `OUTPUTS`, decided at 0 or at one half; None leaves it to what is seen of the network.
    """

    kind: str
    explained: int | str | None = None
    tolerance: float | None = None
    outputs: str | None = None

    def __str__(self) -> str:
        pairs = [(name, getattr(self, name)) for name in SETTINGS.get(self.kind, ())]
        given = [f"{name}={value}" for name, value in pairs if value is not None]
        return f"{self.kind}:{','.join(given)}" if given else self.kind


def parse_head(text: str, names: Sequence[str] = ()) -> Head:
    """Read a head from its text.

    Args:
        text: KIND or KIND:NAME=VALUE,NAME=VALUE.
        names: of the outputs, with which `explained` may name one.

    Raises:
        UserError: an unknown kind or setting, a setting that is given twice, a value out of its range, or no tolerance.

    Examples:
        >>> from camrobust.contract.heads import parse_head
        >>> parse_head("value:tolerance=0.5")
        Head(kind='value', explained=None, tolerance=0.5, outputs=None)
        >>> str(parse_head("multilabel:explained=dog", ["cat", "dog"]))
        'multilabel:explained=1'
    """
    if not isinstance(text, str):
        raise UserError(f"head: must be a text, one of {', '.join(HEADS)}, got {shown(text)}; quote it")
    kind, _, rest = text.partition(":")
    if kind not in HEADS:
        raise unknown("head", kind, HEADS)
    pairs = [one.partition("=") for one in rest.split(",")] if rest else []
    given = {name.strip(): value.strip() for name, _, value in pairs}
    if len(given) < len(pairs):
        raise UserError(f"head: '{short(text)}' gives a setting twice; give each once")
    for name in given:
        if name not in SETTINGS.get(kind, ()):
            raise UserError(
                f"head: {kind} has no setting '{short(name)}'; "
                + (f"it has {' and '.join(SETTINGS[kind])}" if kind in SETTINGS else f"write head: {kind}")
            )
    tolerance = _tolerance(given["tolerance"]) if "tolerance" in given else None
    if kind == "value" and tolerance is None:
        raise UserError(
            "head: value needs the largest change that counts as kept, in the output's unit; write "
            "head: value:tolerance=0.5"
        )
    explained, outputs = given.get("explained"), given.get("outputs")
    if outputs is not None and outputs not in OUTPUTS:
        raise unknown("outputs of a head", outputs, OUTPUTS)
    return Head(kind, None if explained is None else _output(explained, names), tolerance, outputs)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"head: tolerance must be a number from 0 (in the output's unit), got '{short(text)}'")
    return value


def _output(text: str, names: Sequence[str]) -> int | str:
    """The number of an output, or its name if there are no names to look it up in."""
    if text.isascii() and text.isdigit():
        if len(text) > MOST_DIGITS:
            raise UserError(f"head: explained must have at most {MOST_DIGITS} digits, got '{short(text)}'")
        return int(text)
    if not names:
        return text
    if text not in names:
        raise unknown("name in classes", text, list(names))
    return names.index(text)
