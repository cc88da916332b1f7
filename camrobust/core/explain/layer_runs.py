"""One forward pass in which every layer's output is noted, and the gradients of a score at these outputs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import Grid, Layout, layouts_of, tensor_in, with_halved_grids, with_tensor
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.precision import arithmetic

GRIDS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
"""Layers whose outputs define the grids of positions of a model."""


class LayerRun(NamedTuple):
    """A layer in a forward pass.

    Attributes:
        name: dotted name of the layer.
        module: the layer.
        source: its first input, None if that is no tensor.
        output: its output.
        edge: where autograd finds the gradient of that output, even if a later layer writes into it; None if autograd
            did not record it.
        passes_on: the output is the input itself or a reshaped view of it.
    """

    name: str
    module: nn.Module
    source: Tensor | None
    output: Tensor
    edge: GradientEdge | None
    passes_on: bool


def layer_runs(module: nn.Module, sample: Tensor, replaced: str | None = None) -> tuple[list[LayerRun], Tensor]:
    """All layers in the order in which they finished, and the logits (B, n), recorded by autograd.

    Args:
        module: a classifier.
        sample: (B, 3, H, W), normalised.
        replaced: name of a layer whose output is handed on as a copy of a new leaf, as in the shared pass; the run of
            that layer holds the leaf.

    Raises:
        TypeError: the output of the replaced layer is of a kind in which no tensor can be replaced.
    """
    names = {part: name for name, part in module.named_modules() if name}
    runs: list[LayerRun] = []
    states: dict[nn.Module, Tensor | int | None] = {}

    def enter(part: nn.Module, inputs: object) -> None:
        source = tensor_in(inputs)
        states[part] = None if source is None else _state(source)

    def note(part: nn.Module, inputs: object, output: object) -> object:
        tensor, source = tensor_in(output), tensor_in(inputs)
        if tensor is None:
            return None
        same = source is not None and source.data_ptr() == tensor.data_ptr()
        unwritten = source is not None and _is_in(source, states[part])
        passes_on = same and source is not None and (source.shape != tensor.shape or unwritten)
        if names[part] == replaced:
            tensor = tensor.detach().requires_grad_()
        edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        runs.append(LayerRun(names[part], part, source, tensor, edge, passes_on))
        return with_tensor(output, tensor.clone()) if names[part] == replaced else None

    with hooked(names, note, enter), torch.enable_grad(), frozen(module), arithmetic("fp32", sample.device):
        return runs, logits_of(module(sample.clone().requires_grad_()))


def _state(tensor: Tensor) -> Tensor | int:
    """How often a tensor was written into; of inference tensors, which do not count it, a copy."""
    return tensor.clone() if tensor.is_inference() else tensor._version  # noqa: SLF001 - the only sign of a write


def _is_in(tensor: Tensor, state: Tensor | int | None) -> bool:
    """Whether nothing was written into a tensor since it was in that state."""
    return torch.equal(tensor, state) if isinstance(state, Tensor) else _state(tensor) == state


def layouts_by_name(runs: Sequence[LayerRun], sample: Tensor) -> dict[str, list[Layout]]:
    """The layouts that fit the output of every layer with more than one position, likeliest first, by its name."""
    image: Grid = (sample.shape[2], sample.shape[3])
    per_image = [run for run in runs if len(run.output) == len(sample)]
    shapes = [run.output.shape[2:] for run in per_image if isinstance(run.module, GRIDS) and run.output.ndim == 4]
    grids = with_halved_grids((int(shape[0]), int(shape[1])) for shape in shapes)
    fitting = {run.name: layouts_of(tuple(run.output.shape), grids, image) for run in per_image}
    return {name: layouts for name, layouts in fitting.items() if layouts}


def class_heads(runs: Sequence[LayerRun], classes: int) -> list[LayerRun]:
    """The linear layers with one output per class."""
    return [run for run in runs if isinstance(run.module, nn.Linear) and run.output.shape[-1] == classes]


def scores(runs: Sequence[LayerRun], logits: Tensor) -> Iterator[Tensor]:
    """Scalars to take gradients of: the sum of the highest logits, then a random mix of the inputs of the heads.

    The second one is for a head of zeros, through which no gradient passes.
    """
    yield logits.amax(dim=1).sum()
    sources = [head.source for head in class_heads(runs, logits.shape[1]) if head.source is not None]
    if sources:
        random = torch.Generator().manual_seed(0)
        mixed = [(source * torch.randn(source.shape, generator=random).to(source)).sum() for source in sources]
        yield torch.stack(mixed).sum()


def gradients(score: Tensor, runs: Sequence[LayerRun]) -> list[Tensor | None]:
    """The gradient of a score with respect to the output of each run, None if it does not depend on it."""
    edges = [run.edge for run in runs if run.edge is not None and score.requires_grad]
    if not edges:
        return [None] * len(runs)
    with torch.enable_grad(), arithmetic("fp32", score.device):
        found = iter(torch.autograd.grad(score, edges, allow_unused=True, retain_graph=True))
    return [None if run.edge is None else next(found) for run in runs]
