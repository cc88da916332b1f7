"""Cluster Filter CAM: channels that resemble each other share one smoothed gradient, channels that stand alone go."""

import torch
from torch import Tensor

from camrobust.core.cams.catalogue import cam
from camrobust.core.evidence import Evidence

KEPT = 0.75
NEAR = 0.25
PAIRS = 2**16
"""Most distances that the percentile is taken of."""
SIGMA = 1.0
"""Of the Gaussian that smooths a cluster's gradient, in positions of the map."""


def clusters(points: Tensor) -> Tensor:
    """DBSCAN with ε = the 25th percentile of the pairwise distances, and max(2, 5 % of the points) as least neighbours.

    Args:
        points: (n, d) float32.

    Returns:
        (n,) int64: a number that all points of a cluster share, -1 for outliers.

    References:
        Ester et al. 1996, KDD. A point that two clusters reach goes to the one with the lower first point.
    """
    n = len(points)
    if n < 2:
        return torch.full((n,), -1, device=points.device)
    centred = points - points.mean(dim=0)
    sizes, ones = (centred**2).sum(dim=1, keepdim=True), torch.ones_like(centred[:, :1])
    distances = torch.cat((-2 * centred, sizes, ones), dim=1) @ torch.cat((centred, ones, sizes), dim=1).T
    distances.fill_diagonal_(-torch.inf)
    near = distances.le_(_percentile(distances))
    core = near.sum(dim=1) >= max(2, int(0.05 * n))
    labels = torch.full((n,), -1, device=points.device)
    while bool((core & (labels < 0)).any()):
        first = int((core & (labels < 0)).int().argmax())
        frontier = torch.arange(n, device=points.device) == first
        while bool(frontier.any()):
            reached = (frontier.float() @ near > 0) & (labels < 0)
            labels[reached | frontier] = first
            frontier = reached & core & ~frontier
    return labels


def _percentile(distances: Tensor) -> Tensor:
    """The 25th percentile of the pairwise distances (n, n), of evenly taken rows where there are many points."""
    n = len(distances)
    rows = distances[:: -(-n * n // PAIRS)] if n * n > PAIRS else distances
    values = rows[rows > -torch.inf]
    if not len(values):
        return distances.new_zeros(())
    return values.kthvalue(max(1, 2 * int(NEAR * len(values) / 2))).values


def smoothed_mean(gradients: Tensor) -> Tensor:
    """Mean over positions of gradients (B, C, h, w) smoothed by a Gaussian of σ = 1 that is renormalised at borders.

    The smoothing is linear, so its mean is a fixed weighted sum of the positions.
    """
    shares = []
    for size in gradients.shape[2:]:
        places = torch.arange(size, device=gradients.device, dtype=torch.float32)
        kernel = torch.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * SIGMA**2))
        shares.append((kernel / kernel.sum(dim=1, keepdim=True)).mean(dim=0))
    return torch.einsum("bchw,h,w->bc", gradients, *shares)


def _weights(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Weight of every channel, and which channels count, both (B, C); found once for both forms."""
    if "cf-cam" not in evidence.found:
        evidence.found["cf-cam"] = _found(evidence)
    found: tuple[Tensor, Tensor] = evidence.found["cf-cam"]
    return found


def _found(evidence: Evidence) -> tuple[Tensor, Tensor]:
    A, g = evidence.activations, evidence.gradients
    norms = A.flatten(2).norm(dim=2)
    kept = norms >= norms.quantile(KEPT, dim=1, keepdim=True)
    weights, smooth, counts = g.mean(dim=(2, 3)), smoothed_mean(g), kept.clone()
    for image, alone in enumerate(kept):
        (rest,) = torch.where(~alone)
        label = clusters(A[image, rest].flatten(1))
        member = label >= 0
        size = torch.zeros(len(rest), device=A.device).index_add(
            0, label[member], torch.ones_like(label[member], dtype=A.dtype)
        )
        total = torch.zeros(len(rest), device=A.device).index_add(0, label[member], smooth[image, rest[member]])
        weights[image, rest[member]] = (total / size.clamp(min=1))[label[member]]
        counts[image, rest[member]] = True
    return weights, counts


@cam("cf-cam", needs="gradients", source="He et al., arXiv 2504.00060", year=2025)
def cf_cam(evidence: Evidence) -> Tensor:
    """CF-CAM: ReLU Σ_k w_k·A_k over channels that are strong or resemble others.

    Channels with a norm from the 75th percentile on have w_k = mean_s(g_k). The others are clustered by DBSCAN over
    their activations; outliers drop out, and all of a cluster take the mean of its smoothed mean gradient.

    The smoothing is the second version's Gaussian (σ = 1 position, our choice). Deviation: no softmax over the
    weights. Gradients behind pooling are around 1e-4, so that a softmax makes all weights equal and the map
    independent of the class; `cf-cam-softmax` has it, as published.

    References:
        He, Pan & Yao 2025, arXiv 2504.00060, §3.
    """
    weights, counts = _weights(evidence)
    return torch.einsum("bc,bchw->bhw", weights * counts, evidence.activations).relu()


@cam("cf-cam-softmax", needs="gradients", source="He et al., arXiv 2504.00060", year=2025)
def cf_cam_softmax(evidence: Evidence) -> Tensor:
    """CF-CAM with the published softmax over the weights of the channels that count; see `cf_cam` for what it does.

    References:
        He, Pan & Yao 2025, arXiv 2504.00060, §3.
    """
    weights, counts = _weights(evidence)
    shares = weights.masked_fill(~counts, -torch.inf).softmax(dim=1)
    return torch.einsum("bc,bchw->bhw", shares, evidence.activations).relu()
