"""Reading a network as a chain of layers whose bounds are known, up to its global average pooling and linear layer."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line
from camrobust.core.certify.propagation.steps import Affine, Map, MaxPool, Relu, Step

KNOWN = "convolutions, linear layers, batch norm, ReLU and pooling, one after the other"
SAME = 1e-4
"""Largest difference of the logits of chain and network, as a share of the largest logit: the network is float32."""


@dataclass(frozen=True)
class Chain:
    """A network with plain CAM's maps: features, global average pooling, one linear layer.

    Attributes:
        features: the steps from an image in [0, 1] to the activations (C, h, w).
        weight: (n, C) float64, of the linear layer.
        bias: (n,) float64.
    """

    features: tuple[Step, ...]
    weight: Tensor
    bias: Tensor

    def activations(self, images: Tensor) -> Tensor:
        """(B, C, h, w) float64 of images (B, C, H, W) in [0, 1]."""
        values = images.double()
        for step in self.features:
            values = step(values)
        return values

    def logits(self, images: Tensor) -> Tensor:
        """(B, n) float64."""
        return self.activations(images).mean(dim=(2, 3)) @ self.weight.T + self.bias


def _refuse(what: str) -> UserError:
    return UserError(
        f"certified_top: {what}, and bounds are known only for {KNOWN}, and at the end global average pooling and one "
        "linear layer; certify other networks by samples"
    )


def read_chain(module: nn.Module, image: Tensor, mean: Tensor, std: Tensor) -> Chain:
    """A network as a chain; the network itself is not changed.

    Args:
        module: takes normalised images, in evaluation mode.
        image: (C, H, W) in [0, 1]; its size is that of all images.
        mean: (C, 1, 1) of the normalisation.
        std: (C, 1, 1).

    Raises:
        UserError: the network has other layers, branches, or another head, or does not behave like its layers.
    """
    mean, std = mean.detach().cpu().double(), std.detach().cpu().double()
    shape = tuple(image.shape)
    steps: list[Step] = [Affine(lambda images: (images - mean) / std, lambda images: images / std.abs(), shape)]
    values = steps[0](torch.zeros(1, *shape, dtype=torch.float64))
    parts = _parts(module)
    pooled = _place_of_head(parts)
    for name, part in parts[:pooled]:
        step = _step(name, part, tuple(values.shape[1:]))
        if step is not None:
            steps.append(step)
            values = step(values)
    last: Any = parts[-1][1]
    if last.out_features == 1:
        raise _refuse("the network has a single output")
    if values.ndim != 4:
        raise _refuse("the network has no positions before its global average pooling")
    bias = last.bias if last.bias is not None else torch.zeros(last.out_features)
    chain = Chain(tuple(steps), last.weight.detach().cpu().double(), bias.detach().cpu().double())
    _check_same(chain, module, image, mean, std)
    return chain


def _check_same(chain: Chain, module: nn.Module, image: Tensor, mean: Tensor, std: Tensor) -> None:
    """Refuse a network that does not behave like its layers, because of a hook or a forward of its own."""
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.stack([image.double(), noise])
    parameter = next(module.parameters())
    with torch.no_grad():
        found = module(((images - mean) / std).to(parameter)).double().cpu()
        wanted = chain.logits(images)
    if not bool(wanted.isfinite().all()):
        raise _refuse("the network's outputs are not finite")
    if found.shape != wanted.shape or not bool(((found - wanted).abs() <= SAME * wanted.abs().amax()).all()):
        raise _refuse("the network puts out something else than its layers")


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers in the order in which they are called, by name."""
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception as error:  # noqa: BLE001 - whatever the user's forward raises under tracing
        raise _refuse(f"the network cannot be traced ({first_line(error)})") from None
    parts, before = [], None
    for node in graph.nodes:
        if node.op == "output":
            if node.args[0] is not before:
                raise _refuse("the network puts out something else than its last layer's output")
            continue
        if node.op == "placeholder" and before is None:
            before = node
            continue
        if node.op in ("placeholder", "get_attr") or [*node.all_input_nodes] != [before]:
            raise _refuse(f"the network has branches ({node.name})")
        if node.op == "call_module":
            parts.append((str(node.target), module.get_submodule(node.target)))
        else:
            parts.append((node.name, _as_layer(node)))
        before = node
    return parts


