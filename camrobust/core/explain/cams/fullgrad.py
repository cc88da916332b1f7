"""Full-gradient decomposition: what the input and what every bias adds to the logit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from camrobust.core.explain.cams.gradient import ratio
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

BIASED = (nn.Conv2d, nn.BatchNorm2d)
EQUAL = 1e-5
"""Of a channel's largest magnitude: a spread over its positions that rounding may have made."""


def _bias(layer: nn.Module) -> Tensor | None:
    """What a layer adds whatever its input is: (C,), None where it adds nothing."""
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
        scale = torch.rsqrt(layer.running_var + layer.eps)
        scale = scale if layer.weight is None else scale * layer.weight
        return (0 if layer.bias is None else layer.bias) - layer.running_mean * scale
    return getattr(layer, "bias", None)


@contextmanager
def _probed(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """While open, biased layers put out their output plus a zero that requires a gradient; (bias, zero) of each.

    The zero's gradient is that of the layer's output even where an in-place ReLU overwrites it.
    """
    probes: list[tuple[Tensor, Tensor]] = []

    def hook(layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        bias = _bias(layer)
        if bias is None:
            return output
        zero = torch.zeros_like(output, requires_grad=True)
        probes.append((bias, zero))
        return output + zero

    handles = [part.register_forward_hook(hook) for part in module.modules() if isinstance(part, BIASED)]
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()


def full_gradients(evidence: Evidence) -> tuple[Tensor, list[Tensor]]:
    """x·∂y_c/∂x (B, 3, H, W), and b·∂y_c/∂b for every biased convolution or batch normalisation, (B, C, h, w) each.

    Their sum is y_c where all other layers are ReLU, max or average pooling and a linear layer without bias.
    """
    with torch.enable_grad(), _probed(evidence.network.module) as probes:
        images = evidence.images.clone().requires_grad_()
        score = evidence.explained(evidence.network.logits(images)).sum()
        found = torch.autograd.grad(score, [images, *(zero for _, zero in probes)], allow_unused=True)
    pairs = zip(probes, found[1:], strict=True)
    biases = [bias.reshape(-1, 1, 1).detach() * g.float() for (bias, _), g in pairs if g is not None]
    if found[0] is None:
        raise ValueError("fullgrad: no gradient of the logits reaches the image")
    return (images * found[0]).detach().float(), biases


def _scaled(values: Tensor) -> Tensor:
    """Absolute values, every channel min-max scaled over its positions, summed over channels: (B, 1, h, w).

    A channel that is the same at all positions counts nothing, also where rounding makes it differ.
    """
    size = values.abs()
    low, high = size.amin(dim=(2, 3), keepdim=True), size.amax(dim=(2, 3), keepdim=True)
    spread = high - low
    return ratio(size - low, torch.where(spread <= EQUAL * high, 0, spread)).sum(dim=1, keepdim=True)


@cam("fullgrad", needs="passes", cost="passes", source="Srinivas & Fleuret, arXiv 1905.00780", year=2019)
def fullgrad(evidence: Evidence) -> Tensor:
    """FullGrad: ψ(x·∂y_c/∂x) + Σ over biased layers and channels of ψ(b·∂y_c/∂b).

    ψ is the absolute value, min-max scaled over the positions of its channel and upsampled to the image (bilinear);
    for batch normalisation b is β - γ·μ/σ. Biases of convolutions and batch normalisations count. Deviation: the sum,
    made at the image's resolution, is averaged down to the target layer's, as all maps here have it. The authors'
    code scales over all channels of a layer; grad-cam per channel, as the equation says, with an ε of 1e-7 that
    swallows small ones.

    References:
        Srinivas & Fleuret 2019, arXiv 1905.00780, equation 8.
    """
    inputs, biases = full_gradients(evidence)
    total = _scaled(inputs)
    for one in biases:
        total = total + interpolate(_scaled(one), size=total.shape[2:], mode="bilinear", align_corners=False)
    h, w = evidence.activations.shape[2:]
    return adaptive_avg_pool2d(total, (h, w))[:, 0]
