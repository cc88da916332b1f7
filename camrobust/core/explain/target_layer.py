"""The target layer: found or checked, and what is known of the model behind it.

The discovered layer is the last one whose output still has positions and whose positions the logits depend on. That
leaves out the last block of a transformer that is read at its class token (the layer is then the normalisation before
the last attention); and layers that only pool or pass on, projections to another width inside a transformer's block,
and, where the model ends in a convolution with one channel per class instead of a linear layer (SqueezeNet), the layers
from that convolution on are no candidates.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import Evidence, Network, collect, frozen, logits_of
from camrobust.core.explain.layout import Grid, Layout, grids_below, recognise, tensor_in
from camrobust.core.explain.tail import PooledHead, Tail, close, cut, first_affine

PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
           nn.Softmax)  # fmt: skip
GRIDS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
"""Layers whose outputs say which grids of positions a model knows."""


class _Ran(NamedTuple):
    """A layer that finished: its name, its kind, its input, its output and whether that is a view of its input."""

    name: str
    part: nn.Module
    source: Tensor | None
    output: Tensor
    view: bool


def build_network(module: nn.Module, sample: Tensor, target_layer: str | None = None) -> Network:
    """The model with its target layer, its tail and, where it is one, its pooling-plus-linear head.

    Args:
        module: a frozen classifier in evaluation mode.
        sample: (B, 3, H, W) normalised images to try it with.
        target_layer: dotted name of a submodule, None to discover it.

    Raises:
        UserError: the layer does not exist, is not reached, puts out nothing with positions, or a single one.
    """
    layers = dict(module.named_modules())
    if target_layer is not None and (target_layer not in layers or not target_layer):
        near = get_close_matches(target_layer, [key for key in layers if key], n=3, cutoff=0.3) or list(layers)[-3:]
        raise UserError(f"target_layer: the model has no layer '{target_layer}'; near names: {', '.join(near)}")
    name, layout = (
        discover(module, sample) if target_layer is None else (target_layer, _checked(module, sample, target_layer))
    )
    network = Network(module, layers[name], name, layout)
    with frozen(module):
        evidence = collect(network, sample)
        tail = _tail(evidence)
        network = evidence.network = replace(network, tail=tail)
        head = closed_form(evidence)
        first = None
        if tail is not None and head is None and layout.order == "map":
            first = first_affine(tail, evidence.activations, logits_of)
        return replace(network, head=head, first=first)


def discover(module: nn.Module, sample: Tensor) -> tuple[str, Layout]:
    """The layer to explain and its layout; of several that hand on the same tensor, the outermost.

    Raises:
        UserError: no layer has positions that the logits depend on.
    """
    ran, logits = _watched(module, sample)
    layouts = _layouts(ran, sample)
    candidates = _candidates(ran, layouts, logits.shape[1])[::-1]
    with torch.enable_grad():
        for score in _scores(ran, logits):
            for one, gradient in zip(candidates, _gradients(score, candidates), strict=True):
                if gradient is not None and bool((layouts[one.name].fold(gradient) != 0).any()):
                    return one.name, layouts[one.name]
    raise UserError(
        "target_layer: no layer with a spatial output was found in this model; name one with `target_layer:`"
    )


def _candidates(ran: list[_Ran], layouts: dict[str, Layout], classes: int) -> list[_Ran]:
    """Layers that could be explained, in the order in which they finished."""
    counts = Counter(one.name for one in ran)
    maps = [
        one for one in ran
        if one.name in layouts and counts[one.name] == 1 and not one.view and not isinstance(one.part, PASS_ON)
        and not (isinstance(one.part, nn.Linear) and layouts[one.name].order != "map")
    ]  # fmt: skip
    if not _heads(ran, classes):
        while maps and layouts[maps[-1].name].order == "map" and maps[-1].output.shape[1] == classes:
            maps.pop()
    widths = [one.output.shape[-1] for one in maps if layouts[one.name].order != "map"]
    return [one for one in maps if layouts[one.name].order == "map" or one.output.shape[-1] == widths[-1]]


def _heads(ran: list[_Ran], classes: int) -> list[_Ran]:
    return [one for one in ran if isinstance(one.part, nn.Linear) and one.output.shape[-1] == classes]


def _scores(ran: list[_Ran], logits: Tensor) -> Iterator[Tensor]:
    """What to take gradients of: the highest logits; if they have none (a head of zeros), what enters the head."""
    yield logits.amax(dim=1).sum()
    for head in _heads(ran, logits.shape[1])[-1:]:
        if head.source is not None:
            mixed = torch.randn(head.source.shape, generator=torch.Generator().manual_seed(0)).to(logits.device)
            yield (head.source * mixed).sum()


def _watched(module: nn.Module, sample: Tensor) -> tuple[list[_Ran], Tensor]:
    """All layers in the order in which they finished, with their outputs, recorded by autograd; and the logits."""
    ran: list[_Ran] = []

    def note(name: str, part: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensor = tensor_in(output)
        if tensor is not None:
            source = tensor_in(inputs)
            view = source is not None and source.shape != tensor.shape and source.data_ptr() == tensor.data_ptr()
            ran.append(_Ran(name, part, source, tensor, view))

    handles = [part.register_forward_hook(partial(note, name)) for name, part in module.named_modules() if name]
    try:
        with torch.enable_grad(), frozen(module):
            return ran, logits_of(module(sample.clone().requires_grad_()))
    finally:
        for handle in handles:
            handle.remove()


def _layouts(ran: list[_Ran], sample: Tensor) -> dict[str, Layout]:
    """The layout of every output that has more than one position."""
    image: Grid = (sample.shape[2], sample.shape[3])
    whole = [one for one in ran if len(one.output) == len(sample)]
    shapes = [one.output.shape[2:] for one in whole if isinstance(one.part, GRIDS) and one.output.ndim == 4]
    grids = grids_below((int(shape[0]), int(shape[1])) for shape in shapes)
    found = {}
    for one in whole:
        layout = recognise(tuple(one.output.shape), grids, image)
        if layout is not None:
            found[one.name] = layout
    return found


def _gradients(score: Tensor, candidates: list[_Ran]) -> list[Tensor | None]:
    """The gradient of a score at each candidate, None where it does not depend on it."""
    recorded = [one.output for one in candidates if one.output.requires_grad and score.requires_grad]
    if not recorded:
        return [None] * len(candidates)
    found = iter(torch.autograd.grad(score, recorded, allow_unused=True, retain_graph=True))
    return [next(found) if one.output.requires_grad else None for one in candidates]


def _checked(module: nn.Module, sample: Tensor, name: str) -> Layout:
    """The layout of a layer that the user named.

    Raises:
        UserError: it is not reached, or puts out nothing with positions, or a single one.
    """
    ran, _ = _watched(module, sample)
    outputs = [one.output for one in ran if one.name == name]
    layout = _layouts(ran, sample).get(name)
    if layout is None and outputs:
        shape = tuple(outputs[-1].shape)
        if len(shape) == 4 and shape[2] * shape[3] == 1:
            raise UserError(f"target_layer: '{name}' puts out a single position, so it has no map; choose one before")
        raise UserError(
            f"target_layer: '{name}' must put out a feature map (B, C, h, w) or a grid of tokens (B, N, C), "
            f"got {shape}; choose another layer"
        )
    return layout or Layout()


def _tail(evidence: Evidence) -> Tail | None:
    """The part behind the target layer, None where it cannot be cut out or does not reproduce the logits."""
    network, B = evidence.network, len(evidence.images)
    rows = torch.arange(B + 1, device=evidence.logits.device) % B
    try:
        tail = cut(network.module, network.layer_name)
        with torch.no_grad():
            context = tail.context(evidence.images)
            again = logits_of(tail(evidence.outputs[rows], context, rows, B))
    except Exception:  # noqa: BLE001 - a tracer runs the user's code: whatever it raises means "cannot be cut"
        return None
    return tail if close(again, evidence.logits[rows]) else None


def closed_form(evidence: Evidence) -> PooledHead | None:
    """Weight and bias of the head, where the tail is exactly global average pooling and one linear layer.

    Found by trying: the last linear layer with one output per class must reproduce the tail's logits on random
    activations of either sign.
    """
    shape, device = evidence.activations.shape, evidence.activations.device
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        logits = evidence.rerun(noise, torch.arange(len(noise), device=device))
    for head in [part for part in evidence.network.module.modules() if isinstance(part, nn.Linear)]:
        if head.weight.shape == (logits.shape[1], noise.shape[1]) and bool(head.weight.any()):
            bias = torch.zeros_like(logits[0]) if head.bias is None else head.bias
            if close(noise.mean(dim=(2, 3)) @ head.weight.T + bias, logits):
                return PooledHead(head.weight, bias)
    return None
