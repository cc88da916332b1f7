"""Methods that ask what the model loses when a channel is switched off."""

import torch
from torch import Tensor

from camrobust.core.cams.catalogue import cam
from camrobust.core.evidence import Evidence

CHUNK_BYTES = 128 * 2**20
"""Most memory that the replaced activations of one tail re-run may take."""


def _ablated_scores(evidence: Evidence) -> Tensor:
    """The explained logit with each channel of A set to 0 in turn, (B, C), by re-running the tail in chunks."""
    B, C, h, w = evidence.activations.shape
    rows = torch.arange(B, device=evidence.activations.device).repeat_interleave(C)
    channels = torch.arange(C, device=evidence.activations.device).repeat(B)
    chunk = max(1, CHUNK_BYTES // (4 * C * h * w))
    scores = []
    for row, channel in zip(rows.split(chunk), channels.split(chunk), strict=True):
        replaced = evidence.activations[row]
        replaced[torch.arange(len(row), device=row.device), channel] = 0
        logits = evidence.rerun(replaced, row)
        scores.append(logits.gather(1, evidence.targets[row][:, None])[:, 0])
    return torch.cat(scores).reshape(B, C)


@cam("ablationcam", needs="tail", source="Desai & Ramaswamy, WACV 2020", year=2020)
def ablationcam(evidence: Evidence) -> Tensor:
    """Ablation-CAM: w_k = (y - y_k)/y with channel k of A set to 0; ReLU Σ_k w_k·A_k.

    Behind global average pooling and one linear layer the drop is exactly fc_w[c, k]·mean_s(A_k); elsewhere only the
    tail behind the target layer is re-run, once per channel.

    References:
        Desai & Ramaswamy 2020, WACV, equations 2 and 3.
    """
    if evidence.head is not None:
        drop = evidence.head.weight[evidence.targets].float() * evidence.activations.mean(dim=(2, 3))
    else:
        drop = evidence.scores[:, None] - _ablated_scores(evidence)
    weights = drop / evidence.scores[:, None]
    return torch.einsum("bc,bchw->bhw", weights, evidence.activations).relu()
