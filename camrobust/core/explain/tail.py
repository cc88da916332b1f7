"""The part of a model behind its target layer, cut out to be re-run, and split where a shortcut exists.

Everything here is found by tracing and believed only after trying it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, fx, nn

TOLERANCE = 1e-4
"""Largest difference, relative to the largest logit, at which a cut or a closed form counts as the model itself."""


@dataclass(frozen=True)
class PooledHead:
    """Weight (n, C) and bias (n,) of a head that is exactly global average pooling and one linear layer."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Tail:
    """What lies behind the target layer.

    Attributes:
        behind: the target layer's output and the context to the model's output.
        before: images to the context, a tuple: what else the tail needs, such as the shortcut of a residual block;
            None where it needs nothing else.
    """

    behind: nn.Module
    before: nn.Module | None

    def context(self, images: Tensor) -> tuple[object, ...]:
        """What the tail needs of these images beside the target layer's output."""
        return () if self.before is None else tuple(self.before(images))

    def __call__(self, outputs: Tensor, context: Iterable[object], rows: Tensor, images: int) -> object:
        """The model's output for N outputs of the target layer; `rows` (N,) says which of the images each is of."""
        return self.behind(outputs, *(_rows_of(one, rows, images) for one in context))


def _rows_of(value: object, rows: Tensor, images: int) -> object:
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == images else value


@dataclass(frozen=True)
class FirstAffine:
    """A tail whose first linear or convolutional layer comes after work that keeps channels apart.

    Setting a channel of A to zero then changes that layer's output by one known term, so that nothing before it, and
    of itself only that term, is computed again.

    Attributes:
        before: A to the input of `affine`, channel by channel.
        affine: a linear or convolutional layer.
        after: output of `affine` to logits.
        one_class: `affine` is a convolution with one channel per class and `after` treats channels one by one.
    """

    before: nn.Module
    affine: nn.Linear | nn.Conv2d
    after: nn.Module
    one_class: bool


class _OutsideOnly(fx.Tracer):
    """Traces only the modules that contain the target layer; every other module stays one opaque call."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._ancestors = {target.rsplit(".", depth)[0] for depth in range(1, target.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del m
        return module_qualified_name not in self._ancestors


def cut(module: nn.Module, layer_name: str) -> Tail:
    """The part behind a layer as a module of its own.

    Raises:
        Exception: of any kind, where the model cannot be traced.
    """
    tracer = _OutsideOnly(layer_name)
    optional = {
        name: one.default
        for name, one in list(signature(module.forward).parameters.items())[1:]
        if one.default is not Parameter.empty
    }
    graph = tracer.trace(module, concrete_args=optional)
    (node,) = [one for one in graph.nodes if one.op == "call_module" and one.target == layer_name]
    before, behind, context = _halves(graph, node, keep_source=False)
    return Tail(_module(module, behind), _module(module, before) if context else None)


def _module(owner: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph as a module without what nothing needs, sharing the parameters of its owner."""
    module = fx.GraphModule(owner, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _halves(graph: fx.Graph, node: fx.Node, *, keep_source: bool) -> tuple[fx.Graph, fx.Graph, list[fx.Node]]:
    """A graph split behind a node: (inputs to what the second half needs, that and the node's value to the output).

    With `keep_source` the first half puts out the node's first argument instead.
    """
    behind: set[fx.Node] = set()
    for one in graph.nodes:
        if one is not node and any(source is node or source in behind for source in one.all_input_nodes):
            behind.add(one)
    needed = dict.fromkeys(
        source for one in graph.nodes if one in behind for source in one.all_input_nodes
        if source is not node and source not in behind and source.op != "get_attr"
    )  # fmt: skip
    first, second = fx.Graph(), fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    for one in graph.nodes:
        if one not in behind and one is not node and one.op != "output":
            moved[one] = first.node_copy(one, moved.__getitem__)
    first.output(moved[node.args[0]] if keep_source else tuple(moved[one] for one in needed))  # type: ignore[index]
    moved = {node: second.placeholder("activations")}
    moved |= {one: second.placeholder(f"context_{number}") for number, one in enumerate(needed)}
    for one in graph.nodes:
        if one.op == "output":
            second.output(fx.node.map_arg(one.args[0], moved.__getitem__))
        elif one in behind or one.op == "get_attr":
            moved[one] = second.node_copy(one, moved.__getitem__)
    return first, second, list(needed)


def first_affine(tail: Tail, activations: Tensor, logits_of: Callable[[object], Tensor]) -> FirstAffine | None:
    """The tail split at its first linear or convolutional layer, None where that is no shortcut.

    Args:
        tail: of a model whose target layer puts out feature maps.
        activations: (B, C, h, w) to try it with.
        logits_of: opens the model's output.
    """
    if tail.before is not None:
        return None
    try:
        graph = fx.Tracer().trace(tail.behind)
        modules = dict(tail.behind.named_modules())
        node = next(
            one for one in graph.nodes
            if one.op == "call_module" and isinstance(modules[str(one.target)], (nn.Linear, nn.Conv2d))
        )  # fmt: skip
        before, behind, context = _halves(graph, node, keep_source=True)
        affine: Any = modules[str(node.target)]
        if context or (isinstance(affine, nn.Conv2d) and affine.groups != 1):
            return None
        parts = FirstAffine(_module(tail.behind, before), affine, _module(tail.behind, behind), one_class=False)
        with torch.no_grad():
            return _tried(parts, activations, logits_of)
    except Exception:  # noqa: BLE001 - a tracer runs the user's code: whatever it raises means "no shortcut"
        return None


def _tried(parts: FirstAffine, activations: Tensor, logits_of: Callable[[object], Tensor]) -> FirstAffine | None:
    """Whether channels stay apart before the affine layer, and classes behind it."""
    B, C = activations.shape[:2]
    some = torch.arange(C, device=activations.device) % 2 == 0
    kept, none = parts.before(activations.clone()), parts.before(torch.zeros_like(activations))
    half = parts.before(activations * ~some[:, None, None])
    if isinstance(parts.affine, nn.Linear):
        if kept.ndim != 2 or kept.shape[1] % C:
            return None
        kept, none, half = (value.reshape(B, C, -1) for value in (kept, none, half))
    wanted = torch.where(some.reshape(1, C, *[1] * (kept.ndim - 2)), none, kept)
    if not close(half, wanted):
        return None
    if isinstance(parts.affine, nn.Linear):
        return parts
    scores = parts.affine(kept)
    one = scores.shape[1] // 2
    alone = logits_of(parts.after(scores[:, one : one + 1].clone()))
    if alone.shape != (B, 1) or not close(alone, logits_of(parts.after(scores.clone()))[:, one : one + 1]):
        return None
    return FirstAffine(parts.before, parts.affine, parts.after, one_class=True)


def close(values: Tensor, wanted: Tensor) -> bool:
    """Equal up to `TOLERANCE` of the largest wanted magnitude."""
    if values.shape != wanted.shape:
        return False
    return bool((values - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1e-12))
