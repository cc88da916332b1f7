"""A model's network as its builder and its weights make it, and the hash that tells one network from another."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import PurePath
from traceback import extract_tb
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line
from camrobust.measure.builders import build_module, fill
from camrobust.measure.built import Built, ModelSpec
from camrobust.measure.weights import read_weights

PLAIN = (bool, int, float, str, bytes, type(None))


EMPTY = (
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    torch.empty_permuted,
    Tensor.new_empty,
    Tensor.new_empty_strided,
)
"""What makes tensors whose values are whatever the memory held before."""


class _Zeroed(TorchFunctionMode):
    """While open, `EMPTY` makes zeros, so that a scratch buffer is the same in every process."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in EMPTY and isinstance(made, Tensor):
            with torch.no_grad(), suppress(RuntimeError):  # some types cannot be filled
                made.zero_()
        return made


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While open, torch's global generators are seeded, so that a builder with random weights always draws the same.

    Args:
        seed: of the run. The names of the models do not count: a model that is listed twice, for two layers, is one
            network.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def filled(spec: ModelSpec, weights: bytes | None = None, seed: int = 0) -> tuple[Built, str]:
    """Build a network and fill it with its weights.

    Args:
        spec: what to build.
        weights: content of the weights file that the spec names; None if it names none.
        seed: see `seeded`.

    Returns:
        The network and its hash.

    Raises:
        UserError: unknown builder, a builder that raises, or weights that do not fit.
    """
    try:
        with seeded(seed), _Zeroed():
            built = build_module(spec, own_weights=weights is None)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a builder is the user's code and may raise anything
        place = next(frame for frame in reversed(extract_tb(error.__traceback__)) if frame.name != "__torch_function__")
        raise UserError(
            f"model '{spec.name}': {spec.builder} raised {type(error).__name__}: {first_line(error)} "
            f"({PurePath(place.filename).name}, line {place.lineno}); correct the builder or its arguments"
        ) from error
    refuse_shapeless(built.module, spec.name, spec.builder)
    if weights is not None:
        fill(plain(built.module), read_weights(weights, spec.weights or "weights"), spec)
    return built, state_sha256(built.module)


def refuse_shapeless(module: nn.Module, name: str, what: str) -> None:
    """Raise UserError if a network has layers that take their shapes, and random weights, from the first pass."""
    if any(is_lazy(value) for value in chain(module.parameters(), module.buffers())):
        where = "in its builder" if ":" in what else "before"
        raise UserError(
            f"model '{name}': {what} has layers without a shape (torch.nn.Lazy…); pass an image through the network "
            f"{where}"
        )


def plain(module: nn.Module) -> nn.Module:
    """The module inside torch.compile or DataParallel; its layers can be hooked."""
    for name in ("module", "_orig_mod"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module) and (name == "_orig_mod" or isinstance(module, nn.DataParallel)):
            return plain(inner)
    return module


def state_sha256(module: nn.Module) -> str:
    """The hash of a network: names, types, shapes and values of all its tensors.

    These are its state dict, the buffers that a state dict leaves out, and tensors and arrays that are plain attributes
    of its modules. A number that a builder draws and keeps as a plain Python number is not seen.

    Args:
        module: as its builder made it, with its weights, before it is cast or moved.

    Returns:
        64 hexadecimal digits.

    Examples:
        >>> from torch import nn
        >>> from camrobust.measure.networks import seeded, state_sha256
        >>> with seeded(0):
        ...     first, other = state_sha256(nn.Linear(2, 1)), state_sha256(nn.Linear(2, 1))
        >>> with seeded(0):
        ...     again = state_sha256(nn.Linear(2, 1))
        >>> first == again, first == other
        (True, False)
    """
    digest = sha256()
    for name, value in sorted(_contents(module).items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(_bytes_of(value))
        elif isinstance(value, np.ndarray):
            digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode())
            # A long double has bytes that hold nothing, and may hold anything.
            wide = value.dtype.type in (np.longdouble, np.clongdouble)
            digest.update(repr(value.tolist()).encode() if wide else np.ascontiguousarray(value).tobytes())
        elif isinstance(value, PLAIN):
            digest.update(f"{name}\0{value!r}\0".encode())
    return digest.hexdigest()


def _contents(module: nn.Module) -> dict[str, Any]:
    attributes = {
        f"{place}.{name}": value
        for place, inner in module.named_modules()
        for name, value in vars(inner).items()
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufc")
    }
    buffers = dict(module.named_buffers(remove_duplicate=False))
    state = dict(module.state_dict())
    # Quantised layers keep weight and bias as one tuple.
    packed = {f"{key}.{place}": part for key, value in state.items() if isinstance(value, tuple)
              for place, part in enumerate(value)}  # fmt: skip
    return attributes | buffers | state | packed


def _bytes_of(tensor: Tensor) -> Any:
    """The values as bytes; without a copy where they lie one after the other on the CPU. A meta tensor has none."""
    if tensor.is_meta:
        return b""
    try:
        values = tensor.detach().cpu()
        return values.contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError):  # sparse, quantised or a class of its own
        saved = BytesIO()
        with suppress(Exception):
            torch.save(tensor.detach().cpu(), saved)
        return saved.getvalue()
