"""The part of a model behind its target layer, cut out so that it can run alone, and split where that saves work.

Both are found by tracing the model and used only if they reproduce its logits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, fx, nn

TOLERANCE = 1e-4
"""Largest difference from the model, relative to its largest logit, at which a cut or a shortcut is accepted."""


@dataclass(frozen=True)
class PooledHead:
    """Weight (n, C) and bias (n,) of a head that is exactly global average pooling and one linear layer."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Tail:
    """The part of a model behind its target layer.

    Attributes:
        behind: maps the target layer's output and the context to the model's output.
        before: maps images to the context, a tuple of other values that the tail needs, such as the shortcut of a
            residual block; None if it needs none.
    """

    behind: nn.Module
    before: nn.Module | None

    def context(self, images: Tensor) -> tuple[object, ...]:
        """The values that the tail needs beside the target layer's output, for some images."""
        return () if self.before is None else tuple(self.before(images))

    def __call__(self, outputs: Tensor, context: Iterable[object], rows: Tensor, images: int) -> object:
        """The model's output for N outputs of the target layer.

        Args:
            outputs: (N, …).
            context: what `context` gave for B images.
            rows: (N,) int64, the image that each output belongs to.
            images: B.
        """
        return self.behind(outputs, *(_rows_of(value, rows, images) for value in context))


def _rows_of(value: object, rows: Tensor, images: int) -> object:
    """The entries of a value for some images; a value without an entry per image is returned as it is."""
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == images else value


@dataclass(frozen=True)
class FirstAffine:
    """A tail split at its first linear or convolutional layer, where the layers before it keep the channels apart.

    Setting a channel of A to 0 then subtracts one term from that layer's output. Only this term and the layers after
    it are computed again.

    Attributes:
        before: maps A to the input of `affine`, channel by channel.
        affine: the first linear or convolutional layer.
        after: maps the output of `affine` to the model's output.
        per_class: `affine` is a convolution with one channel per class, and `after` keeps these channels apart.
    """

    before: nn.Module
    affine: nn.Linear | nn.Conv2d
    after: nn.Module
    per_class: bool


