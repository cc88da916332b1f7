"""Compiling what lies before the target layer; the part behind it stays eager, because autograd records it."""

from dataclasses import replace

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line
from camrobust.core.explain.network import Network
from camrobust.core.explain.tail import cut_prefix
from camrobust.core.precision import arithmetic

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Largest difference between compiled and eager activations, relative to the largest one, that is accepted."""


def compile_prefix(network: Network, images: Tensor) -> Network:
    """The same network, which runs compiled code up to its target layer in every shared pass.

    torch compiles once for each shape of images, and keeps the code on disk (`TORCHINDUCTOR_CACHE_DIR`, by default a
    folder of the user in the temporary folder), where every process of the machine finds it. Passes with
    `graph=True` and re-runs stay eager.

    Args:
        network: frozen, with the precision in which it will run.
        images: (B, 3, H, W), normalised, of the shape and memory order of all passes; they are passed through both
            forms, and the compiled form must give the same activations up to `TOLERANCE`.

    Raises:
        UserError: the model cannot be cut at its target layer, or its first part cannot be compiled, or the compiled
            code gives other numbers.
    """
    name = network.layer_name
    if network.tail is None:
        raise UserError(
            f"compile: the model cannot be cut at its target layer '{name}', because its forward branches on values or "
            "packs its outputs; set compile: false"
        )
    try:
        prefix = cut_prefix(network.module, name)
        with torch.no_grad(), arithmetic(network.precision, images.device):
            wanted, *_ = prefix(images)
            compiled = torch.compile(prefix, dynamic=False)
            found, *_ = compiled(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers and tracers run foreign code and may raise anything
        raise UserError(
            f"compile: the layers up to '{name}' cannot be compiled ({type(error).__name__}: {first_line(error)}); "
            "install g++ and the headers of Python, or set compile: false"
        ) from error
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if not difference <= TOLERANCE[network.precision]:
        raise UserError(
            f"compile: the compiled layers up to '{name}' differ from the eager ones by {difference:.1g} of the "
            f"largest activation, allowed is {TOLERANCE[network.precision]:g}; set compile: false"
        )
    return replace(network, prefix=compiled)
