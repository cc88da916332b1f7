"""Segments of an image, and the small matrix that ranks them by a low-resolution map."""

import torch
from torch import Tensor


def quickshift(images: Tensor, kernel_size: float = 4, max_dist: float = 200, ratio: float = 0.2) -> Tensor:
    """Quickshift segments of every image, by scikit-image.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        kernel_size: width of the density kernel, px.
        max_dist: cut-off of the tree; larger gives fewer segments.
        ratio: weight of colour against position, [0, 1].

    Returns:
        (B, H, W) int64, each image's labels 0 … m-1, on the CPU.

    Raises:
        ValueError: images of another shape.

    References:
        Vedaldi & Soatto 2008, "Quick shift and kernel methods for mode seeking", ECCV.
    """
    from skimage.segmentation import quickshift as skimage_quickshift

    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"quickshift: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    labels = []
    for image in images.cpu():
        scaled = image.double().div(255) if image.dtype == torch.uint8 else image.double()
        found = skimage_quickshift(
            scaled.permute(1, 2, 0).numpy(), kernel_size=kernel_size, max_dist=max_dist, ratio=ratio, rng=42
        )
        labels.append(torch.from_numpy(found).long())
    return torch.stack(labels)


def _interpolation(size: int, cells: int, device: torch.device) -> Tensor:
    """(size, cells) float64: row i says how pixel i mixes the cells, bilinear with align_corners=False."""
    centres = (torch.arange(size, device=device, dtype=torch.float64) + 0.5) * cells / size - 0.5
    centres = centres.clamp(min=0)
    low = centres.floor().long().clamp(max=cells - 1)
    high = (low + 1).clamp(max=cells - 1)
    share = (centres - low)[:, None]
    matrix = torch.zeros(size, cells, device=device, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], 1 - share)
    return matrix.scatter_add_(1, high[:, None], share)


def segment_matrix(labels: Tensor, height: int, width: int) -> Tensor:
    """W with v = W·vec(map): the mean of the bilinearly upsampled map over every segment.

    Args:
        labels: (H, W) int64, 0 … m-1.
        height: h of the map.
        width: w of the map.

    Returns:
        (m, h·w) float32 on the labels' device; rows sum to 1.

    References:
        ../shared/metric.md, "Ranking".
    """
    H, W = labels.shape
    m = int(labels.max()) + 1
    down, across = _interpolation(H, height, labels.device), _interpolation(W, width, labels.device)
    # How much every segment takes of every column cell within every image row, then of every row cell.
    places = (labels + m * torch.arange(H, device=labels.device)[:, None]).flatten()
    by_row = torch.zeros(H * m, width, device=labels.device, dtype=torch.float64)
    by_row.index_add_(0, places, across.repeat(H, 1))
    sums = torch.einsum("ysj,yi->sij", by_row.reshape(H, m, width), down)
    sizes = torch.bincount(labels.flatten(), minlength=m).clamp(min=1)
    return (sums.flatten(1) / sizes[:, None]).float()
