"""The shared pass: one forward and one tail backward serve every CAM.

A hook on the target layer hands on a clone of a detached leaf, so autograd records only what lies behind the target
layer. The clone keeps an in-place operation behind the layer (VGG, SqueezeNet) from failing on the leaf and from
changing the activations that the CAMs see.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.layout import FEATURE_MAP, Layout, tensor_in, with_tensor
from camrobust.core.explain.tail import FirstAffine, PooledHead, Tail
from camrobust.core.precision import GRADIENT_SCALE, arithmetic

Choose = Callable[[Tensor], Tensor]
"""Logits (B, n) to the class explained for each image (B,)."""
CHUNK_BYTES = 128 * 2**20
"""Most memory that the replaced activations, or the images, of one re-run may take."""


def predicted(logits: Tensor) -> Tensor:
    """The class with the highest logit, (B, n) -> (B,)."""
    return logits.argmax(dim=1)


def logits_of(output: object) -> Tensor:
    """The (B, n) logits inside whatever a classifier returns.

    Takes a tensor, a tuple whose first entry is one (Inception), an object with `.logits` (Hugging Face) or a mapping
    that has `logits`.

    Raises:
        UserError: nothing of that kind is there.
    """
    if isinstance(output, (tuple, list)) and output and not hasattr(output, "logits"):
        output = output[0]
    if isinstance(output, Mapping) and not hasattr(output, "logits"):
        output = output.get("logits", output)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: its output must be logits of shape (images, classes), got {shape}; wrap the model")
    return logits


@dataclass(frozen=True)
class Network:
    """A classifier with the layer at which it is explained.

    Attributes:
        module: takes normalised images (B, 3, H, W), in evaluation mode.
        layer: the target layer, a submodule of it.
        layer_name: its dotted name.
        layout: how the layer lays out positions and channels.
        tail: the part behind the target layer as a function of its output, None where it cannot be cut out.
        head: set where that part is exactly global average pooling and one linear layer.
        first: that part split at its first linear or convolutional layer, where only channel-wise work lies before it.
        precision: in which the layers compute.
    """

    module: nn.Module
    layer: nn.Module
    layer_name: str
    layout: Layout = FEATURE_MAP
    tail: Tail | None = None
    head: PooledHead | None = None
    first: FirstAffine | None = None
    precision: str = "fp32"

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, n) float32 of normalised images."""
        with arithmetic(self.precision, images.device):
            return logits_of(self.module(images)).float()