class _OutsideOnly(fx.Tracer):
    """Traces the modules that contain the target layer; every other module is one call in the graph."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._ancestors = {target.rsplit(".", depth)[0] for depth in range(1, target.count(".") + 1)}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del m
        return module_qualified_name not in self._ancestors


def cut_tail(module: nn.Module, layer_name: str) -> Tail:
    """The part of a model behind a layer, as a module of its own.

    Raises:
        Exception: of any type, if the model cannot be traced.
    """
    before, behind, context = _split_behind(*_traced(module, layer_name), first_gives=FirstGives.CONTEXT)
    return Tail(_module(module, behind), _module(module, before) if context else None)


def cut_prefix(module: nn.Module, layer_name: str) -> nn.Module:
    """The complement of `cut_tail`: maps images to the layer's output and the values of the tail's context, a tuple.

    Raises:
        Exception: of any type, if the model cannot be traced.
    """
    prefix, _, _ = _split_behind(*_traced(module, layer_name), first_gives=FirstGives.NODE_AND_CONTEXT)
    return _module(module, prefix)


def _traced(module: nn.Module, layer_name: str) -> tuple[fx.Graph, fx.Node]:
    """The graph of a model in which the layer is one node, and that node."""
    optional = {
        name: parameter.default
        for name, parameter in list(signature(module.forward).parameters.items())[1:]
        if parameter.default is not Parameter.empty
    }
    graph = _OutsideOnly(layer_name).trace(module, concrete_args=optional)
    (layer,) = [node for node in graph.nodes if node.op == "call_module" and node.target == layer_name]
    return graph, layer


def _module(owner: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph as a module, without unused nodes; it shares the parameters of its owner."""
    module = fx.GraphModule(owner, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    # fx's own call prints the traceback of whatever is raised inside.
    type(module).__call__ = nn.Module.__call__  # type: ignore[method-assign]
    return module


class FirstGives(Enum):
    """What the first half of a split graph returns; the context is the tuple of other values that the second needs."""

    CONTEXT = "the context"
    SOURCE = "the first argument of the node at which the graph is split"
    NODE_AND_CONTEXT = "a tuple of that node's value and the context"


def _split_behind(
    graph: fx.Graph, node: fx.Node, *, first_gives: FirstGives
) -> tuple[fx.Graph, fx.Graph, list[fx.Node]]:
    """Split a graph behind a node.

    Args:
        graph: from inputs to an output.
        node: one of its nodes.
        first_gives: what the first half returns.

    Returns:
        The first half, from the inputs; the second half, from the node's value and the context to the output; the
        nodes of the context.
    """
    behind: set[fx.Node] = set()
    for other in graph.nodes:
        if other is not node and any(source is node or source in behind for source in other.all_input_nodes):
            behind.add(other)
    context = dict.fromkeys(
        source for other in graph.nodes if other in behind for source in other.all_input_nodes
        if source is not node and source not in behind and source.op != "get_attr"
    )  # fmt: skip
    first, second = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for other in graph.nodes:
        if other not in behind and other.op != "output":
            copies[other] = first.node_copy(other, copies.__getitem__)
    given = {
        FirstGives.CONTEXT: tuple(context),
        FirstGives.SOURCE: node.args[0],
        FirstGives.NODE_AND_CONTEXT: (node, *context),
    }
    first.output(fx.node.map_arg(given[first_gives], copies.__getitem__))
    copies = {node: second.placeholder("activations")}
    copies |= {source: second.placeholder(f"context_{number}") for number, source in enumerate(context)}
    for other in graph.nodes:
        if other.op == "output":
            second.output(fx.node.map_arg(other.args[0], copies.__getitem__))
        elif other in behind or other.op == "get_attr":
            copies[other] = second.node_copy(other, copies.__getitem__)
    return first, second, list(context)


def split_at_first_affine(tail: Tail, activations: Tensor, logits_of: Callable[[object], Tensor]) -> FirstAffine | None:
    """The tail split at its first linear or convolutional layer, None if the split saves no work or does not apply.

    Args:
        tail: the tail of a model whose target layer puts out feature maps.
        activations: (B, C, h, w) with which the split is checked.
        logits_of: gets the logits from the model's output.
    """
    if tail.before is not None:
        return None
    try:
        graph = fx.Tracer().trace(tail.behind)
        modules = dict(tail.behind.named_modules())
        node = next(
            node for node in graph.nodes
            if node.op == "call_module" and isinstance(modules[str(node.target)], (nn.Linear, nn.Conv2d))
        )  # fmt: skip
        before, behind, context = _split_behind(graph, node, first_gives=FirstGives.SOURCE)
        affine: Any = modules[str(node.target)]
        if context or (isinstance(affine, nn.Conv2d) and affine.groups != 1):
            return None
        parts = FirstAffine(_module(tail.behind, before), affine, _module(tail.behind, behind), per_class=False)
        with torch.no_grad():
            return _checked(parts, activations, logits_of)
    except Exception:  # noqa: BLE001 - a tracer runs the user's code: whatever it raises means "no shortcut"
        return None


def _checked(parts: FirstAffine, activations: Tensor, logits_of: Callable[[object], Tensor]) -> FirstAffine | None:
    """The split if channels stay apart before the affine layer, else None; sets `per_class` if classes do after it."""
    B, C = activations.shape[:2]
    even = torch.arange(C, device=activations.device) % 2 == 0
    kept, none = parts.before(activations.clone()), parts.before(torch.zeros_like(activations))
    half = parts.before(activations * ~even[:, None, None])
    if isinstance(parts.affine, nn.Linear):
        if kept.ndim != 2 or kept.shape[1] % C:
            return None
        kept, none, half = (value.reshape(B, C, -1) for value in (kept, none, half))
    wanted = torch.where(even.reshape(1, C, *[1] * (kept.ndim - 2)), none, kept)
    if not nearly_equal(half, wanted):
        return None
    if isinstance(parts.affine, nn.Linear):
        return parts
    scores = parts.affine(kept)
    middle = scores.shape[1] // 2
    alone = logits_of(parts.after(scores[:, middle : middle + 1].clone()))
    if alone.shape != (B, 1) or not nearly_equal(alone, logits_of(parts.after(scores.clone()))[:, middle : middle + 1]):
        return None
    return FirstAffine(parts.before, parts.affine, parts.after, per_class=True)


def nearly_equal(values: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether values are equal up to a tolerance times the largest wanted magnitude."""
    if values.shape != wanted.shape:
        return False
    return bool((values - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1e-12))
