"""Recording the attention of a transformer from any library.

Every model calls either torch's fused attention, which is computed in two steps while recording, or a softmax over its
attention scores. Both are intercepted. Only attention among all tokens of an image is recorded, not attention within
windows (Swin) or to pooled keys (PVT).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import Evidence
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import Layout, tensor_in
from camrobust.core.explain.readout import Readout

FUSED = (functional.scaled_dot_product_attention, torch._C._nn.scaled_dot_product_attention)  # noqa: SLF001 - the name under which modules reach it
UNSUPPORTED = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "q_proj_weight", "static_k", "static_v")
"""Arguments of torch's multi-head attention; where one is given, the attention is not recorded."""
SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


@dataclass
class Attention:
    """The attention of one layer; its tensors belong to the graph while autograd records.

    Attributes:
        scores: (B, heads, N, N) before the softmax, scaled and masked.
        weights: (B, heads, N, N) after the softmax.
        inside: the modules that were running, outermost first.
        block: (B, N, C), the output of the largest module that contains no other attention; None if it has none.
    """

    scores: Tensor
    weights: Tensor
    inside: tuple[nn.Module, ...]
    block: Tensor | None = None


class _Recorder(TorchFunctionMode):
    """Intercepts torch functions and records every self-attention over all tokens.

    Args:
        images: B.
        layers: the list to which recorded attention is added.
        running: the modules that are running, outermost first.
    """

    def __init__(self, images: int, layers: list[Attention], running: Sequence[nn.Module]) -> None:
        super().__init__()
        self._images, self._layers, self._running = images, layers, running

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if func in FUSED:
            return self._fused(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if func in SOFTMAX and args[0].ndim == 4 and args[0].shape[-1] == args[0].shape[-2]:
            return self._record(args[0], func(*args, **kwargs))
        return func(*args, **kwargs)

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """The result of the fused attention, computed in two steps."""
        if is_causal or enable_gqa or query.ndim != 4:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
        return self._record(scores, torch.softmax(scores, dim=-1)) @ value

    def _multi_head(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """The result of `nn.MultiheadAttention`, in steps, for self-attention with one projection and no mask."""
        given = signature(functional.multi_head_attention_forward).bind(*args, **kwargs)
        given.apply_defaults()
        a = given.arguments
        query, heads = a["query"], a["num_heads"]
        if any(a[name] is not None for name in UNSUPPORTED) or a["add_zero_attn"] or query is not a["value"]:
            return functional.multi_head_attention_forward(*args, **kwargs)
        N, B, E = query.shape
        projected = functional.linear(query, a["in_proj_weight"], a["in_proj_bias"])
        q, k, v = projected.reshape(N, B, 3, heads, E // heads).permute(2, 1, 3, 0, 4)
        mixed = self._fused(q, k, v).permute(2, 0, 1, 3).reshape(N, B, E)
        return functional.linear(mixed, a["out_proj_weight"], a["out_proj_bias"]), None

    def _record(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Record attention over all tokens; returns the weights, which require a gradient while autograd records."""
        if scores.shape[-1] != scores.shape[-2] or len(scores) != self._images:
            return weights
        if torch.is_grad_enabled() and not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        self._layers.append(Attention(scores, weights, tuple(self._running)))
        return weights


@contextmanager
def _running_modules(module: nn.Module, outputs: dict[nn.Module, Tensor]) -> Iterator[list[nn.Module]]:
    """Within the context, yields the list of running modules, outermost first, and fills in their outputs."""
    running: list[nn.Module] = []

    def enter(part: nn.Module, _inputs: object) -> None:
        running.append(part)

    def leave(part: nn.Module, _inputs: object, output: object) -> None:
        running.pop()
        tensor = tensor_in(output)
        if tensor is not None:
            outputs[part] = tensor

    with hooked(module.modules(), leave, enter):
        yield running


def record_attention(evidence: Evidence, method: str) -> tuple[Tensor, list[Attention]]:
    """One forward pass that records attention.

    Args:
        evidence: evidence of a transformer.
        method: name of the CAM method, for the message.

    Returns:
        The explained logit (B,), and the attention of every layer in order.

    Raises:
        UserError: the model has no attention among all positions of an image.
    """
    recorded: list[Attention] = []
    outputs: dict[nn.Module, Tensor] = {}
    network, images = evidence.network, evidence.images
    with _running_modules(network.module, outputs) as running, _Recorder(len(images), recorded, running):
        score = evidence.explained_logit(network.logits(images))
    tokens = max((layer.scores.shape[-1] for layer in recorded), default=0)
    layers = [layer for layer in recorded if layer.scores.shape[-1] == tokens]
    if not layers or tokens < evidence.activations[0, 0].numel():
        raise UserError(
            f"{method}: the model must have attention among all positions of an image, and none was seen; "
            "choose a method that needs no attention"
        )
    for layer in layers:
        layer.block = _block_output(layer, layers, outputs)
    return score, layers


def _block_output(layer: Attention, layers: Sequence[Attention], outputs: Mapping[nn.Module, Tensor]) -> Tensor | None:
    """The output (B, N, C) of the largest module that contains this attention and no other, None if it has none."""
    others = {part for other in layers if other is not layer for part in other.inside}
    shape = (layer.scores.shape[0], layer.scores.shape[-1])
    for part in layer.inside:
        if part not in others and part in outputs and tuple(outputs[part].shape[:2]) == shape:
            return outputs[part]
    return None


def prefix_length(evidence: Evidence, tokens: int, method: str) -> int:
    """The number of tokens without a position in front of a row of tokens.

    Raises:
        UserError: the attention has another grid of positions than the target layer.
    """
    prefix = tokens - evidence.activations[0, 0].numel()
    layout: Layout = evidence.network.layout
    if layout.order == "tokens" and prefix != layout.prefix:
        raise UserError(
            f"{method}: attention is among {tokens} tokens, the target layer has another grid; name another"
        )
    return prefix


def by_position(evidence: Evidence, values: Tensor, method: str) -> Tensor:
    """Values of the tokens (B, N) as maps (B, h, w)."""
    prefix = prefix_length(evidence, values.shape[1], method)
    return values[:, prefix:].reshape(len(values), *evidence.activations.shape[2:])


def has_class_token(evidence: Evidence, tokens: int, method: str) -> bool:
    """Whether the row of tokens begins with a token that has no position."""
    return prefix_length(evidence, tokens, method) > 0


def token_classifier(evidence: Evidence, method: str) -> Callable[[Tensor], Tensor]:
    """A function from tokens (B, N, C) to logits (B, n).

    It applies the mean over tokens, the model's last normalisation of width C, and its last linear layer.

    Raises:
        UserError: the model does not end in a linear layer.
    """
    parts = list(evidence.network.module.modules())
    readout = evidence.network.readout
    outputs = readout.width or readout.outputs_of(evidence.logits).shape[1]
    heads = [part for part in parts if isinstance(part, nn.Linear) and len(part.weight) == outputs]
    if not heads:
        raise UserError(f"{method}: the model must end in a linear layer with one output per class; choose agcam")
    width = heads[-1].weight.shape[1]
    norms = [part for part in parts if isinstance(part, nn.LayerNorm) and part.normalized_shape == (width,)]
    return partial(_classify, norms[-1] if norms else nn.Identity(), heads[-1], readout)


def _classify(norm: nn.Module, head: nn.Module, readout: Readout, tokens: Tensor) -> Tensor:
    return readout.scores(head(norm(tokens.mean(dim=1)))).float()
