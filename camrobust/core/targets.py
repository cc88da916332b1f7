"""The target layer: found or checked, and the model cut behind it.

The discovered layer is the last one whose output is still a feature map of more than one position, leaving out layers
that only pool or pass on and, where the model ends in a convolution with one channel per class instead of a linear
layer (SqueezeNet), the layers from that convolution on.
"""

from collections import Counter
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from camrobust.core.evidence import Linear, Network, Tail, collect, frozen, logits_of, replaced
from camrobust.errors import UserError

PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
TOLERANCE = 1e-4
"""Largest difference, relative to the largest logit, at which a cut or a closed form counts as the model itself."""


class _Ran(NamedTuple):
    """A layer that finished: its name, the shape of its output, and whether it is a linear layer."""

    name: str
    shape: tuple[int, ...]
    linear: bool


def build_network(module: nn.Module, sample: Tensor, target_layer: str | None = None) -> Network:
    """The model with its target layer, its tail and, where it is one, its pooling-plus-linear head.

    Args:
        module: a frozen classifier in evaluation mode.
        sample: (B, 3, H, W) normalised images to try it with.
        target_layer: dotted name of a submodule, None to discover it.

    Raises:
        UserError: the layer does not exist, is not reached, puts out no feature map or one of a single position.
    """
    name = discover(module, sample) if target_layer is None else target_layer
    layers = dict(module.named_modules())
    if name not in layers or not name:
        near = get_close_matches(name, [key for key in layers if key], n=3, cutoff=0.3) or list(layers)[-3:]
        raise UserError(f"target_layer: the model has no layer '{name}'; near names: {', '.join(near)}")
    network = Network(module, layers[name], name)
    with frozen(module):
        evidence = collect(network, sample)
        if evidence.activations.shape[-1] * evidence.activations.shape[-2] < 2:
            raise UserError(f"target_layer: '{name}' puts out a single position, so it has no map; choose one before")
        tail = cut(network, evidence.activations, evidence.logits)
        network = Network(module, layers[name], name, tail)
        return Network(module, layers[name], name, tail, closed_form(network, evidence.activations, sample))


def discover(module: nn.Module, sample: Tensor) -> str:
    """Dotted name of the layer to explain; of several that hand on the same tensor, the outermost.

    Raises:
        UserError: no layer puts out a feature map.
    """
    ran: list[_Ran] = []
    handles = [part.register_forward_hook(partial(_note, ran, name)) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad(), frozen(module):
            classes = logits_of(module(sample)).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    found = _last_spatial(ran, classes)
    if not found:
        raise UserError(
            "target_layer: no layer with a spatial output was found in this model; name one with `target_layer:`"
        )
    return found


def _note(ran: list[_Ran], name: str, part: nn.Module, _inputs: object, output: object) -> None:
    """A hook: what finished, in order, with the shape of its output."""
    if isinstance(output, Tensor) and not isinstance(part, PASS_ON):
        ran.append(_Ran(name, tuple(output.shape), isinstance(part, nn.Linear)))


def _last_spatial(ran: list[_Ran], classes: int) -> str:
    """Name of the last feature map that is not yet a map of classes; a layer that ran twice is left out."""
    counts = Counter(one.name for one in ran)
    linear_head = any(one.linear and one.shape[-1] == classes for one in ran)
    maps = [one for one in ran if len(one.shape) == 4 and one.shape[2] * one.shape[3] > 1 and counts[one.name] == 1]
    while maps and not linear_head and maps[-1].shape[1] == classes:
        maps.pop()
    return maps[-1].name if maps else ""


class _OutsideOnly(fx.Tracer):
    """Traces only the modules that contain the target layer; every other module stays one opaque call."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._ancestors = {target.rsplit(".", depth)[0] for depth in range(1, target.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del m
        return module_qualified_name not in self._ancestors


def cut(network: Network, activations: Tensor, logits: Tensor) -> Tail | None:
    """The part behind the target layer as a function of its activations alone.

    Args:
        network: the model and its target layer.
        activations: (B, C, h, w) of that layer for some images.
        logits: (B, n) of the model for the same images.

    Returns:
        The tail, or None where the model cannot be traced, where the tail needs more than these activations (a target
        inside a residual block), or where the cut does not reproduce the logits.
    """
    try:
        graph = _OutsideOnly(network.layer_name).trace(network.module)
        module = fx.GraphModule(network.module, _behind(graph, network.layer_name))
        with torch.no_grad():
            again = logits_of(module(activations.clone()))
    except Exception:  # noqa: BLE001 - a tracer runs the user's code: whatever it raises means "cannot be cut"
        return None
    if not close(again, logits):
        return None

    def tail(replaced_activations: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(module(replaced_activations)).float()

    return tail


def _behind(graph: fx.Graph, layer_name: str) -> fx.Graph:
    """The nodes behind the call of a layer, with its output as the only input."""
    (node,) = [one for one in graph.nodes if one.op == "call_module" and one.target == layer_name]
    with graph.inserting_before(node):
        source = graph.placeholder("activations")
    node.replace_all_uses_with(source)
    for one in reversed(list(graph.nodes)):
        if not one.users and one.op != "output" and one is not source:
            graph.erase_node(one)
    graph.lint()
    return graph


def close(values: Tensor, wanted: Tensor) -> bool:
    """Equal up to `TOLERANCE` of the largest wanted magnitude."""
    if values.shape != wanted.shape:
        return False
    return bool((values - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1e-12))


def closed_form(network: Network, activations: Tensor, images: Tensor) -> Linear | None:
    """Weight and bias of the head, where the tail is exactly global average pooling and one linear layer.

    Found by trying: the last linear layer with one output per class must reproduce the tail's logits on random
    activations of either sign.
    """
    noise = torch.randn(activations.shape, generator=torch.Generator().manual_seed(0)).to(activations.device)
    if network.tail is not None:
        logits = network.tail(noise.clone())
    else:
        with torch.no_grad(), replaced(network.layer, lambda _: noise.clone()):
            logits = logits_of(network.module(images)).float()
    for head in [part for part in network.module.modules() if isinstance(part, nn.Linear)]:
        if head.weight.shape == (logits.shape[1], noise.shape[1]):
            bias = torch.zeros_like(logits[0]) if head.bias is None else head.bias
            if close(noise.mean(dim=(2, 3)) @ head.weight.T + bias, logits):
                return Linear(head.weight, bias)
    return None
