"""Methods that ask what the model says of activations that were changed: by channel, or by position."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import CHUNK_BYTES, Evidence, logits_of
from camrobust.core.explain.tail import FirstAffine

SPREAD = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))
"""Gaussian of Recipro-CAM, 3×3 positions."""


def _rerun_scores(evidence: Evidence) -> Tensor:
    """The explained logit with each channel of A set to 0 in turn, (B, C), by re-running the tail in chunks."""
    B, C = evidence.activations.shape[:2]
    device = evidence.activations.device
    rows = torch.arange(B, device=device).repeat_interleave(C)
    channels = torch.arange(C, device=device).repeat(B)
    scores = []
    for row, channel in zip(rows.split(evidence.chunk), channels.split(evidence.chunk), strict=True):
        replaced = evidence.activations[row]
        replaced[torch.arange(len(row), device=device), channel] = 0
        scores.append(evidence.explained(evidence.rerun(replaced, row), row))
    return torch.cat(scores).reshape(B, C)


def _split_scores(evidence: Evidence, first: FirstAffine) -> Tensor:
    """The same, (B, C), where only one term of the first linear or convolutional layer's output changes."""
    A = evidence.activations
    kept = first.before(A.clone())
    lost = kept - first.before(torch.zeros_like(A))
    if first.one_class:
        return _one_class_scores(evidence, first, kept, lost)
    B, C = A.shape[:2]
    weight = first.affine.weight.float().reshape(len(first.affine.weight), C, -1)
    sums = first.affine(kept)
    step = max(1, CHUNK_BYTES // (4 * sums.shape[1] * max(B, weight.shape[2])))
    scores = []
    for channels in torch.arange(C, device=A.device).split(step):
        changes = torch.einsum("ocs,bcs->bco", weight[:, channels], lost.reshape(B, C, -1)[:, channels])
        logits = logits_of(first.after((sums[:, None] - changes).flatten(0, 1)))
        rows = torch.arange(B, device=A.device).repeat_interleave(len(channels))
        scores.append(evidence.explained(logits, rows).reshape(B, -1))
    return torch.cat(scores, dim=1)


def _one_class_scores(evidence: Evidence, first: FirstAffine, kept: Tensor, lost: Tensor) -> Tensor:
    """The same where the layer is a convolution with one channel per class: the explained one alone is computed."""
    affine, B, C = cast(nn.Conv2d, first.affine), len(kept), kept.shape[1]
    options: dict[str, Any] = {"stride": affine.stride, "padding": affine.padding, "dilation": affine.dilation}
    weights = affine.weight[evidence.targets]
    whole = conv2d(kept.flatten(0, 1)[None], weights, groups=B, **options)
    if affine.bias is not None:
        whole = whole + affine.bias[evidence.targets].reshape(1, B, 1, 1)
    changes = conv2d(lost.flatten(0, 1)[None], weights.flatten(0, 1)[:, None], groups=B * C, **options)
    changed = whole.transpose(0, 1) - changes.unflatten(1, (B, C))[0]
    return logits_of(first.after(changed.flatten(0, 1)[:, None])).float().reshape(B, C)


@cam("ablationcam", needs="tail", cost="tail", source="Desai & Ramaswamy, WACV 2020", year=2020)
def ablationcam(evidence: Evidence) -> Tensor:
    """Ablation-CAM: w_k = (y - y_k)/y with channel k of A set to 0; ReLU Σ_k w_k·A_k.

    Behind global average pooling and one linear layer the drop is exactly fc_w[c, k]·mean_s(A_k). Elsewhere the tail
    behind the target layer is re-run, once per channel; where channels stay apart up to its first linear or
    convolutional layer (VGG, SqueezeNet, DenseNet), only from there on. Tokens without a position keep their values.

    References:
        Desai & Ramaswamy 2020, WACV, equations 2 and 3.
    """
    if evidence.head is not None:
        drop = evidence.head.weight[evidence.targets].float() * evidence.activations.mean(dim=(2, 3))
    else:
        first = evidence.network.first if evidence.network.precision == "fp32" else None
        scores = _rerun_scores(evidence) if first is None else _split_scores(evidence, first)
        drop = evidence.scores[:, None] - scores
    weights = drop / evidence.scores[:, None]
    return torch.einsum("bc,bchw->bhw", weights, evidence.activations).relu()


@cam("recipro-cam", needs="tail", cost="tail", source="Byun & Lee, arXiv 2209.14074", year=2022)
def recipro_cam(evidence: Evidence) -> Tensor:
    """Recipro-CAM: the softmax probability of c when only one position of A is kept, for every position.

    What is kept is the position and its eight neighbours times a Gaussian (1/4 at the position, 1/8 beside it, 1/16
    at the corners); everything else is 0. One re-run of the tail per position.

    References:
        Byun & Lee 2022, arXiv 2209.14074, with the spatial Gaussian; for ViT as in arXiv 2310.02588.
    """
    B, _, h, w = evidence.activations.shape
    device = evidence.activations.device
    masks = torch.zeros(h * w, h + 2, w + 2, device=device)
    for down, line in enumerate(SPREAD):
        for right, share in enumerate(line):
            masks[:, down : down + h, right : right + w] += share * torch.eye(h * w, device=device).reshape(-1, h, w)
    masks = masks[:, 1:-1, 1:-1]
    rows = torch.arange(B, device=device).repeat_interleave(h * w)
    places = torch.arange(h * w, device=device).repeat(B)
    found = []
    for row, place in zip(rows.split(evidence.chunk), places.split(evidence.chunk), strict=True):
        logits = evidence.rerun(evidence.activations[row] * masks[place][:, None], row)
        found.append(evidence.explained(logits.softmax(dim=1), row))
    return torch.cat(found).reshape(B, h, w)
