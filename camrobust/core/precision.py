"""Number formats of the forward pass; results are float32 in all of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from camrobust.contract.defaults import PRECISIONS

GRADIENT_SCALE = {"fp16": 1024.0}
"""The logits are multiplied by this before a backward pass, and the gradients divided by it in float32.

Without it, gradients of 1e-7 would vanish in half precision.
"""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Within the context, layers compute in a precision; torch's global switches are restored at its end.

    Args:
        precision: one of `PRECISIONS`.
        device: where the layers compute.

    Raises:
        ValueError: the precision is not in `PRECISIONS`.
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
    """Images (B, 3, H, W) in the memory order in which the device convolves fastest; layers keep the order.

    That is channels last, except in full precision on a GPU (measured by `camrobust bench formats`).
    """
    channels_first = images.is_cuda and precision == "fp32"
    return images.contiguous(memory_format=torch.contiguous_format if channels_first else torch.channels_last)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within the context, layers use full precision and a repeated pass gives the same bits on the same device."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with arithmetic("fp32", device):
            yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def _tensor_cores(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products and convolutions; torch allows it in convolutions by default."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
