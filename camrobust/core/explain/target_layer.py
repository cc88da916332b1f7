"""Choosing the target layer, or checking the one that the user named, and preparing the model behind it.

The chosen layer is the last one whose output has positions on which the logits depend. A transformer that is read at
its class token does not depend on the positions of its last block; the layer is then the normalisation before the last
attention.

Not considered are:

- layers that only pool or pass their input on;
- projections to another width inside a transformer's block;
- in a model that ends in a convolution with one channel per class (SqueezeNet), that convolution and all behind it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import Evidence, collect
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import Grid, Layout, layout_of, tensor_in, with_halved_grids
from camrobust.core.explain.network import Network, frozen, logits_of
from camrobust.core.explain.tail import PooledHead, Tail, cut_tail, nearly_equal, split_at_first_affine

PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
           nn.Softmax)  # fmt: skip
"""Layers that only pool or pass their input on."""
GRIDS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
"""Layers whose outputs define the grids of positions of a model."""


class _LayerRun(NamedTuple):
    """A layer in a forward pass.

    Attributes:
        name: dotted name of the layer.
        module: the layer.
        source: its first input, None if that is no tensor.
        output: its output.
        is_view: the output is a reshaped view of the input.
    """

    name: str
    module: nn.Module
    source: Tensor | None
    output: Tensor
    is_view: bool


def build_network(module: nn.Module, sample: Tensor, target_layer: str | None = None) -> Network:
    """The model with its target layer, and with the shortcuts that apply to the part behind that layer.

    Args:
        module: a frozen classifier in evaluation mode.
        sample: (B, 3, H, W), normalised images for trial passes.
        target_layer: dotted name of a submodule; None lets `discover` choose.

    Raises:
        UserError: the layer does not exist, does not run, or its output has no positions or only one.
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
        head = pooled_head(evidence)
        first_affine = None
        if tail is not None and head is None and layout.order == "map":
            first_affine = split_at_first_affine(tail, evidence.activations, logits_of)
        return replace(network, head=head, first_affine=first_affine)


def discover(module: nn.Module, sample: Tensor) -> tuple[str, Layout]:
    """The name of the layer to explain and its layout; of nested layers with the same output, the outermost.

    Raises:
        UserError: the model has no layer with positions on which the logits depend.
    """
    runs, logits = _layer_runs(module, sample)
    layouts = _layouts(runs, sample)
    candidates = _candidates(runs, layouts, logits.shape[1])[::-1]
    with torch.enable_grad():
        for score in _scores(runs, logits):
            for layer, gradient in zip(candidates, _gradients(score, candidates), strict=True):
                if gradient is not None and bool((layouts[layer.name].to_map(gradient) != 0).any()):
                    return layer.name, layouts[layer.name]
    raise UserError(
        "target_layer: no layer with a spatial output was found in this model; name one with `target_layer:`"
    )


def _candidates(runs: list[_LayerRun], layouts: dict[str, Layout], classes: int) -> list[_LayerRun]:
    """The layers that could be the target layer, in the order in which they finished."""
    counts = Counter(run.name for run in runs)
    layers = [
        run for run in runs
        if run.name in layouts and counts[run.name] == 1 and not run.is_view
        and not isinstance(run.module, PASS_THROUGH)
        and not (isinstance(run.module, nn.Linear) and layouts[run.name].order != "map")
    ]  # fmt: skip
    if not _heads(runs, classes):
        while layers and layouts[layers[-1].name].order == "map" and layers[-1].output.shape[1] == classes:
            layers.pop()
    widths = [run.output.shape[-1] for run in layers if layouts[run.name].order != "map"]
    return [run for run in layers if layouts[run.name].order == "map" or run.output.shape[-1] == widths[-1]]


def _heads(runs: list[_LayerRun], classes: int) -> list[_LayerRun]:
    """The linear layers with one output per class."""
    return [run for run in runs if isinstance(run.module, nn.Linear) and run.output.shape[-1] == classes]


