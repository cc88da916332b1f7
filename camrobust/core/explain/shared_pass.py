"""The shared pass: one forward and one backward through the tail serve every CAM.

A hook replaces the output of the target layer by a clone of a detached leaf, so that autograd records only the layers
behind it. Some models apply an in-place operation there (VGG, SqueezeNet). It changes only the clone, so it neither
fails on the leaf nor changes the activations that the CAMs use.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.explain.hooks import replaced_output
from camrobust.core.explain.layout import tensor_in, with_tensor
from camrobust.core.explain.network import Network
from camrobust.core.precision import GRADIENT_SCALE, arithmetic

Choose = Callable[[Tensor], Tensor]
"""A function from logits (B, n) to the explained class of each image (B,)."""


class NoGradientError(UserError):
    """No gradient of the logits reaches the target layer."""


def run_with_gradient(
    network: Network, images: Tensor, choose: Choose, *, graph: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One forward pass, and one backward pass through the tail only.

    Args:
        network: the model and its target layer.
        images: (B, 3, H, W), normalised.
        choose: logits (B, n) to the explained classes (B,).
        graph: keep the graph back to the images, which must require a gradient, for a second derivative.

    Returns:
        The target layer's output and the gradient of the explained logit there, both in the layer's own layout (the
        output in its own precision; the gradient float32, NaN if the network is not differentiable); the logits (B, n)
        float32; the explained classes (B,).

    Raises:
        UserError: the target layer did not run exactly once, its output holds no tensor, or no gradient reaches it.
    """
    if not network.differentiable:
        return _without_gradient(network, images, choose)
    scale = GRADIENT_SCALE.get(network.precision, 1.0)
    with torch.enable_grad():
        with arithmetic(network.precision, images.device):
            compiled = network.prefix is not None and not graph
            leaf, logits = _forward_in_parts(network, images) if compiled else _forward(network, images, graph=graph)
        targets = choose(logits.detach())
        explained = torch.zeros_like(logits).scatter_(1, targets[:, None], scale)
    gradients = None
    if logits.requires_grad:
        (gradients,) = torch.autograd.grad(logits, leaf, explained, allow_unused=True, create_graph=graph)
    if gradients is None:
        raise NoGradientError(
            f"target_layer: no gradient of the logits reaches '{network.layer_name}'; "
            "choose a layer that they depend on"
        )
    gradients = gradients.float() / scale if scale != 1 else gradients.float()
    if graph:
        return leaf, gradients, logits.float(), targets
    return leaf.detach(), gradients, logits.detach().float(), targets


def _forward(network: Network, images: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
    """The target layer's output, of which autograd records from here on, and the logits; by a hook."""
    leaves: list[Tensor] = []

    def by_leaf(output: object) -> object:
        tensor = _tensor(network, output)
        leaf = tensor if graph else tensor.detach().requires_grad_()
        leaves.append(leaf)
        return with_tensor(output, leaf.clone())

    logits = _logits(network, images, by_leaf)
    return leaves[0], logits


def _without_gradient(network: Network, images: Tensor, choose: Choose) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `run_with_gradient` returns for a network that is not differentiable."""
    outputs: list[Tensor] = []

    def keep(output: object) -> object:
        outputs.append(_tensor(network, output).clone())
        return output

    with torch.no_grad(), arithmetic(network.precision, images.device):
        logits = _logits(network, images, keep).float().clone()
    # Copies made out here, because a tensor of torch.inference_mode() can take no part in autograd.
    output = outputs[0].clone()
    return output, torch.full_like(output, torch.nan, dtype=torch.float32), logits, choose(logits)


def _tensor(network: Network, output: object) -> Tensor:
    """The tensor in the target layer's output."""
    tensor = tensor_in(output)
    if tensor is None:
        raise UserError(
            f"target_layer: '{network.layer_name}' must put out a feature map (B, C, h, w) or a grid of tokens, "
            f"got {type(output).__name__}; choose another layer"
        )
    return tensor


def _logits(network: Network, images: Tensor, replace: Callable[[object], object]) -> Tensor:
    """The logits of a pass in which the target layer, which must run once, has another output."""
    with replaced_output(network.layer, replace) as calls:
        logits = network.scores(network.module(images))
    if len(calls) != 1:
        raise UserError(
            f"target_layer: '{network.layer_name}' must run exactly once in a forward pass, it ran {len(calls)} times; "
            "choose another layer"
        )
    return logits


def _forward_in_parts(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the compiled prefix and the tail."""
    if network.prefix is None or network.tail is None:
        raise ValueError("network: a compiled prefix needs the tail behind it")
    with torch.no_grad():
        output, *context = network.prefix(images)
    leaf = cast(Tensor, output).detach().requires_grad_()
    return leaf, network.scores(network.tail.behind(leaf.clone(), *context))
