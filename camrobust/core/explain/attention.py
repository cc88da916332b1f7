"""The attention of a transformer, recorded whichever library it comes from.

Attention is seen where every model must pass: at torch's fused attention, which is computed in two steps while
recording, or at the softmax over its scores. What counts is attention among all tokens of an image; windows (Swin) and
pooled keys (PVT) do not.
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
from camrobust.core.explain.layout import Layout, tensor_in

FUSED = (functional.scaled_dot_product_attention, torch._C._nn.scaled_dot_product_attention)  # noqa: SLF001 - the name under which modules reach it
UNUSUAL = ("bias_k", "bias_v", "key_padding_mask", "attn_mask", "q_proj_weight", "static_k", "static_v")
SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


@dataclass
class Attention:
    """One layer's attention, recorded by autograd where that is on.

    Attributes:
        scores: (B, heads, N, N) before the softmax, scaled and masked.
        weights: (B, heads, N, N) after it.
        inside: the modules that it happened in, outermost first.
        block: what the largest module that holds this attention alone put out, (B, N, C).
    """

    scores: Tensor
    weights: Tensor
    inside: tuple[nn.Module, ...]
    block: Tensor | None = None


class _Recorder(TorchFunctionMode):
    """Notes every attention among `tokens` tokens."""

    def __init__(self, images: int, found: list[Attention], stack: Sequence[nn.Module]) -> None:
        super().__init__()
        self._images, self._found, self._stack, self._busy = images, found, stack, False

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if func in FUSED:
            return self._fused(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._many_heads(*args, **kwargs)
        if func in SOFTMAX and args[0].ndim == 4 and args[0].shape[-1] == args[0].shape[-2]:
            return self._note(args[0], func(*args, **kwargs))
        return func(*args, **kwargs)

    def _fused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """What the fused kernel computes, in two steps."""
        if is_causal or enable_gqa or query.ndim != 4:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
        return self._note(scores, torch.softmax(scores, dim=-1)) @ value

    def _many_heads(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """What `nn.MultiheadAttention` computes for self-attention with one projection and no mask, in steps."""
        given = signature(functional.multi_head_attention_forward).bind(*args, **kwargs)
        given.apply_defaults()
        a = given.arguments
        query, heads = a["query"], a["num_heads"]
        if any(a[name] is not None for name in UNUSUAL) or a["add_zero_attn"] or query is not a["value"]:
            return functional.multi_head_attention_forward(*args, **kwargs)
        N, B, E = query.shape
        projected = functional.linear(query, a["in_proj_weight"], a["in_proj_bias"])
        q, k, v = projected.reshape(N, B, 3, heads, E // heads).permute(2, 1, 3, 0, 4)
        mixed = self._fused(q, k, v).permute(2, 0, 1, 3).reshape(N, B, E)
        return functional.linear(mixed, a["out_proj_weight"], a["out_proj_bias"]), None

    def _note(self, scores: Tensor, weights: Tensor) -> Tensor:
        if scores.shape[-1] != scores.shape[-2] or len(scores) != self._images:
            return weights
        if torch.is_grad_enabled() and not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        self._found.append(Attention(scores, weights, tuple(self._stack)))
        return weights


@contextmanager
def _places(module: nn.Module, outputs: dict[nn.Module, Tensor]) -> Iterator[list[nn.Module]]:
    """The modules that are running at the moment, outermost first; what each put out in the end."""
    stack: list[nn.Module] = []

    def enter(part: nn.Module, _inputs: object) -> None:
        stack.append(part)

    def leave(part: nn.Module, _inputs: object, output: object) -> None:
        stack.pop()
        tensor = tensor_in(output)
        if tensor is not None:
            outputs[part] = tensor

    handles = []
    for part in module.modules():
        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def attend(evidence: Evidence, method: str) -> tuple[Tensor, list[Attention]]:
    """One forward pass with its attention: the explained logit (B,) and the layers in order.

    Args:
        evidence: of a transformer.
        method: who asks, for the message.

    Raises:
        UserError: the model has no attention among all positions of an image.
    """
    found: list[Attention] = []
    outputs: dict[nn.Module, Tensor] = {}
    network, images = evidence.network, evidence.images
    with _places(network.module, outputs) as stack, _Recorder(len(images), found, stack):
        score = evidence.explained(network.logits(images))
    tokens = max((one.scores.shape[-1] for one in found), default=0)
    layers = [one for one in found if one.scores.shape[-1] == tokens]
    if not layers or tokens < evidence.activations[0, 0].numel():
        raise UserError(
            f"{method}: the model must have attention among all positions of an image, and none was seen; "
            "choose a method that needs no attention"
        )
    for one in layers:
        _find_block(one, layers, outputs)
    return score, layers


def _find_block(one: Attention, layers: Sequence[Attention], outputs: Mapping[nn.Module, Tensor]) -> None:
    """Fills in what the largest module that holds this attention alone put out."""
    others = {part for other in layers if other is not one for part in other.inside}
    shape = (one.scores.shape[0], one.scores.shape[-1])
    for part in one.inside:
        if part not in others and part in outputs and tuple(outputs[part].shape[:2]) == shape:
            one.block = outputs[part]
            return


def prefix_of(evidence: Evidence, tokens: int, method: str) -> int:
    """Tokens in front that have no position, in a row of so many.

    Raises:
        UserError: the attention's grid is not the target layer's.
    """
    prefix = tokens - evidence.activations[0, 0].numel()
    layout: Layout = evidence.network.layout
    if layout.order == "tokens" and prefix != layout.prefix:
        raise UserError(
            f"{method}: attention is among {tokens} tokens, the target layer has another grid; name another"
        )
    return prefix


def by_position(evidence: Evidence, values: Tensor, method: str) -> Tensor:
    """Values per token (B, N) as maps (B, h, w)."""
    prefix = prefix_of(evidence, values.shape[1], method)
    return values[:, prefix:].reshape(len(values), *evidence.activations.shape[2:])


def read_at_class_token(evidence: Evidence, tokens: int, method: str) -> bool:
    """Whether the row of tokens begins with tokens that have no position."""
    return prefix_of(evidence, tokens, method) > 0


def head_of(evidence: Evidence, method: str) -> Callable[[Tensor], Tensor]:
    """Tokens (B, N, C) to logits: their mean, the model's last normalisation of that width, its last linear layer.

    Raises:
        UserError: the model does not end in a linear layer.
    """
    parts = list(evidence.network.module.modules())
    heads = [part for part in parts if isinstance(part, nn.Linear) and len(part.weight) == evidence.logits.shape[1]]
    if not heads:
        raise UserError(f"{method}: the model must end in a linear layer with one output per class; choose agcam")
    width = heads[-1].weight.shape[1]
    norms = [part for part in parts if isinstance(part, nn.LayerNorm) and part.normalized_shape == (width,)]
    return partial(_read, norms[-1] if norms else nn.Identity(), heads[-1])


def _read(norm: nn.Module, head: nn.Module, tokens: Tensor) -> Tensor:
    logits: Tensor = head(norm(tokens.mean(dim=1)))
    return logits.float()
