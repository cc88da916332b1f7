"""How much time memory format and torch.compile save in a plain forward pass, in every precision."""

from functools import partial
from statistics import median
from typing import Any

import torch

from camrobust.bench.speed.available import check_device
from camrobust.bench.speed.passes import BATCH, MODEL, interleaved, plain, random_model
from camrobust.contract.defaults import PRECISIONS


def formats(device: str, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds of one batch through a ResNet-50 with random weights: channels first, channels last, compiled.

    Args:
        device: "cpu" or "cuda".
        repeats: number of turns; medians are reported.

    Returns:
        One row per precision that makes a difference on the device.

    Raises:
        UserError: this machine has no such device.
    """
    check_device(device)
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
            "channels first": partial(plain, module, images, precision),
            "channels last": partial(plain, module, last, precision),
            "channels last, compiled": partial(plain, compiled, last, precision),
        }
        seconds = interleaved(ways, repeats, device)
        rows.append({"precision": precision} | {way: f"{median(times) * 1000:.2f}" for way, times in seconds.items()})
        torch.compiler.reset()
    return rows
