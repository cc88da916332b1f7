"""Methods that change the activations, channel by channel or position by position, and re-run the tail."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import CHUNK_BYTES, Evidence
from camrobust.core.explain.network import logits_of
from camrobust.core.explain.tail import FirstAffine, PooledHead

SPREAD = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))
"""The Gaussian of Recipro-CAM, 3×3 positions."""


def _rerun_scores(evidence: Evidence) -> Tensor:
    """The explained logit with each channel of A set to 0 in turn, (B, C), from re-runs of the tail."""
    B, C = evidence.activations.shape[:2]
    device = evidence.activations.device
    scores = []
    for row, channel in evidence.reruns(C):
        replaced = evidence.activations[row]
        replaced[torch.arange(len(row), device=device), channel] = 0
        scores.append(evidence.explained_logit(evidence.logits_of_activations(replaced, row), row))
    return torch.cat(scores).reshape(B, C)


def _split_scores(evidence: Evidence, first: FirstAffine) -> Tensor:
    """The same, (B, C), if a channel only subtracts one term from the output of a linear or convolutional layer."""
    A = evidence.activations
    kept = first.before(A.clone())
    lost = kept - first.before(torch.zeros_like(A))
    if first.per_class:
        return _per_class_scores(evidence, first, kept, lost)
    B, C = A.shape[:2]
    weight = first.affine.weight.float().reshape(len(first.affine.weight), C, -1)
    sums = first.affine(kept)
    step = max(1, CHUNK_BYTES // (4 * sums.shape[1] * max(B, weight.shape[2])))
    scores = []
    for channels in torch.arange(C, device=A.device).split(step):
        changes = torch.einsum("ocs,bcs->bco", weight[:, channels], lost.reshape(B, C, -1)[:, channels])
        logits = evidence.network.scores(first.after((sums[:, None] - changes).flatten(0, 1)))
        rows = torch.arange(B, device=A.device).repeat_interleave(len(channels))
        scores.append(evidence.explained_logit(logits, rows).reshape(B, -1))
    return torch.cat(scores, dim=1)


def _per_class_scores(evidence: Evidence, first: FirstAffine, kept: Tensor, lost: Tensor) -> Tensor:
    """The same if the layer is a convolution with one channel per class: only the explained class is computed."""
    affine, B, C = cast(nn.Conv2d, first.affine), len(kept), kept.shape[1]
    options: dict[str, Any] = {"stride": affine.stride, "padding": affine.padding, "dilation": affine.dilation}
    weights = affine.weight[evidence.targets]
    whole = conv2d(kept.flatten(0, 1)[None], weights, groups=B, **options)
    if affine.bias is not None:
        whole = whole + affine.bias[evidence.targets].reshape(1, B, 1, 1)
    changes = conv2d(lost.flatten(0, 1)[None], weights.flatten(0, 1)[:, None], groups=B * C, **options)
    changed = whole.transpose(0, 1) - changes.unflatten(1, (B, C))[0]
    return logits_of(first.after(changed.flatten(0, 1)[:, None])).float().reshape(B, C)


@cam("ablationcam", needs="tail", closed_form=True, returns="weights", source="Desai & Ramaswamy, WACV 2020", year=2020)
def ablationcam(evidence: Evidence) -> Tensor:
    """Ablation-CAM: w_k = (y_c - y_c,k)/y_c, with y_c,k the logit when channel k of A is 0; ReLU Σ_k w_k·A_k.

    If the tail is global average pooling and one linear layer, y_c - y_c,k is exactly fc_w[c, k]·mean_s(A_k). Otherwise
    the tail is re-run once per channel. If channels stay apart up to its first linear or convolutional layer (VGG,
    SqueezeNet, DenseNet), only the layers from there on are re-run. Tokens without a position keep their values.

    References:
        Desai & Ramaswamy 2020, WACV, equations 2 and 3.
    """
    if evidence.head is not None:
        drop = terms_of_logit(evidence, evidence.head)
    else:
        first = evidence.network.first_affine if evidence.network.precision == "fp32" else None
        scores = _rerun_scores(evidence) if first is None else _split_scores(evidence, first)
        drop = evidence.scores[:, None] - scores
    return drop / evidence.scores[:, None]


def terms_of_logit(evidence: Evidence, head: PooledHead) -> Tensor:
    """The terms fc_w[c, k]·mean_s(A_k), (B, C), that add up to the logit, but for its bias."""
    means = evidence.sums / evidence.activations[0, 0].numel()
    return head.weight[evidence.targets].float() * means


@cam("recipro-cam", needs="tail", source="Byun & Lee, arXiv 2209.14074", year=2022)
def recipro_cam(evidence: Evidence) -> Tensor:
    """Recipro-CAM: for every position, the probability of c (or its value) when only that position of A is kept.

    The position and its eight neighbours are multiplied by a Gaussian (1/4 at the position, 1/8 beside it, 1/16 at the
    corners); all other positions are 0. The tail is re-run once per position.

    References:
        Byun & Lee 2022, arXiv 2209.14074, with the spatial Gaussian; for ViT as in arXiv 2310.02588.
    """
    B, _, h, w = evidence.activations.shape
    device = evidence.activations.device
    masks = torch.zeros(h * w, h + 2, w + 2, device=device)
    for down, row_shares in enumerate(SPREAD):
        for right, share in enumerate(row_shares):
            masks[:, down : down + h, right : right + w] += share * torch.eye(h * w, device=device).reshape(-1, h, w)
    masks = masks[:, 1:-1, 1:-1]
    probabilities = []
    for row, place in evidence.reruns(h * w):
        logits = evidence.logits_of_activations(evidence.activations[row] * masks[place][:, None], row)
        probabilities.append(evidence.explained_logit(evidence.network.readout.probabilities(logits), row))
    return torch.cat(probabilities).reshape(B, h, w)
