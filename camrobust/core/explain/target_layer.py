"""Choosing the target layer, or checking the one that the user named, and preparing the model behind it.

The chosen layer is the last one whose output has positions on which the logits depend. A transformer that is read at
its class token does not depend on the positions of its last block; the layer is then the normalisation before the last
attention. Where no gradient passes at all (inference only, quantised layers), it is the last one whose positions change
the logits when they are exchanged between images.

Not considered are:

- layers that only pool or pass their input on;
- layers whose positions are not in the order of the picture's;
- layers that hand on more than one tensor, if only a part of the gradient passes the first (a map beside its mean);
- projections inside a transformer's block: to another width, or affine in each token (query, key, value);
- in a model that ends in a convolution with one channel per class (SqueezeNet), that convolution and all behind it.
"""

from collections import Counter
from dataclasses import replace
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import Evidence, collect
from camrobust.core.explain.layer_runs import LayerRun, class_heads, gradients, layer_runs, layouts_by_name, scores
from camrobust.core.explain.layout import Layout
from camrobust.core.explain.network import Network, frozen
from camrobust.core.explain.place import carries_gradient, changes_logits, is_projection
from camrobust.core.explain.positions import layout_by_patches
from camrobust.core.explain.readout import SOFTMAX, Readout
from camrobust.core.explain.shared_pass import NoGradientError
from camrobust.core.explain.tail import PooledHead, Tail, cut_tail, nearly_equal, split_at_first_affine

PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
           nn.Softmax)  # fmt: skip
"""Layers that only pool or pass their input on; others that return their input itself are seen to do so."""


NO_LAYER = "target_layer: no layer with a spatial output was found in this model; name one with `target_layer:`"


