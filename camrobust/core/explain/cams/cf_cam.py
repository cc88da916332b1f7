"""Cluster Filter CAM: similar channels share one smoothed gradient, and channels like no other are dropped."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

KEPT = 0.75
"""Channels from this quantile of the norms on are kept without clustering."""
NEAR = 0.25
"""Quantile of the pairwise distances up to which two channels are neighbours."""
CHUNK_BYTES = (2**20, 2**31)
"""Largest size of the distances between channels, on a CPU (the cache holds one image's) and on a GPU."""
SIGMA = 1.0
"""Standard deviation of the Gaussian that smooths a cluster's gradient, in positions of the map."""


def clusters(points: Tensor) -> Tensor:
    """DBSCAN: ε is the 25th percentile of the pairwise distances; a core point has max(2, 5 % of n), itself included.

    Args:
        points: (B, n, d) float32, n points of each image.

    Returns:
        (B, n) int64: the cluster of each point, named by its lowest core point; -1 for outliers.

    References:
        Ester et al. 1996, KDD. A point within reach of two clusters belongs to the one found first.
    """
    n = points.shape[1]
    if n < 2:
        return torch.full(points.shape[:2], -1, device=points.device)
    chunk = max(1, CHUNK_BYTES[points.device.type == "cuda"] // (12 * n * n))
    return torch.cat([_clusters(images) for images in points.split(chunk)])


def _clusters(points: Tensor) -> Tensor:
    """The same for a few images: each image's next cluster grows from its lowest core point without a cluster."""
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
    """The 25th percentile (B,) of the pairwise distances (B, n, n): that of rank ⌊n·(n - 1)/8⌋, at least 1."""
    n = distances.shape[1]
    # Each row holds the distance to its own point, -inf, which comes first; every other distance is there twice.
    rank = n + 2 * max(1, int(NEAR * (n * (n - 1) // 2)))
    return distances.flatten(1).kthvalue(rank, dim=1).values


def smoothed_mean(gradients: Tensor) -> Tensor:
    """Mean over positions of gradients (B, C, h, w) smoothed by a Gaussian of σ = 1 that is renormalised at borders.

    The smoothing is linear, so its mean is a weighted sum of the positions with fixed weights.
    """
    shares = []
    for size in gradients.shape[2:]:
        places = torch.arange(size, device=gradients.device, dtype=torch.float32)
        kernel = torch.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * SIGMA**2))
        shares.append((kernel / kernel.sum(dim=1, keepdim=True)).mean(dim=0))
    return torch.einsum("bchw,h,w->bc", gradients, *shares)


def _weights(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The weight of every channel, and whether the channel is used, both (B, C); computed once for both forms."""
    if "cf-cam" not in evidence.cache:
        evidence.cache["cf-cam"] = _cluster_weights(evidence)
    weights, used = evidence.cache["cf-cam"]
    return weights, used


def _cluster_weights(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """The same, computed. Images with equally many channels to cluster are computed together."""
    A, g = evidence.activations, evidence.gradients
    C = A.shape[1]
    norms = A.flatten(2).norm(dim=2)
    kept = norms >= norms.quantile(KEPT, dim=1, keepdim=True)
    weights, smooth, used = g.mean(dim=(2, 3)), smoothed_mean(g), kept.clone()
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
        used[place] = member
    return weights, used


@cam("cf-cam", needs="gradients", needs_host=True, returns="weights", source="He et al., arXiv 2504.00060", year=2025)
def cf_cam(evidence: Evidence) -> Tensor:
    """CF-CAM: ReLU Σ_k w_k·A_k over the channels that are strong or similar to others.

    Channels whose norm is at least the 75th percentile have w_k = mean_s(g_k). The others are clustered by DBSCAN over
    their activations. Outliers are dropped; all channels of a cluster have the mean of their smoothed gradients.

    The smoothing is the second version's Gaussian (σ = 1 position, our choice). Deviation: there is no softmax over the
    weights. Gradients behind pooling are around 1e-4; a softmax would make all weights nearly equal, and the map
    independent of the class. `cf-cam-softmax` has the softmax, as published.

    References:
        He, Pan & Yao 2025, arXiv 2504.00060, §3.
    """
    weights, used = _weights(evidence)
    return weights * used


@cam("cf-cam-softmax", needs="gradients", needs_host=True, source="He et al., arXiv 2504.00060", year=2025)
def cf_cam_softmax(evidence: Evidence) -> Tensor:
    """CF-CAM with the published softmax over the weights of the used channels; see `cf_cam`.

    The weights are nearly equal, so the map is near the mean of the used channels. Behind a layer normalisation this
    mean is 0 or nearly so where no channel is dropped, and the map is what is left of sums that cancel, around a
    millionth of the activations. So softmax and sum are in float64; in float32, the maps of a DeiT of random weights
    were off by 0.03 of their range.

    References:
        He, Pan & Yao 2025, arXiv 2504.00060, §3.
    """
    weights, used = _weights(evidence)
    shares = weights.double().masked_fill(~used, -torch.inf).softmax(dim=1)
    return torch.einsum("bc,bchw->bhw", shares, evidence.activations.double()).relu().float()
