"""Replaying a function of tensors as one CUDA graph, which launches all its kernels at once.

The host pays some microseconds for each kernel that it launches, and a graph only once. The price is fixed shapes and
memory: inputs are copied into buffers of the graph, and results out of them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from camrobust.contract.quoting import first_line

Tensors: TypeAlias = tuple[Tensor, ...]
Function: TypeAlias = Callable[..., Tensors]
Record: TypeAlias = Callable[[Function, Tensors], tuple[Callable[[], None], Tensors]]
"""Records what a function does with some buffers; gives a function that repeats it, and the buffers of the results."""
TOLERANCE = 1e-6
"""Largest difference of the first replay from the plain function, relative to the largest magnitude of a result."""
WARM_UPS = 3
"""Calls before the recording, in which libraries choose kernels and reserve memory."""
MOST_FORMS = 4
"""Forms of inputs that are recorded; each keeps its memory. Calls in other forms are plain."""


@dataclass(frozen=True)
class _Recording:
    """A recorded function with its buffers."""

    inputs: Tensors
    repeat: Callable[[], None]
    results: Tensors

    def run(self, tensors: Tensors) -> Tensors:
        """The results for other inputs of the same form, as tensors of their own."""
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.repeat()
        return tuple(result.clone() for result in self.results)


@dataclass(eq=False)
class Captured:
    """A function that is replayed as a CUDA graph where its inputs are on a GPU, and called where they are not.

    Every form of inputs (shapes, memory orders, types) is recorded at its first call, and its first replay is compared
    with the plain function. Where recording fails or the results differ, a warning says so, and all further calls are
    plain. For one thread and one stream at a time.

    Attributes:
        function: takes tensors and gives a tuple of tensors. It must change no input, read no value on the host and
            draw no random number.
        record: how to record; None for a CUDA graph on GPUs and plain calls elsewhere.
    """

    function: Function
    record: Record | None = None
    _recordings: dict[object, _Recording] = field(default_factory=dict, init=False)
    _plain: bool = field(default=False, init=False)

    def __call__(self, *tensors: Tensor) -> Tensors:
        """The function's results for these tensors."""
        record = self.record or (cuda_graph if tensors[0].is_cuda else None)
        if record is None or self._plain:
            return self.function(*tensors)
        form = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
        if form in self._recordings:
            return self._recordings[form].run(tensors)
        if len(self._recordings) == MOST_FORMS:
            return self.function(*tensors)
        return self._first(form, record, tensors)

    def _first(self, form: object, record: Record, tensors: Tensors) -> Tensors:
        """Record a form, and compare its first replay with the plain results."""
        buffers = tuple(torch.empty_like(tensor).copy_(tensor) for tensor in tensors)
        wanted = self.function(*buffers)
        try:
            recording = _Recording(buffers, *record(self.function, buffers))
            found = recording.run(tensors)
            reason = _difference(found, wanted)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the plain function still works
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason:
            self._plain = True
            self._recordings.clear()
            warnings.warn(f"CUDA graph not used: {reason}; the run goes on without it", RuntimeWarning, stacklevel=3)
            return wanted
        self._recordings[form] = recording
        # The replayed results, as in all further calls, so that no bit depends on which pass was the first.
        return found


def captured(function: Function) -> Captured:
    """The function, replayed as a CUDA graph on GPUs; see `Captured`."""
    return Captured(function)


def cuda_graph(function: Function, buffers: Tensors) -> tuple[Callable[[], None], Tensors]:
    """Record a function as a CUDA graph.

    Raises:
        Exception: of any type, if the function does what a graph cannot hold, such as waiting for the device.
    """
    device = buffers[0].device
    with torch.cuda.device(device), torch.no_grad():
        side, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(*buffers)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy and allocate meanwhile.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            results = function(*buffers)
    return graph.replay, results


def _difference(found: Tensors, wanted: Tensors) -> str:
    """How the results of a replay differ beyond `TOLERANCE`, "" if they do not."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if not other.is_floating_point():
            if not torch.equal(one, other):
                return f"result {number} of the first replay differs"
            continue
        size = float(other.nan_to_num(0, 0, 0).abs().amax()) if other.numel() else 0.0
        if not torch.allclose(one, other, rtol=0, atol=TOLERANCE * size, equal_nan=True):
            return f"result {number} of the first replay differs by more than {TOLERANCE:g} of its largest value"
    return ""
