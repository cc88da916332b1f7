"""What this machine has: its device, its versions, and the perturbations that it can make."""

import platform
from contextlib import suppress
from typing import Any

import torch

from camrobust.contract.errors import UserError
from camrobust.core.perturb import variants, without_model


def check_device(device: str) -> None:
    """Raise UserError if this machine has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("bench: this machine has no CUDA device; use --device cpu")


def perturbations_here() -> list[str]:
    """Names of the perturbations that this machine can make: frost needs photographs from a package."""
    names = []
    for name in without_model():
        with suppress(UserError):
            variants([name])
            names.append(name)
    return names


def machine(device: str) -> dict[str, Any]:
    """Facts about this machine."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, CPU",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
