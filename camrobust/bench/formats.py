"""What the order of memory and torch.compile would save of a plain forward pass, in every precision."""

from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.bench.passes import BATCH, MODEL, interleaved, random_model
from camrobust.core.precision import PRECISIONS, arithmetic
from camrobust.errors import UserError


def formats(device: str, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of one batch through a ResNet-50 with random weights: channels first, channels last, compiled.

    Args:
        device: "cpu" or "cuda".
        repeats: turns; medians are reported.

    Returns:
        One row per precision that differs on the device.

    Raises:
        UserError: no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("bench: this machine has no CUDA device; use --device cpu")
    model = random_model(MODEL, device)
    images = torch.rand(BATCH[device], 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    last = images.contiguous(memory_format=torch.channels_last)
    rows = []
    for precision in PRECISIONS:
        if device == "cpu" and precision in ("tf32", "fp16"):
            continue
        module = model.network.module
        compiled: Any = torch.compile(module, dynamic=False)
        ways = {
            "channels first": partial(_pass, module, images, precision),
            "channels last": partial(_pass, module, last, precision),
            "channels last, compiled": partial(_pass, compiled, last, precision),
        }
        seconds = interleaved(ways, repeats, device)
        rows.append({"precision": precision} | {name: f"{median(one) * 1000:.2f}" for name, one in seconds.items()})
        torch.compiler.reset()
    return rows


def _pass(module: nn.Module, images: Tensor, precision: str) -> Tensor:
    with torch.inference_mode(), arithmetic(precision, images.device):
        logits: Tensor = module(images)
    return logits
