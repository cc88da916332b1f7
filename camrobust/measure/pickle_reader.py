"""A reader for the pickles of untrusted weights files.

It builds nothing but lists, dicts, numbers and text, runs nothing, and records the size of every storage, so that
`measure.weights` can compare it with the file before torch loads it.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import torch

from camrobust.contract.quoting import short, shown

MOST_STEPS = 1_000_000
"""Most reads of one pickle; a tensor takes about fifty."""
MOST_AXES = 64
LARGEST = 2**62
STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip
"""Bytes per element."""


class RefusedError(Exception):
    """A file is refused, for the reason given."""


class Steps:
    """A file that may be read a bounded number of times, which also bounds what is built from it."""

    def __init__(self, file: BytesIO) -> None:
        self.file, self.count = file, 0

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        self._count()
        return self.file.read(size)

    def readline(self) -> bytes:
        """As of any file."""
        self._count()
        return self.file.readline()

    def _count(self) -> None:
        self.count += 1
        if self.count > MOST_STEPS:
            raise RefusedError("it lists more than any model has")


class _Row(tuple[Any, ...]):
    """A tuple whose hash refuses nested tuples, because hashing those may take for ever."""

    __slots__ = ()

    def __hash__(self) -> int:
        if len(self) > MOST_AXES or not all(
            member is None or type(member) in (str, int, float, bool) for member in self
        ):
            raise RefusedError("a tuple of tuples is the key of something")
        return super().__hash__()


class _Storage(NamedTuple):
    """A storage as a pickle describes it."""

    elements: int


class _TensorSeen(NamedTuple):
    """Stands where a tensor will be."""


def _tensor(
    storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_more: object
) -> _TensorSeen:
    """Check that a tensor lies inside its storage; otherwise torch would enlarge the storage."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise RefusedError("a tensor has no storage")
    if len(size) > MOST_AXES or not all(
        type(number) is int and 0 <= number < LARGEST for number in (offset, *size, *stride)
    ):
        raise RefusedError("a tensor's shape is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.elements:
        raise RefusedError(f"a tensor of shape {shown(tuple(size))} does not fit into its storage")
    return _TensorSeen()


def _parameter(tensor: object, *_more: object) -> _TensorSeen:
    if not isinstance(tensor, _TensorSeen):
        raise RefusedError("a parameter is no tensor")
    return tensor


def _nothing(*_more: object) -> None:
    return None


def _encoded(text: object, coding: object = "latin1", *_more: object) -> bytes:
    """Bytes, which old pickle protocols store as text."""
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise RefusedError("its bytes are no text")
    return text.encode("latin1", errors="replace")


def _typed(make: object, _kind: object, members: object, *_more: object) -> object:
    """A tensor with a class of its own, such as a buffer."""
    if make not in (_tensor, _parameter) or not isinstance(members, tuple):
        raise RefusedError("a tensor of another class is none")
    return (_tensor if make is _tensor else _parameter)(*members)


GLOBALS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed,
    "torch.Tensor": _nothing,
    "torch.nn.parameter.Buffer": _nothing,
    "torch.nn.parameter.Parameter": _nothing,
    "torch.device": _nothing,
    "_codecs.encode": _encoded,
}
"""Stand-ins for torch's functions while a file is checked; `OrderedDict` and `Size` are known as well."""
KINDS = {"qtensor": "quantised", "sparse": "sparse", "meta": "empty ('meta')"}
INSTRUCTIONS = (
    "GLOBAL REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE NEWTRUE "
    "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP"
)
"""The instructions that torch's own reader knows. Others reserve as much memory as a file asks for."""


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise RefusedError(f"torch.save does not write what it holds (instruction {code})")


class Reader(pickle._Unpickler):  # noqa: SLF001 - the reader written in C cannot be restricted
    """Goes through a pickle; see the module for what it builds."""

    stack: list[Any]

    def __init__(self, file: Steps) -> None:
        super().__init__(file, encoding="latin-1")
        self.storages: dict[str, int] = {}
        self.copied = 0

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; raises for a name that no state dict needs."""
        place = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name in STORAGES:
            return name
        if place in ("collections.OrderedDict", "collections.Counter", "torch.Size"):
            return self._size if name == "Size" else self._copy
        if place in GLOBALS:
            return GLOBALS[place]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return _nothing
        kind = next((KINDS[part] for part in KINDS if module == "torch._utils" and part in name), None)
        if kind is not None:
            raise RefusedError(f"it holds {kind} tensors; save them dense and in floating point")
        raise RefusedError(f"it names {short(place)}, and only tensors by name are taken")

    def _size(self, numbers: Any = ()) -> _Row:
        self._count_copies(numbers)
        return _Row(numbers)

    def _copy(self, pairs: Any = ()) -> OrderedDict[Any, Any]:
        self._count_copies(pairs)
        return OrderedDict(pairs)

    def _count_copies(self, members: Any) -> None:
        """Bound what is copied: a copy of any size costs a file one instruction only."""
        self.copied += len(members)
        if self.copied > MOST_STEPS:
            raise RefusedError("it lists more than any model has")

    def build(self) -> None:
        """Set the attributes of an `OrderedDict`, such as a state dict's `_metadata`; torch copies them."""
        attributes = self.stack.pop()
        if not isinstance(attributes, dict) or not isinstance(self.stack[-1], OrderedDict):
            raise RefusedError("it sets the state of something else than a state dict")
        self._count_copies(attributes)

    def persistent_load(self, saved: Any) -> _Storage:
        """A storage: ("storage", class, key, device, number of elements, view if any)."""
        what, kind, key, _device, elements, *view = tuple(saved)
        if what != "storage" or kind not in STORAGES or not isinstance(key, str):
            raise RefusedError("it refers to something that is no storage")
        if type(elements) is not int or not 0 <= elements < LARGEST:
            raise RefusedError("a storage's size is none")
        self.storages[key] = max(self.storages.get(key, 0), elements * STORAGES[kind])
        if not view or view[0] is None:
            return _Storage(elements)
        _, offset, size = view[0]
        _tensor(_Storage(elements), offset, (size,), (1,))
        return _Storage(size)


def _as_row(load: Callable[[Any], None]) -> Callable[[Any], None]:
    def loaded(reader: Any) -> None:
        load(reader)
        reader.stack[-1] = _Row(reader.stack[-1])

    return loaded


def _dispatch() -> _Dispatch:
    """The action for each instruction."""
    codes = {name: getattr(pickle, name)[0] for name in INSTRUCTIONS.split()}
    known = _Dispatch({code: Reader.dispatch[code] for code in codes.values()})
    known |= {code: _as_row(known[code]) for name, code in codes.items() if name.startswith("TUPLE")}
    known[codes["BUILD"]] = Reader.build
    return known


Reader.dispatch = _dispatch()
