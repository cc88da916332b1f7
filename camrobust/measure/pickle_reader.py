"""Goes through the pickle of a weights file, and makes nothing of it but lists, dicts, numbers and text."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import torch

from camrobust.contract.quoting import short, shown

MOST_STEPS = 1_000_000
"""Reads of a pickle, which has about fifty for a tensor."""
MOST_AXES = 64
LARGEST = 2**62
STORAGES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}  # fmt: skip
"""Bytes per element."""


class RefusedError(Exception):
    """Why a file is not loaded; takes the reason."""


class Steps:
    """A file that is read a bounded number of times, so that what is made of it is bounded."""

    def __init__(self, file: BytesIO) -> None:
        self.file, self.count = file, 0

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        self._count()
        return self.file.read(size)

    def readline(self) -> bytes:
        """As a file's."""
        self._count()
        return self.file.readline()

    def _count(self) -> None:
        self.count += 1
        if self.count > MOST_STEPS:
            raise RefusedError("it lists more than any model has")


class _Row(tuple[Any, ...]):
    """A tuple that can be no key: hashing nested ones may take for ever."""

    __slots__ = ()

    def __hash__(self) -> int:
        if len(self) > MOST_AXES or not all(one is None or type(one) in (str, int, float, bool) for one in self):
            raise RefusedError("a tuple of tuples is the key of something")
        return super().__hash__()


class _Storage(NamedTuple):
    """What a pickle says of a storage."""

    elements: int


class _Seen(NamedTuple):
    """Stands where a tensor will be."""


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_more: object) -> _Seen:
    """Check that a tensor lies inside its storage; outside, torch would make the storage larger."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise RefusedError("a tensor has no storage")
    if len(size) > MOST_AXES or not all(type(one) is int and 0 <= one < LARGEST for one in (offset, *size, *stride)):
        raise RefusedError("a tensor's shape is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.elements:
        raise RefusedError(f"a tensor of shape {shown(tuple(size))} does not fit into its storage")
    return _Seen()


def _parameter(tensor: object, *_more: object) -> _Seen:
    if not isinstance(tensor, _Seen):
        raise RefusedError("a parameter is no tensor")
    return tensor


def _nothing(*_more: object) -> None:
    return None


def _encoded(text: object, coding: object = "latin1", *_more: object) -> bytes:
    """Bytes, which pickles of old protocols hold as text."""
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise RefusedError("its bytes are no text")
    return text.encode("latin1", errors="replace")


def _typed(make: object, _kind: object, members: object, *_more: object) -> object:
    """What torch makes of a tensor of a class of its own, such as a buffer."""
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
"""What stands for torch's functions while a file is looked over; beside them `OrderedDict` and `Size` are known."""
KINDS = {"qtensor": "quantised", "sparse": "sparse", "meta": "empty ('meta')"}
INSTRUCTIONS = (
    "GLOBAL REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWFALSE NEWTRUE "
    "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 PROTO STOP"
)
"""Those that torch's own reader knows; others reserve memory on a file's word."""


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise RefusedError(f"torch.save does not write what it holds (instruction {code})")


class Reader(pickle._Unpickler):  # noqa: SLF001 - the one written in C cannot be told what to make
    """Goes through a pickle and makes nothing of it but lists, dicts, numbers and text."""

    stack: list[Any]

    def __init__(self, file: Steps) -> None:
        super().__init__(file, encoding="latin-1")
        self.storages: dict[str, int] = {}
        self.copied = 0

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; raises for all that is not part of a state dict."""
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
        """A copy costs one instruction, whatever is copied."""
        self.copied += len(members)
        if self.copied > MOST_STEPS:
            raise RefusedError("it lists more than any model has")

    def build(self) -> None:
        """The attributes of an `OrderedDict`, such as a state dict's `_metadata`; torch copies them."""
        attributes = self.stack.pop()
        if not isinstance(attributes, dict) or not isinstance(self.stack[-1], OrderedDict):
            raise RefusedError("it sets the state of something else than a state dict")
        self._count_copies(attributes)

    def persistent_load(self, saved: Any) -> _Storage:
        """A storage: ("storage", its class, its key, its device, its number of elements, perhaps a view of it)."""
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
    """What the reader does at each instruction."""
    codes = {name: getattr(pickle, name)[0] for name in INSTRUCTIONS.split()}
    known = _Dispatch({code: Reader.dispatch[code] for code in codes.values()})
    known |= {code: _as_row(known[code]) for name, code in codes.items() if name.startswith("TUPLE")}
    known[codes["BUILD"]] = Reader.build
    return known


Reader.dispatch = _dispatch()
