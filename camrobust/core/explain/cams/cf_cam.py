"""Cluster Filter CAM: channels that resemble each other share one smoothed gradient, channels that stand alone go."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

KEPT = 0.75
NEAR = 0.25
CHUNK_BYTES = (2**20, 2**31)
"""Memory for distances between channels: on a CPU one image's, which stay in its cache, on a GPU many images'."""
PAIRS = 2**16
"""Most distances that the percentile is taken of."""
SIGMA = 1.0
"""Of the Gaussian that smooths a cluster's gradient, in positions of the map."""


def clusters(points: Tensor) -> Tensor:
    """DBSCAN with ε = the 25th percentile of the pairwise distances, and max(2, 5 % of the points) as least neighbours.

    Args:
        points: (B, n, d) float32, n of each image.

    Returns:
        (B, n) int64: a number that all points of a cluster share, -1 for outliers.

    References:
        Ester et al. 1996, KDD. A point that two clusters reach goes to the one with the lower first point.
    """
    n = points.shape[1]
    if n < 2:
        return torch.full(points.shape[:2], -1, device=points.device)
    chunk = max(1, CHUNK_BYTES[points.device.type == "cuda"] // (12 * n * n))
    return torch.cat([_clusters(some) for some in points.split(chunk)])


def _clusters(points: Tensor) -> Tensor:
    """The same in one go: every image's next cluster grows from its lowest core point without one."""
    B, n = points.shape[:2]
    centred = points - points.mean(dim=1, keepdim=True)
    sizes, ones = (centred**2).sum(dim=2, keepdim=True), torch.ones_like(centred[..., :1])
    distances = torch.cat((-2 * centred, sizes, ones), dim=2) @ torch.cat((centred, ones, sizes), dim=2).mT
    distances.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    near = distances.le_(_percentile(distances)[:, None, None])
    core = near.sum(dim=2) >= max(2, int(0.05 * n))
    numbers = torch.arange(n, device=points.device)
    labels = torch.full((B, n), -1, device=points.device)
    frontier, current = torch.zeros_like(core), torch.zeros_like(labels[:, :1])
    while True:
        free = core & (labels < 0)
        begins = free.any(dim=1, keepdim=True) & ~frontier.any(dim=1, keepdim=True)
        first = free.int().argmax(dim=1, keepdim=True)
        current = torch.where(begins, first, current)
        frontier = frontier | (begins & (numbers == first))
        if not bool(frontier.any()):
            return labels
        reached = ((frontier.float()[:, None] @ near)[:, 0] > 0) & (labels < 0)
        labels = torch.where(reached | frontier, current, labels)
        frontier = reached & core & ~frontier


def _percentile(distances: Tensor) -> Tensor:
    """The 25th percentile (B,) of the pairwise distances (B, n, n), of evenly taken rows where there are many."""
    n = distances.shape[1]
    rows = distances[:, :: max(1, -(-n * n // PAIRS))]
    pairs = rows.shape[1] * (n - 1)
    # Each row holds its own point, at -inf: those come first.
    return rows.flatten(1).kthvalue(rows.shape[1] + max(1, 2 * int(NEAR * pairs / 2)), dim=1).values


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
    C = A.shape[1]
    norms = A.flatten(2).norm(dim=2)
    kept = norms >= norms.quantile(KEPT, dim=1, keepdim=True)
    weights, smooth, counts = g.mean(dim=(2, 3)), smoothed_mean(g), kept.clone()
    others = C - kept.sum(dim=1)
    for n in others.unique().tolist():
        (images,) = torch.where(others == n)
        rest = torch.where(~kept[images])[1].reshape(-1, n)
        place = (images[:, None], rest)
        label = clusters(A[place].flatten(2))
        member, shared, means = label >= 0, label.clamp(min=0), smooth[place]
        size, total = (
            torch.zeros_like(means).scatter_add(1, shared, torch.where(member, values, 0))
            for values in (torch.ones_like(means), means)
        )
        weights[place] = torch.where(member, (total / size.clamp(min=1)).gather(1, shared), weights[place])
        counts[place] = member
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
