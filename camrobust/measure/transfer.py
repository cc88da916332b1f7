"""Copies between the host and a GPU that wait for nothing; on a CPU there is nothing to copy."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to a GPU, beside the one that computes."""
    return torch.cuda.Stream(device)


def to_device(pieces: Sequence[Tensor | np.ndarray], device: torch.device) -> Tensor:
    """Arrays joined along their first dimension, on a device.

    From the host to a GPU they travel through pinned memory and on a stream of their own, so that the copy overlaps
    with what the GPU computes. Torch keeps the pinned memory until the copy is done.

    Args:
        pieces: (n, …) each; arrays on the host, or tensors that are already on the device.
        device: where to put them.
    """
    there = [piece for piece in pieces if isinstance(piece, Tensor)]
    if there:
        return torch.cat(there)
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if device.type != "cuda":
        return torch.from_numpy(np.concatenate(arrays)).to(device)
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    pinned = torch.empty(shape, dtype=torch.from_numpy(arrays[0][:0]).dtype, pin_memory=True)
    np.concatenate(arrays, out=pinned.numpy())
    computing = torch.cuda.current_stream(device)
    with torch.cuda.stream(_copying(device)):
        sent = pinned.to(device, non_blocking=True)
    computing.wait_stream(_copying(device))
    sent.record_stream(computing)
    return sent


def to_host(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to the host; the function that is returned waits for the copy and returns it."""
    if not values.is_cuda:
        return lambda: values
    landed = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    landed.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> Tensor:
        arrived.synchronize()
        return landed

    return wait