def _as_layer(node: fx.Node) -> nn.Module:
    """The layer that does the same as a called function or method."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    rest, options = node.args[1:], node.kwargs
    if name in ("relu", "relu_"):
        return nn.ReLU().eval()
    if name == "flatten" and (rest, options) in (((1,), {}), ((), {"start_dim": 1})):
        return nn.Flatten().eval()
    if name == "adaptive_avg_pool2d" and (rest, options) in (((1,), {}), (((1, 1),), {})):
        return nn.AdaptiveAvgPool2d(1).eval()
    if name == "mean" and tuple(rest[:1]) in (((2, 3),), ((-2, -1),), ([2, 3],), ([-2, -1],)) and not options:
        return nn.AdaptiveAvgPool2d(1).eval()
    raise _refuse(f"the network calls {name or node.name}{tuple(rest)}")


def _place_of_head(parts: list[tuple[str, nn.Module]]) -> int:
    """Where global average pooling stands, behind which only flattening, dropout and one linear layer come."""
    places = [
        place for place, (_, part) in enumerate(parts)
        if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1))
    ]  # fmt: skip
    if not places or type(parts[-1][1]) is not nn.Linear:
        raise _refuse("the network does not end so")
    between = parts[places[-1] + 1 : -1]
    if any(type(part) not in (*NOTHING, nn.Flatten) for _, part in between):
        raise _refuse("the network has more layers between its pooling and its linear layer")
    return places[-1]


NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)


def _step(name: str, part: nn.Module, shape: tuple[int, ...]) -> Step | None:
    """A layer as a step for inputs of this shape; None for one that does nothing in evaluation mode."""
    if part.training:
        raise _refuse(f"layer '{name}' is in training mode")
    if type(part) in NOTHING:
        return None
    if type(part) is nn.ReLU:
        return Relu()
    if type(part) is nn.MaxPool2d:
        return _max_pool(name, part)
    make = AFFINE.get(type(part))
    if make is None:
        raise _refuse(f"layer '{name}' is {type(part).__name__}")
    layer = copy.deepcopy(part).cpu().double().requires_grad_(False)
    magnitude = make(layer)
    if magnitude is None:
        raise _refuse(f"layer '{name}' ({type(part).__name__}) takes its mean from the batch")
    return Affine(_forward(layer), magnitude, shape)


def _forward(layer: nn.Module) -> Map:
    """What the layer's class computes, without hooks; a network whose hooks matter is found by `_check_same`."""
    return partial(type(layer).forward, layer)


def _weighted(layer: Any) -> Map:
    twin = copy.deepcopy(layer)
    twin.weight.abs_()
    twin.bias = None
    return _forward(twin)


def _normalised(layer: Any) -> Map | None:
    if layer.running_mean is None:
        return None
    factor = (layer.running_var + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.abs())
    return lambda values: values * factor.reshape(-1, *[1] * (values.ndim - 2))


AFFINE: dict[type, Callable[[Any], Map | None]] = {
    nn.Conv2d: _weighted, nn.Linear: _weighted, nn.BatchNorm2d: _normalised, nn.AvgPool2d: _forward,
    nn.AdaptiveAvgPool2d: _forward, nn.Flatten: _forward, nn.ZeroPad2d: _forward,
}  # fmt: skip
"""Affine layers, and what makes the layer of their weights' magnitudes."""


def _max_pool(name: str, part: nn.MaxPool2d) -> MaxPool:
    if part.dilation not in (1, (1, 1)) or part.ceil_mode or part.return_indices:
        raise _refuse(f"layer '{name}' is a MaxPool2d with dilation, ceil_mode or indices")
    size, stride, padding = (
        (value, value) if isinstance(value, int) else (value[0], value[1])
        for value in (part.kernel_size, part.stride, part.padding)
    )
    return MaxPool(size, stride, padding)