def _scores(runs: list[_LayerRun], logits: Tensor) -> Iterator[Tensor]:
    """Scalars to take gradients of: the sum of the highest logits, then a random mix of the head's input.

    The second one is for a head of zeros, through which no gradient passes.
    """
    yield logits.amax(dim=1).sum()
    for head in _heads(runs, logits.shape[1])[-1:]:
        if head.source is not None:
            mixed = torch.randn(head.source.shape, generator=torch.Generator().manual_seed(0)).to(logits.device)
            yield (head.source * mixed).sum()


def _layer_runs(module: nn.Module, sample: Tensor) -> tuple[list[_LayerRun], Tensor]:
    """All layers in the order in which they finished, and the logits, recorded by autograd."""
    names = {part: name for name, part in module.named_modules() if name}
    runs: list[_LayerRun] = []

    def note(part: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensor = tensor_in(output)
        if tensor is not None:
            source = tensor_in(inputs)
            is_view = source is not None and source.shape != tensor.shape and source.data_ptr() == tensor.data_ptr()
            runs.append(_LayerRun(names[part], part, source, tensor, is_view))

    with hooked(names, note), torch.enable_grad(), frozen(module):
        return runs, logits_of(module(sample.clone().requires_grad_()))


def _layouts(runs: list[_LayerRun], sample: Tensor) -> dict[str, Layout]:
    """The layout of every layer whose output has more than one position, by its name."""
    image: Grid = (sample.shape[2], sample.shape[3])
    per_image = [run for run in runs if len(run.output) == len(sample)]
    shapes = [run.output.shape[2:] for run in per_image if isinstance(run.module, GRIDS) and run.output.ndim == 4]
    grids = with_halved_grids((int(shape[0]), int(shape[1])) for shape in shapes)
    layouts = {}
    for run in per_image:
        layout = layout_of(tuple(run.output.shape), grids, image)
        if layout is not None:
            layouts[run.name] = layout
    return layouts


def _gradients(score: Tensor, candidates: list[_LayerRun]) -> list[Tensor | None]:
    """The gradient of a score with respect to the output of each candidate, None if it does not depend on it."""
    recorded = [run.output for run in candidates if run.output.requires_grad and score.requires_grad]
    if not recorded:
        return [None] * len(candidates)
    gradients = iter(torch.autograd.grad(score, recorded, allow_unused=True, retain_graph=True))
    return [next(gradients) if run.output.requires_grad else None for run in candidates]


def _checked(module: nn.Module, sample: Tensor, name: str) -> Layout:
    """The layout of a layer that the user named; that of a layer that does not run is left to the shared pass.

    Raises:
        UserError: the output of the layer has no positions, or only one.
    """
    runs, _ = _layer_runs(module, sample)
    outputs = [run.output for run in runs if run.name == name]
    layout = _layouts(runs, sample).get(name)
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
    """The part behind the target layer, None if it cannot be cut out or does not reproduce the logits."""
    network, B = evidence.network, len(evidence.images)
    rows = torch.arange(B + 1, device=evidence.logits.device) % B
    try:
        tail = cut_tail(network.module, network.layer_name)
        with torch.no_grad():
            context = tail.context(evidence.images)
            again = logits_of(tail(evidence.outputs[rows], context, rows, B))
    except Exception:  # noqa: BLE001 - a tracer runs the user's code: whatever it raises means "cannot be cut"
        return None
    return tail if nearly_equal(again, evidence.logits[rows]) else None


def pooled_head(evidence: Evidence) -> PooledHead | None:
    """Weight and bias of the head if the tail is exactly global average pooling and one linear layer, else None.

    A linear layer with one output per class is the head if mean and layer reproduce the tail's logits on random
    activations of both signs.
    """
    shape, device = evidence.activations.shape, evidence.activations.device
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        logits = evidence.logits_of_activations(noise, torch.arange(len(noise), device=device))
    for head in [part for part in evidence.network.module.modules() if isinstance(part, nn.Linear)]:
        if head.weight.shape == (logits.shape[1], noise.shape[1]) and bool(head.weight.any()):
            bias = torch.zeros_like(logits[0]) if head.bias is None else head.bias
            if nearly_equal(noise.mean(dim=(2, 3)) @ head.weight.T + bias, logits):
                return PooledHead(head.weight, bias)
    return None