def build_network(
    module: nn.Module, sample: Tensor, target_layer: str | None = None, readout: Readout = SOFTMAX
) -> Network:
    """The model with its target layer, and with the shortcuts that apply to the part behind that layer.

    Args:
        module: a frozen classifier in evaluation mode.
        sample: (B, 3, H, W), normalised images for trial passes.
        target_layer: dotted name of a submodule; None lets `discover` choose.
        readout: what the outputs mean.

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
    network = Network(module, layers[name], name, layout, readout=readout)
    with frozen(module):
        try:
            evidence = collect(network, sample)
        except NoGradientError:
            if not changes_logits(module, sample, layers[name], layout):
                raise
            network = replace(network, differentiable=False)
            evidence = collect(network, sample)
        tail = _tail(evidence)
        network = evidence.network = replace(network, tail=tail)
        head = pooled_head(evidence)
        first_affine = None
        if tail is not None and head is None and layout.order == "map":
            first_affine = split_at_first_affine(tail, evidence.activations, network.scores)
        return replace(network, head=head, first_affine=first_affine)


def discover(module: nn.Module, sample: Tensor) -> tuple[str, Layout]:
    """The name of the layer to explain and its layout; of nested layers with the same output, the outermost.

    Raises:
        UserError: the model has no layer with positions on which the logits depend.
    """
    runs, logits = layer_runs(module, sample)
    layouts = layouts_by_name(runs, sample)
    candidates = _candidates(runs, layouts, logits.shape[1])[::-1]
    with torch.enable_grad():
        every_score = list(scores(runs, logits))
    arriving = [gradients(score, candidates) for score in every_score]
    if all(gradient is None for found in arriving for gradient in found):
        return _by_exchange(module, sample, candidates, layouts)
    for number, found in enumerate(arriving):
        for layer, gradient in zip(candidates, found, strict=True):
            layout = layouts[layer.name][0]
            if gradient is None or not bool((layout.to_map(gradient) != 0).any()):
                continue
            if carries_gradient(module, sample, layer.name, number, gradient):
                verified = layout_by_patches(module, sample, layer.name, layouts[layer.name])
                if verified is not None:
                    return layer.name, verified
    raise UserError(NO_LAYER)


def _by_exchange(
    module: nn.Module, sample: Tensor, candidates: list[LayerRun], layouts: dict[str, list[Layout]]
) -> tuple[str, Layout]:
    """The same for a model through which no gradient passes: the layer whose positions change the logits."""
    for layer in candidates:
        verified = layout_by_patches(module, sample, layer.name, layouts[layer.name])
        if verified is not None and changes_logits(module, sample, layer.module, verified):
            return layer.name, verified
    raise UserError(NO_LAYER)


def _candidates(runs: list[LayerRun], layouts: dict[str, list[Layout]], classes: int) -> list[LayerRun]:
    """The layers that could be the target layer, in the order in which they finished."""
    counts = Counter(run.name for run in runs)
    order = {name: fitting[0].order for name, fitting in layouts.items()}
    layers = [
        run for run in runs
        if run.name in layouts and counts[run.name] == 1 and not run.passes_on
        and not isinstance(run.module, PASS_THROUGH)
        and not is_projection(run, layouts[run.name][0])
    ]  # fmt: skip
    if not class_heads(runs, classes):
        while layers and order[layers[-1].name] == "map" and layers[-1].output.shape[1] == classes:
            layers.pop()
    widths = [run.output.shape[-1] for run in layers if order[run.name] != "map"]
    return [run for run in layers if order[run.name] == "map" or run.output.shape[-1] == widths[-1]]


def _checked(module: nn.Module, sample: Tensor, name: str) -> Layout:
    """The layout of a layer that the user named; that of a layer that does not run once is left to the shared pass.

    Raises:
        UserError: the output of the layer has no positions, or only one, or they are not in the picture's order; or
            only a part of its gradient can be had.
    """
    runs, logits = layer_runs(module, sample)
    named = [run for run in runs if run.name == name]
    layouts = layouts_by_name(runs, sample).get(name, [])
    if not layouts and named:
        raise UserError(_no_positions(name, tuple(named[-1].output.shape)))
    if len(named) != 1:
        return Layout()
    with torch.enable_grad():
        every_score = list(scores(runs, logits))
    by_score = [gradients(score, named)[0] for score in every_score]
    arriving = [(number, one) for number, one in enumerate(by_score) if one is not None and bool(one.any())]
    for number, gradient in arriving[:1]:
        if not carries_gradient(module, sample, name, number, gradient):
            raise UserError(_partial(named[0], runs))
    layout = layout_by_patches(module, sample, name, layouts)
    if layout is None:
        raise UserError(
            f"target_layer: the positions of '{name}' are not in the order of the picture's, so its maps would be "
            "scrambled; choose another layer"
        )
    return layout


def _no_positions(name: str, shape: tuple[int, ...]) -> str:
    """That a layer's output of some shape has no positions, or only one."""
    if len(shape) == 4 and shape[2] * shape[3] == 1:
        return f"target_layer: '{name}' puts out a single position, so it has no map; choose one before"
    return (
        f"target_layer: '{name}' must put out a feature map (B, C, h, w) or a grid of tokens (B, N, C), got {shape}; "
        "choose another layer"
    )


def _partial(layer: LayerRun, runs: list[LayerRun]) -> str:
    """That only a part of a layer's gradient can be had, with the layer inside it that puts out the same map."""
    inside = [
        run.name for run in runs
        if run.name.startswith(f"{layer.name}.") and run.output.data_ptr() == layer.output.data_ptr()
        and run.output.shape == layer.output.shape
    ]  # fmt: skip
    return (
        f"target_layer: '{layer.name}' hands on more than its map, so a part of the gradient passes the map by; choose "
        + (f"'{inside[-1]}'" if inside else "a layer inside it")
    )


def _tail(evidence: Evidence) -> Tail | None:
    """The part behind the target layer, None if it cannot be cut out or does not reproduce the logits."""
    network, B = evidence.network, len(evidence.images)
    rows = torch.arange(B + 1, device=evidence.logits.device) % B
    try:
        tail = cut_tail(network.module, network.layer_name)
        with torch.no_grad():
            context = tail.context(evidence.images)
            again = network.scores(tail(evidence.outputs[rows], context, rows, B))
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
    readout = evidence.network.readout
    outputs = readout.outputs_of(logits)
    for head in [part for part in evidence.network.module.modules() if isinstance(part, nn.Linear)]:
        if head.weight.shape == (outputs.shape[1], noise.shape[1]) and bool(head.weight.any()):
            weight = head.weight.float()
            bias = torch.zeros_like(outputs[0]) if head.bias is None else head.bias.float()
            if nearly_equal(noise.mean(dim=(2, 3)) @ weight.T + bias, outputs):
                return PooledHead(readout.scores(weight.T).T, readout.scores(bias[None])[0])
    return None
