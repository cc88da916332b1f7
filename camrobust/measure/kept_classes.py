"""A network that chooses between some of its classes only, as a 1000-class one on ImageNet-R's 200."""

from collections.abc import Sequence
from dataclasses import replace

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import COUNT, wnids
from camrobust.contract.quoting import short
from camrobust.contract.registry import unknown
from camrobust.core.explain.tail import PooledHead
from camrobust.measure.model import Model


def choosing_among(model: Model, kept: Sequence[int]) -> Model:
    """The same model, whose logits are those of some classes; all that follows from logits follows from these alone.

    Predictions, probabilities, entropy, flips, CAMs that look at other classes, and attacks know no other class. Result
    rows have the numbers that the classes have in the network.

    Args:
        model: with a softmax over logits.
        kept: numbers of the classes, rising; none for the model as it is.

    Raises:
        UserError: its head is another one, or it puts out probabilities already.
    """
    if not kept:
        return model
    network, readout = model.network, model.network.readout
    if readout.kind != "softmax":
        raise UserError(
            f"model '{model.name}': classes_kept is for a softmax over classes, got head: {readout.head}; leave it out"
        )
    if readout.holds_probabilities:
        raise UserError(
            f"model '{model.name}': classes_kept needs logits, and it puts out probabilities; leave out its softmax"
        )
    places, head = list(kept), network.head
    chosen = replace(
        network,
        readout=replace(readout, among=tuple(kept), width=model.classes),
        head=None if head is None else PooledHead(head.weight[places], head.bias[places]),
    )
    return replace(model, network=chosen, classes=len(kept), prepared={})


def kept_numbers(name: str, texts: Sequence[str], names: Sequence[str], classes: int) -> tuple[int, ...]:
    """The numbers of the classes that a user wants kept, rising.

    Args:
        name: of the model.
        texts: numbers, wnids of ImageNet-1k or names, one per class; a number is never a name.
        names: of the network's classes in the order of its logits; empty where unknown.
        classes: how many the network has.

    Raises:
        UserError: no such class, a name of several classes, or fewer than two classes.
    """
    found = {_number(name, text, names, classes) for text in texts}
    if len(found) < 2:
        raise UserError(f"model '{name}': classes_kept must name two classes or more, got {len(found)}; name more")
    return tuple(sorted(found))


def _number(name: str, text: str, names: Sequence[str], classes: int) -> int:
    where = f"model '{name}': classes_kept"
    if text.isascii() and text.isdigit():
        if len(text) > 9 or int(text) >= classes:
            raise UserError(f"{where} must be from 0 to {classes - 1} (number of the class), got {short(text)}")
        return int(text)
    places = [place for place, one in enumerate(names) if one == text]
    if len(places) > 1:
        raise UserError(
            f"{where}: '{short(text)}' is the name of the classes {', '.join(map(str, places))}; give numbers"
        )
    if places:
        return places[0]
    if text in wnids():
        if classes != COUNT:
            raise UserError(
                f"{where}: '{text}' is a wnid of ImageNet-1k, but the network has {classes} classes; give numbers"
            )
        return wnids()[text]
    if not any(names):
        raise UserError(
            f"{where}: the names of its classes are not known, got '{short(text)}'; give numbers, or classes"
        )
    raise UserError(f"{where}: {unknown('class', text, [one for one in names if one])}")
