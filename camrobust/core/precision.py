"""Number formats of the forward pass; results are float32 in all of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from camrobust.contract.defaults import PRECISIONS

GRADIENT_SCALE = {"fp16": 1024.0}
"""Factor on the logits before a backward pass, taken back in float32: gradients of 1e-7 would vanish in half."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """While open, layers compute in a precision; the global switches of torch are put back afterwards.

    Args:
        precision: one of `PRECISIONS`.
        device: where they compute.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_tensor_cores(precision == "tf32"))
        if precision in HALVES:
            stack.enter_context(torch.autocast(device.type, HALVES[precision]))
        yield


def fastest_layout(images: Tensor, precision: str) -> Tensor:
    """Images (B, 3, H, W) in the order of memory in which the device convolves fastest: the layers hand it on.

    Channels last, but for full precision on a GPU (`camrobust bench formats`).
    """
    first = images.is_cuda and precision == "fp32"
    return images.contiguous(memory_format=torch.contiguous_format if first else torch.channels_last)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """While open, layers compute in full precision and the same pass gives the same bits on the same device."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with arithmetic("fp32", device):
            yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def _tensor_cores(allowed: bool) -> Iterator[None]:
    """TF32 in matrix products and convolutions; torch itself allows it in convolutions unless told otherwise."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
