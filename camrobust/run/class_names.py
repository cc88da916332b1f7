"""Names of a model's classes: those that the user gives, or those of its published weights."""

from collections.abc import Sequence

from camrobust.contract.errors import UserError
from camrobust.contract.imagenet import IMAGENET
from camrobust.contract.quoting import short
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import read_object
from camrobust.measure.built import UNTRAINED, ModelSpec

MOST_BYTES = 16 * 2**20
"""Largest file of class names."""


def class_names(
    spec: ModelSpec, given: Sequence[str] | str | None, logits: int, own: Sequence[str] = ()
) -> list[str]:  # fmt: skip
    """A name for every class, or none at all.

    Args:
        spec: the model.
        given: names in the order of the logits (of one logit: of classes 0 and 1), "imagenet", the address of a text
            file with one name per line, or None for the names of the builder's own published weights.
        logits: the model's number of classes.
        own: the names that the builder knows.

    Returns:
        `logits` names, "" for a class without one; an empty list where the classes are unknown.

    Raises:
        UserError: what is given cannot be read, or does not hold one name per class.
    """
    if given is None:
        names = list(own) or (_imagenet() if _published(spec) else [])
        return names if len(names) == logits else []
    names = _read(spec.name, given) if isinstance(given, str) else list(given)
    if len(names) != logits:
        source = f"'{short(given)}'" if isinstance(given, str) else "the list"
        raise UserError(
            f"model '{spec.name}': classes must hold {logits} names, one per class, got {len(names)} from {source}; "
            "give the names in the order of the logits, or leave classes out"
        )
    return names


def kept_classes(name: str, given: Sequence[str] | str | None) -> list[str]:
    """What a model's `classes_kept` holds, one text per class; empty where all are kept.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    if given is None:
        return []
    lines = [line for line in (_read(name, given, "classes_kept") if isinstance(given, str) else given) if line]
    if not lines:
        raise UserError(f"model '{name}': classes_kept is empty; name two classes or more, or leave it out")
    return lines


def _published(spec: ModelSpec) -> bool:
    """Whether the weights are the builder's own. A builder with arguments may have other classes and does not count."""
    kind, _, rest = spec.builder.partition(":")
    trained = rest.partition("@")[2] != UNTRAINED
    return kind in ("torchvision", "timm") and trained and spec.weights is None and not spec.arguments


def _imagenet() -> list[str]:
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def _read(model: str, address: str, what: str = "classes") -> list[str]:
    if address == IMAGENET and what == "classes":
        return _imagenet()
    try:
        text = read_object(address, most=MOST_BYTES).decode("utf-8-sig")
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"model '{model}': {error}; correct {what}") from error
    except UnicodeDecodeError as error:
        name = short(address)
        raise UserError(f"model '{model}': {what} '{name}' is not UTF-8 text; save one name per line") from error
    text = text.rstrip()
    return [line.strip() for line in text.split("\n")] if text else []
