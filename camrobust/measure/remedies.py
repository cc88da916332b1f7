"""What a user can do about a model that refuses images or whose layers cannot be watched, found by trying."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

SIDES = (224, 256, 288, 299, 320, 336, 384, 448, 480, 512, 32, 64, 96, 128, 160, 192)
"""Sides of images for which models are made, likeliest first, px."""


def what_it_takes(module: nn.Module, images: Callable[[int], Tensor], device: torch.device | str) -> str:
    """The remedy for a module that raises at images: parameters in float32, another size, or a correct forward.

    Args:
        module: in evaluation mode.
        images: makes images of a side, px.
        device: where the module computes.
    """
    kinds = {value.dtype for value in module.parameters() if value.is_floating_point()} - {torch.float32}
    if kinds:
        kind = str(kinds.pop()).removeprefix("torch.")
        return f"its parameters are {kind}: call .float() on it; `precision` says in which format its layers compute"
    side = next((side for side in SIDES if _takes(module, images(side).to(device))), None)
    if side is not None:
        return f"it takes images of {side} px (image.crop in a configuration, crop= or --crop elsewhere)"
    return "correct its forward, which must take (B, 3, H, W)"


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            module(2 * images - 1)
    except (Exception, SystemExit):  # noqa: BLE001 - a model may refuse them with any error
        return False
    return True


def unwatchable(error: BaseException) -> str:
    """The remedy for a module whose layers cannot be watched."""
    if isinstance(error, CheckpointError) or "use_reentrant" in str(error):
        return (
            "switch activation checkpointing off, which runs layers again (set_grad_checkpointing(False) in timm, "
            "gradient_checkpointing_disable() in transformers, memory_efficient=False in torchvision)"
        )
    return "pass the plain module, not a scripted or exported one"
