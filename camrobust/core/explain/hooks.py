"""Forward hooks that are removed at the end of a context."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def hooked(
    modules: Iterable[nn.Module],
    after: Callable[[nn.Module, Any, Any], Any],
    before: Callable[[nn.Module, Any], None] | None = None,
) -> Iterator[None]:
    """Within the context, call functions around each forward of some modules.

    Args:
        modules: the modules.
        after: called with module, inputs and output; a result other than None replaces the output.
        before: called with module and inputs.
    """
    handles = []
    try:
        for module in modules:
            if before is not None:
                handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_output(module: nn.Module, replace: Callable[[object], object]) -> Iterator[list[int]]:
    """Within the context, a module's output is `replace(output)`; yields a list that gets one entry per call."""
    calls: list[int] = []

    def after(_module: nn.Module, _inputs: object, output: object) -> object:
        calls.append(1)
        return replace(output)

    with hooked([module], after):
        yield calls
