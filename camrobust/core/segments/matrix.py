"""The matrix that turns a low-resolution map into one score per segment."""

from collections.abc import Sequence

import torch
from torch import Tensor


def _interpolation(size: int, cells: int, device: torch.device) -> Tensor:
    """(size, cells) float64: row i holds the weights of the cells in pixel i, bilinear with align_corners=False.

    `torch.nn.functional.interpolate` of an identity differs by up to 6e-14, which changes the last bit of some segment
    scores.
    """
    centres = (torch.arange(size, device=device, dtype=torch.float64) + 0.5) * cells / size - 0.5
    centres = centres.clamp(min=0)
    low = centres.floor().long().clamp(max=cells - 1)
    high = (low + 1).clamp(max=cells - 1)
    share = (centres - low)[:, None]
    matrix = torch.zeros(size, cells, device=device, dtype=torch.float64)
    matrix.scatter_add_(1, low[:, None], 1 - share)
    return matrix.scatter_add_(1, high[:, None], share)


def segment_matrix(labels: Tensor, height: int, width: int, *, count: int | None = None) -> Tensor:
    """The matrix W with v = W·vec(map), v the mean of the bilinearly upsampled map over each segment.

    Args:
        labels: (H, W) int64, 0 … m-1.
        height: h, rows of the map.
        width: w, columns of the map.
        count: m. None: it is read from the labels, which waits for a GPU.

    Returns:
        (m, h·w) float32 on the labels' device; each row sums to 1, and is 0 for a segment without pixels.

    Examples:
        >>> import torch
        >>> from camrobust.core.segments import segment_matrix
        >>> left_and_right = torch.tensor([[0, 1], [0, 1]])
        >>> segment_matrix(left_and_right, 1, 2) @ torch.tensor([0.2, 0.6])
        tensor([0.2000, 0.6000])
    """
    H, W = labels.shape
    m = int(labels.max()) + 1 if count is None else count
    down, across = _interpolation(H, height, labels.device), _interpolation(W, width, labels.device)
    # First the weight of each column of the map per segment and image row, then that of each row of the map.
    places = (labels + m * torch.arange(H, device=labels.device)[:, None]).flatten()
    by_row = torch.zeros(H * m, width, device=labels.device, dtype=torch.float64)
    by_row.index_add_(0, places, across.repeat(H, 1))
    sums = torch.einsum("ysj,yi->sij", by_row.reshape(H, m, width), down)
    ones = torch.ones((), device=labels.device, dtype=torch.float64)
    sizes = torch.zeros(m, device=labels.device, dtype=torch.float64)
    sizes = sizes.index_add_(0, labels.flatten(), ones.expand(labels.numel())).clamp_(min=1)
    return (sums.flatten(1) / sizes[:, None]).float()


def segment_matrices(labels: Tensor, height: int, width: int, counts: Sequence[int]) -> Tensor:
    """The matrices of several images, (B, M, h·w), filled up with rows of 0; see `segment_matrix`.

    Args:
        labels: (B, H, W) int64.
        height: h, rows of the map.
        width: w, columns of the map.
        counts: B numbers of segments; M is the largest.
    """
    matrices = torch.zeros(len(labels), max(counts), height * width, device=labels.device)
    for matrix, one, count in zip(matrices, labels, counts, strict=True):
        matrix[:count] = segment_matrix(one, height, width, count=count)
    return matrices


def segment_scores(maps: Tensor, matrices: Tensor, owner: Tensor) -> Tensor:
    """Scores (R, K, M) of maps (R, K, h·w), by matrices (B, M, h·w) of the images `owner` (R,)."""
    return torch.bmm(maps.double(), matrices[owner].double().transpose(1, 2)).float()
