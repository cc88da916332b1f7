"""What trainers save: state dicts under any name, beside other things, with prefixes before the names of the tensors.

Which of them is meant is decided by the network: the one that fills it. Names are taken as they are first; prefixes and
wrappers are left out only where that makes them fit.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short, shown

DEEPEST = 4
"""Levels of dicts and lists that are searched for state dicts."""
MOST_DICTS = 100
"""Members of a list, and state dicts, that are looked at."""
MOST_PREFIXES = 20
"""Prefixes that are tried."""
PLACES = ("state_dict", "model", "model_state_dict")
"""Keys under which trainers save the state dict of the model itself, likeliest first."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names that DataParallel, torch.compile, FSDP and checkpointing put before those of the module inside."""
PREFIXES = (*WRAPPERS, "model")
"""Parts of prefixes of the model itself; `model` is Lightning's. Others may be those of a teacher or of averages."""
EXTRA = "not in the model:"
StateDict = dict[str, Tensor]


class _Form(NamedTuple):
    """A state dict of a file in the network's names.

    Attributes:
        place: dotted keys under which the file holds it.
        prefix: what was left out before its names.
        weights: tensors by the network's names, and the others by their own.
    """

    place: str
    prefix: str
    weights: StateDict

    @property
    def rank(self) -> tuple[int, int]:
        """How far from what a file of this network alone would hold; the least is taken."""
        keys = self.place.split(".")
        place = PLACES.index(keys[0]) + 1 if {*keys} <= {*PLACES} else len(PLACES) + 1
        known = {*self.prefix.split(".")} <= {*PREFIXES, ""}
        return (place if self.place else 0), (0 if not self.prefix else 1 if known else 2)

    @property
    def spoken(self) -> str:
        """Where it stands in the file, for a sentence."""
        place = ".".join(part for part in (self.place, self.prefix.removesuffix(".")) if part)
        return f"under '{short(place)}'" if place else "as they are"


def state_dicts(loaded: object, name: str) -> dict[str, StateDict]:
    """All dicts of tensors in what a file holds, by the dotted keys that lead to them; "" for the file's own.

    Args:
        loaded: dicts, lists and tuples of tensors and other things.
        name: the file's name, for messages.

    Raises:
        UserError: there is none.
    """
    found = dict(islice(_search(loaded, "", DEEPEST, set()), MOST_DICTS))
    if found:
        return found
    if not isinstance(loaded, Mapping) or not loaded:
        got = "an empty dict" if isinstance(loaded, Mapping) else type(loaded).__name__
    else:
        pairs = [f"{type(value).__name__} under {shown(key)}" for key, value in list(loaded.items())[:3]]
        got = ", ".join(pairs) + (f" and {len(loaded) - 3} more" if len(loaded) > 3 else "")
    raise UserError(f"weights: '{name}' must hold tensors by name, got {got}; save a state dict")


def _search(loaded: object, place: str, levels: int, seen: set[int]) -> Iterator[tuple[str, StateDict]]:
    """The dicts of tensors inside; what stands beside the tensors of a dict is left out."""
    if id(loaded) in seen:  # a small file may hold one dict very often
        return
    seen.add(id(loaded))
    if isinstance(loaded, (list, tuple)):
        members = enumerate(loaded[:MOST_DICTS])
        loaded = {str(number): value for number, value in members if not isinstance(value, Tensor)}
    if isinstance(loaded, Mapping):
        named = {key: value for key, value in loaded.items() if isinstance(key, str)}
        tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            yield place, tensors
        for key in (key for key in named if levels and key not in tensors):
            yield from _search(named[key], f"{place}.{key}" if place else key, levels - 1, seen)


def fitting(own: Mapping[str, Tensor], found: Mapping[str, StateDict], where: str) -> StateDict:
    """The weights for a network, under its own names; where none fit, those that come nearest.

    Args:
        own: the network's state dict.
        found: state dicts by place.
        where: beginning of a message.

    Raises:
        UserError: different weights fit equally well.
    """
    forms = list(_forms(own, found))
    complete = [form for form in forms if not {*reasons(own, form.weights)} - {EXTRA}]
    if not complete:
        return min(forms, key=lambda form: (sum(map(len, reasons(own, form.weights).values())), form.rank)).weights
    best = min(complete, key=lambda form: (bool(reasons(own, form.weights)), form.rank))
    rivals = [form for form in complete if form.rank <= best.rank and not _same(own, best.weights, form.weights)]
    if rivals:
        raise UserError(
            f"{where} fit {best.spoken} and {rivals[0].spoken}, and the two differ; save the one to measure alone"
        )
    return best.weights


def reasons(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Why weights do not fill a network: each reason and the names that it holds for; empty if they do."""
    both = [(key, own[key], weights[key]) for key in own if key in weights]
    found = {
        "missing:": [key for key in own if key not in weights and not key.endswith("num_batches_tracked")],
        EXTRA: [key for key in weights if key not in own],
        "other shape:": [
            f"{key} is {shown(tuple(given.shape))}, not {tuple(wanted.shape)}"
            for key, wanted, given in both
            if given.shape != wanted.shape
        ],
        "other type:": [
            f"{key} is {given.dtype}, not {wanted.dtype}"
            for key, wanted, given in both
            if given.shape == wanted.shape and given.is_floating_point() != wanted.is_floating_point()
        ],
    }
    return {reason: names for reason, names in found.items() if names}


def _same(own: Mapping[str, Tensor], one: StateDict, other: StateDict) -> bool:
    both = [(one[key], other[key]) for key in own if key in one and key in other]
    return all(first is second or torch.equal(first, second) for first, second in both)


def _forms(own: Mapping[str, Tensor], found: Mapping[str, StateDict]) -> Iterator[_Form]:
    """Every state dict as it is, without prefixes, without the names of wrappers, and as that of the module inside."""
    for place, weights in found.items():
        for of_own, of_file in ((str, str), (_unwrapped, _unwrapped), (_inside(own), _unwrapped)):
            names, keys = {of_own(key): key for key in own}, {of_file(key): key for key in weights}
            if len(names) < len(own) or len(keys) < len(weights):
                continue
            for prefix in _prefixes(names, keys):
                # What stands outside of a prefix belongs to something else.
                inside = {key.removeprefix(prefix): full for key, full in keys.items() if key.startswith(prefix)}
                yield _Form(place, prefix, {names.get(key, key): weights[full] for key, full in inside.items()})


def _prefixes(names: Collection[str], keys: Collection[str]) -> list[str]:
    """No prefix, then those with which the longest of the network's names stands in the file."""
    longest = max(names, key=len, default="")
    found = [key.removesuffix(longest) for key in keys if longest and key.endswith(f".{longest}")]
    return ["", *found[:MOST_PREFIXES]]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _inside(own: Collection[str]) -> Callable[[str], str]:
    """Leaves out the first part of the network's names if all have the same, as a module that holds a network has."""
    first = {name.partition(".")[0] for name in own}
    return (lambda name: _unwrapped(name.partition(".")[2])) if len(first) == 1 else _unwrapped
