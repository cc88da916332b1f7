"""The shared pass: one forward and one tail backward serve every CAM.

A hook on the target layer hands on a clone of a detached leaf, so autograd records only what lies behind the target
layer. The clone keeps an in-place operation behind the layer (VGG, SqueezeNet) from failing on the leaf and from
changing the activations that the CAMs see.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from camrobust.core.draws import Draws
from camrobust.errors import UserError

Choose = Callable[[Tensor], Tensor]
"""Logits (B, n) to the class explained for each image (B,)."""

Tail = Callable[[Tensor], Tensor]
"""Activations (N, C, h, w) of the target layer to logits (N, n)."""


def predicted(logits: Tensor) -> Tensor:
    """The class with the highest logit, (B, n) -> (B,)."""
    return logits.argmax(dim=1)


def logits_of(output: object) -> Tensor:
    """The (B, n) logits inside whatever a classifier returns.

    Takes a tensor, a tuple whose first entry is one (Inception), or an object with `.logits` (Hugging Face).

    Raises:
        UserError: nothing of that kind is there.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: its output must be logits of shape (images, classes), got {shape}; wrap the model")
    return logits


def spatial(output: object, layer: str) -> Tensor:
    """The (B, C, h, w) feature map that a target layer put out.

    This is the seam for transformers: a token grid would be folded into a feature map here.

    Raises:
        UserError: the layer's output is no feature map.
    """
    if isinstance(output, Tensor) and output.ndim == 4:
        return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(
        f"target_layer: '{layer}' must put out a feature map (B, C, h, w), got {shape}; choose a convolutional layer"
    )


@dataclass(frozen=True)
class Linear:
    """Weight (n, C) and bias (n,) of a head that is exactly global average pooling and one linear layer."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Network:
    """A classifier with the layer at which it is explained.

    Attributes:
        module: takes normalised images (B, 3, H, W), in evaluation mode.
        layer: the target layer, a submodule of it.
        layer_name: its dotted name.
        tail: the part behind the target layer as a function of its activations, None where it cannot be cut out.
        head: set where that part is exactly global average pooling and one linear layer.
    """

    module: nn.Module
    layer: nn.Module
    layer_name: str
    tail: Tail | None = None
    head: Linear | None = None


@dataclass
class Evidence:
    """What every CAM method is computed from, for one batch of images and one target layer.

    Attributes:
        activations: A, (B, C, h, w) float32.
        gradients: g = dy_c/dA, (B, C, h, w) float32, y the logit.
        logits: (B, n) float32.
        targets: the explained class c of each image, (B,) int64.
        rerun: logits (N, n) for replaced activations (N, C, h, w); the second argument says which image of the batch
            each of the N belongs to, (N,) int64.
        head: set where the model is global average pooling and one linear layer behind the target layer.
        draws: one random stream per image, for methods that draw.
    """

    activations: Tensor
    gradients: Tensor
    logits: Tensor
    targets: Tensor
    rerun: Callable[[Tensor, Tensor], Tensor]
    head: Linear | None
    draws: Draws | None

    @cached_property
    def product(self) -> Tensor:
        """g·A, (B, C, h, w)."""
        return self.gradients * self.activations

    @cached_property
    def sums(self) -> Tensor:
        """S = Σ_s A, (B, C)."""
        return self.activations.sum(dim=(2, 3))

    @cached_property
    def scores(self) -> Tensor:
        """The explained class's logit y_c, (B,)."""
        return self.logits.gather(1, self.targets[:, None])[:, 0]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients; every flag is put back afterwards."""
    training = [part for part in module.modules() if part.training]
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True


@contextmanager
def replaced(layer: nn.Module, replace: Callable[[object], Tensor]) -> Iterator[list[int]]:
    """While open, what the layer puts out is handed on as `replace(output)`; counts the calls in a list."""
    calls: list[int] = []

    def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        calls.append(1)
        return replace(output)

    handle = layer.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def _rerun(network: Network, images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Logits for replaced activations: by the tail alone, or by full passes where the model cannot be cut."""
    tail = network.tail
    if tail is not None:
        return lambda activations, _rows: tail(activations)

    def full_pass(activations: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad(), replaced(network.layer, lambda _: activations):
            return logits_of(network.module(images[rows])).float()

    return full_pass


def collect(network: Network, images: Tensor, choose: Choose = predicted, draws: Draws | None = None) -> Evidence:
    """Run the shared pass.

    The caller has frozen the model (`frozen`); the gradient of the explained logit with respect to the target layer's
    activations is taken by one backward through the tail only.

    Args:
        network: the model and its target layer.
        images: (B, 3, H, W), normalised, on the model's device.
        choose: logits (B, n) to the explained classes (B,).
        draws: B random streams for methods that draw.

    Returns:
        The evidence, detached: it holds no autograd graph.

    Raises:
        UserError: the target layer did not run exactly once, or its output is no feature map.
    """
    leaves: list[Tensor] = []

    def hand_on(output: object) -> Tensor:
        leaf = spatial(output, network.layer_name).detach().requires_grad_()
        leaves.append(leaf)
        return leaf.clone()

    with torch.enable_grad(), replaced(network.layer, hand_on) as calls:
        logits = logits_of(network.module(images))
        targets = choose(logits.detach())
        explained = logits.gather(1, targets[:, None]).sum()
    if len(calls) != 1:
        raise UserError(
            f"target_layer: '{network.layer_name}' must run exactly once in a forward pass, it ran {len(calls)} times; "
            "choose another layer"
        )
    (gradients,) = torch.autograd.grad(explained, leaves)
    return Evidence(
        activations=leaves[0].detach().float(),
        gradients=gradients.float(),
        logits=logits.detach().float(),
        targets=targets,
        rerun=_rerun(network, images),
        head=network.head,
        draws=draws,
    )


def explain(evidence: Evidence, cams: Sequence[Callable[[Evidence], Tensor]]) -> Tensor:
    """All maps of a batch, (B, K, h, w) float32, from evidence that was collected once."""
    with torch.no_grad():
        return torch.stack([cam(evidence) for cam in cams], dim=1)
