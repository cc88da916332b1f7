"""Full-gradient decomposition: the contributions of the input and of every bias to the logit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence
from camrobust.core.explain.hooks import hooked
from camrobust.core.scaling import min_max

BIASED = (nn.Conv2d, nn.BatchNorm2d)
EQUAL = 1e-5
"""A channel whose spread over positions is at most this share of its maximum counts as constant up to rounding."""


def _bias(layer: nn.Module) -> Tensor | None:
    """The bias (C,) of a layer, in batch normalisation β - γ·μ/σ; None if it has none."""
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
        scale = torch.rsqrt(layer.running_var + layer.eps)
        scale = scale if layer.weight is None else scale * layer.weight
        return (0 if layer.bias is None else layer.bias) - layer.running_mean * scale
    return getattr(layer, "bias", None)


@contextmanager
def _with_zeros(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within the context, adds a zero that requires a gradient to the output of each biased layer.

    Yields the list of (bias, zero) of these layers. The gradient of the zero is that of the layer's output, even if an
    in-place ReLU overwrites the output.
    """
    zeros: list[tuple[Tensor, Tensor]] = []

    def add_zero(layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        bias = _bias(layer)
        if bias is None:
            return output
        zero = torch.zeros_like(output, requires_grad=True)
        zeros.append((bias, zero))
        return output + zero

    with hooked([part for part in module.modules() if isinstance(part, BIASED)], add_zero):
        yield zeros


def full_gradients(evidence: Evidence) -> tuple[Tensor, list[Tensor]]:
    """The full gradients: x·∂y_c/∂x, and b·∂y_c/∂b of every biased convolution and batch normalisation.

    Their sum is y_c if all other layers are ReLUs, max or average pooling, and a linear layer without bias.

    Returns:
        (B, 3, H, W), and (B, C, h, w) for each layer, all float32.

    Raises:
        ValueError: the logits do not depend on the images.
    """
    with torch.enable_grad(), _with_zeros(evidence.network.module) as zeros:
        images = evidence.images.clone().requires_grad_()
        score = evidence.explained_logit(evidence.network.logits(images)).sum()
        of_images, *of_zeros = torch.autograd.grad(score, [images, *(zero for _, zero in zeros)], allow_unused=True)
    pairs = zip(zeros, of_zeros, strict=True)
    biases = [bias.reshape(-1, 1, 1).detach() * g.float() for (bias, _), g in pairs if g is not None]
    if of_images is None:
        raise ValueError("fullgrad: no gradient of the logits reaches the image")
    return (images * of_images).detach().float(), biases


def _scaled(values: Tensor) -> Tensor:
    """ψ summed over channels, (B, 1, h, w): absolute values, each channel min-max scaled over its positions.

    A channel that is constant up to rounding adds 0.
    """
    return min_max(values.abs(), (2, 3), tolerance=EQUAL).sum(dim=1, keepdim=True)


@cam("fullgrad", needs="passes", source="Srinivas & Fleuret, arXiv 1905.00780", year=2019)
def fullgrad(evidence: Evidence) -> Tensor:
    """FullGrad: ψ(x·∂y_c/∂x) + Σ over biased layers and channels of ψ(b·∂y_c/∂b).

    ψ is the absolute value, min-max scaled over the positions of each channel and upsampled (bilinearly) to the image.
    The biases are those of convolutions and batch normalisations (b = β - γ·μ/σ). Deviation: the sum at the image's
    resolution is averaged down to that of the target layer, which all maps here have. The authors' code scales over all
    channels of a layer. grad-cam scales per channel, as in the equation, with an ε of 1e-7 that suppresses small
    channels.

    References:
        Srinivas & Fleuret 2019, arXiv 1905.00780, equation 8.
    """
    inputs, biases = full_gradients(evidence)
    total = _scaled(inputs)
    for bias in biases:
        total = total + interpolate(_scaled(bias), size=total.shape[2:], mode="bilinear", align_corners=False)
    h, w = evidence.activations.shape[2:]
    return adaptive_avg_pool2d(total, (h, w))[:, 0]