@dataclass
class Evidence:
    """What every CAM method is computed from, for one batch of images and one target layer.

    Attributes:
        activations: A, (B, C, h, w) float32.
        gradients: g = dy_c/dA, (B, C, h, w) float32, y the logit.
        logits: (B, n) float32.
        targets: the explained class c of each image, (B,) int64.
        network: the model and its target layer.
        images: (B, 3, H, W), normalised.
        outputs: what the target layer put out, in its own layout.
        head: set where the model is global average pooling and one linear layer behind the target layer.
        draws: one random stream per image, for methods that draw.
        found: what one method leaves for another, by name.
    """

    activations: Tensor
    gradients: Tensor
    logits: Tensor
    targets: Tensor
    network: Network
    images: Tensor
    outputs: Tensor
    head: PooledHead | None
    draws: Draws | None
    found: dict[str, Any] = field(default_factory=dict)

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
        return self.explained(self.logits)

    @cached_property
    def _context(self) -> tuple[object, ...]:
        """What the tail needs beside the target layer's output."""
        tail = self.network.tail
        if tail is None:
            return ()
        with torch.no_grad(), arithmetic(self.network.precision, self.images.device):
            return tail.context(self.images)

    @property
    def chunk(self) -> int:
        """Re-runs of the tail that are made at once, bounded by memory."""
        size = self.activations[0].numel() * 4 if self.network.tail is not None else self.images[0].numel() * 4 * 8
        return max(1, CHUNK_BYTES // size)

    def explained(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Of logits (N, n) those of the explained class, (N,); `rows` says which image of the batch each belongs to."""
        targets = self.targets if rows is None else self.targets[rows]
        return logits.gather(1, targets[:, None])[:, 0]

    def resume(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Logits (N, n) float32 for other outputs (N, …) of the target layer, in its own layout.

        By the tail alone, or by full passes where the model cannot be cut. Differentiable where autograd records.

        Args:
            outputs: N of them; they are left as they are.
            rows: (N,) int64, which image of the batch each belongs to.
        """
        network, outputs = self.network, outputs.to(self.outputs.dtype).clone()
        with arithmetic(network.precision, outputs.device):
            if network.tail is not None:
                return logits_of(network.tail(outputs, self._context, rows, len(self.images))).float()
            with replaced(network.layer, lambda output: with_tensor(output, outputs)):
                return logits_of(network.module(self.images[rows])).float()

    def rerun(self, activations: Tensor, rows: Tensor) -> Tensor:
        """The same for replaced activations (N, C, h, w)."""
        return self.resume(self.network.layout.unfold(activations, self.outputs[rows]), rows)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients; every flag is put back afterwards.

    Raises:
        UserError: the parameters can have no gradient at all.
    """
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise UserError("model: its parameters were made under torch.inference_mode(); build it outside of that")
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
def replaced(layer: nn.Module, replace: Callable[[object], object]) -> Iterator[list[int]]:
    """While open, what the layer puts out is handed on as `replace(output)`; counts the calls in a list."""
    calls: list[int] = []

    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        calls.append(1)
        return replace(output)

    handle = layer.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def record(
    network: Network, images: Tensor, choose: Choose, *, graph: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One forward, and one backward through the tail only.

    Args:
        network: the model and its target layer.
        images: (B, 3, H, W), normalised.
        choose: logits (B, n) to the explained classes (B,).
        graph: keep the way back to the images, which record a gradient, for a second derivative.

    Returns:
        The target layer's output and the explained logit's gradient there, in the layer's own layout and precision
        (the gradient in float32), the logits (B, n) float32, and the explained classes (B,).

    Raises:
        UserError: the target layer did not run exactly once, its output holds no tensor, or no gradient reaches it.
    """
    leaves: list[Tensor] = []
    scale = GRADIENT_SCALE.get(network.precision, 1.0)

    def hand_on(output: object) -> object:
        tensor = tensor_in(output)
        if tensor is None:
            raise UserError(f"{_must(network.layer_name)}, got {type(output).__name__}; choose another layer")
        leaf = tensor if graph else tensor.detach().requires_grad_()
        leaves.append(leaf)
        return with_tensor(output, leaf.clone())

    with torch.enable_grad(), replaced(network.layer, hand_on) as calls:
        with arithmetic(network.precision, images.device):
            logits = logits_of(network.module(images))
        targets = choose(logits.detach())
        explained = logits.gather(1, targets[:, None]).sum() * scale
    if len(calls) != 1:
        raise UserError(
            f"target_layer: '{network.layer_name}' must run exactly once in a forward pass, it ran {len(calls)} times; "
            "choose another layer"
        )
    gradients = None
    if explained.requires_grad:
        (gradients,) = torch.autograd.grad(explained, leaves, allow_unused=True, create_graph=graph)
    if gradients is None:
        raise UserError(
            f"target_layer: no gradient of the logits reaches '{network.layer_name}'; "
            "choose a layer that they depend on"
        )
    gradients = gradients.float() / scale if scale != 1 else gradients.float()
    if graph:
        return leaves[0], gradients, logits.float(), targets
    return leaves[0].detach(), gradients, logits.detach().float(), targets


def collect(
    network: Network,
    images: Tensor,
    choose: Choose = predicted,
    draws: Draws | None = None,
    *,
    graph: bool = False,
) -> Evidence:
    """Run the shared pass.

    The caller has frozen the model (`frozen`); the gradient of the explained logit with respect to the target layer's
    activations is taken by one backward through the tail only.

    Args:
        network: the model and its target layer.
        images: (B, 3, H, W), normalised, on the model's device.
        choose: logits (B, n) to the explained classes (B,).
        draws: B random streams for methods that draw.
        graph: keep the way back to the images, which record a gradient, for a second derivative.

    Returns:
        The evidence, detached, where no graph is asked for: it then holds none.

    Raises:
        UserError: the target layer did not run exactly once, or its output has no positions.
    """
    with arithmetic("fp32", images.device):  # of the way back; the layers' own precision is set within
        outputs, gradients, logits, targets = record(network, images, choose, graph=graph)
    return Evidence(
        activations=network.layout.fold(outputs).float(),
        gradients=network.layout.fold(gradients),
        logits=logits,
        targets=targets,
        network=network,
        images=images,
        outputs=outputs,
        head=network.head,
        draws=draws,
    )


def _must(layer: str) -> str:
    return f"target_layer: '{layer}' must put out a feature map (B, C, h, w) or a grid of tokens"


def explain(evidence: Evidence, cams: Sequence[Callable[[Evidence], Tensor]]) -> Tensor:
    """All maps of a batch, (B, K, h, w) float32, from evidence that was collected once."""
    with torch.no_grad(), arithmetic("fp32", evidence.images.device):
        return torch.stack([cam(evidence) for cam in cams], dim=1)
