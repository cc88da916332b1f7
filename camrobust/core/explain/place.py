"""Experiments that tell whether a layer is a place at which a model can be explained."""

import torch
from torch import Tensor, nn

from camrobust.core.explain.hooks import replaced_output
from camrobust.core.explain.layer_runs import LayerRun, gradients, layer_runs, scores
from camrobust.core.explain.layout import Layout, tensor_in, with_tensor
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.explain.tail import nearly_equal
from camrobust.core.precision import arithmetic

WHOLE = 1e-3
"""Largest difference between two gradients, relative to the largest entry, at which they count as the same."""


def carries_gradient(module: nn.Module, sample: Tensor, name: str, number: int, gradient: Tensor) -> bool:
    """Whether replacing a layer's output carries all of its gradient.

    It does not if the layer hands on something else beside the tensor that is replaced, such as its map and the mean of
    it: part of the gradient, or all of it, then passes the replaced tensor by.

    Args:
        module: the classifier.
        sample: (B, 3, H, W), normalised.
        name: of the layer.
        number: of the score in `layer_runs.scores`.
        gradient: of that score at the layer's output, by autograd in a pass without replacement.
    """
    try:
        runs, logits = layer_runs(module, sample, replaced=name)
    except TypeError:
        return False
    score = list(scores(runs, logits))[number]
    (carried,) = gradients(score, [run for run in runs if run.name == name])
    return carried is not None and nearly_equal(carried, gradient, WHOLE)


def changes_logits(module: nn.Module, sample: Tensor, layer: nn.Module, layout: Layout) -> bool:
    """Whether the logits depend on a layer's positions, tried without gradients.

    The positions are exchanged between two images. A layer that hands on more than one tensor must carry all: the
    logits are then exchanged, too.

    Args:
        module: a classifier through which no gradient passes.
        sample: (B, 3, H, W), normalised, two or more.
        layer: of the classifier.
        layout: of its output.
    """
    # Two images of noise give nearly the same logits, so the second one is made darker.
    images, whole = torch.cat([sample[:1], sample[1:2] / 4 - 0.5]), [True]

    def exchanged(output: object) -> object:
        tensor = tensor_in(output)
        if tensor is None:
            return output
        whole[0] = isinstance(output, Tensor)
        return with_tensor(output, layout.from_map(layout.to_map(tensor).flip(0), tensor))

    with torch.no_grad(), frozen(module), arithmetic("fp32", sample.device):
        plain = logits_of(module(images.clone()))
        with replaced_output(layer, exchanged):
            other = logits_of(module(images.clone()))
    if nearly_equal(other, plain, WHOLE):
        return False
    return whole[0] or nearly_equal(other, plain.flip(0), WHOLE)


def is_projection(run: LayerRun, layout: Layout) -> bool:
    """Whether a layer maps every token by the same affine function, as a linear layer does, alone or with additions.

    The query, key and value of an attention are such layers: they lie aside from the row of tokens that the model hands
    from block to block. The layer is run on two tokens, and on sums of them.
    """
    if layout.order == "map":
        return False
    if isinstance(run.module, nn.Linear):
        return True
    source = run.source
    if source is None or source.shape[:-1] != run.output.shape[:-1] or not _holds_linear(run.module):
        return False
    two = source.detach()[:1, :2] if source.ndim == 3 else source.detach()[:1, :1, :2]
    wanted = run.output.detach()[:1, :2] if source.ndim == 3 else run.output.detach()[:1, :1, :2]
    other = torch.randn(two.shape, generator=torch.Generator().manual_seed(0)).to(two)
    with torch.no_grad():
        try:
            alone, second, both, none = (
                tensor_in(run.module(tokens)) for tokens in (two.clone(), other, two + other, torch.zeros_like(two))
            )
        except Exception:  # noqa: BLE001 - a layer may refuse two tokens with any error
            return False
    if alone is None or second is None or both is None or none is None:
        return False
    return nearly_equal(alone, wanted, WHOLE) and nearly_equal(both + none, alone + second, WHOLE)


def _holds_linear(module: nn.Module) -> bool:
    """Whether all layers with parameters inside a module are linear ones, or batch norms behind them as in LeViT."""
    with_parameters = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    return any(isinstance(part, nn.Linear) for part in with_parameters) and all(
        isinstance(part, (nn.Linear, nn.BatchNorm1d)) for part in with_parameters
    )
