"""The matrices that turn low-resolution maps into one score per segment."""

from collections.abc import Sequence

import torch
from torch import Tensor

TILE = 16
"""Segments whose scores are one matrix product; the number of segments of a batch is padded to a multiple of it."""


def _two_cells(size: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two cells of a map that a pixel mixes, bilinear with align_corners=False, and their weights.

    Returns:
        (2, size) int64 and (2, size) float64; at the edges both may be the same cell.
    """
    pixels = torch.arange(size, device=device, dtype=torch.float64)
    centres = pixels.add_(0.5).mul_(cells).div_(size).sub_(0.5).clamp_(min=0)
    low = centres.long()
    share = centres.sub_(low)
    return torch.stack([low, (low + 1).clamp_(max=cells - 1)]), torch.stack([1 - share, share])


def _weights(labels: Tensor, height: int, width: int, rows: int) -> Tensor:
    """(B, rows, h·w) float32 for labels (B, H, W): the mean weight of every cell in every segment."""
    B, H, W = labels.shape
    down = _two_cells(H, height, labels.device)
    across = down if (H, height) == (W, width) else _two_cells(W, width, labels.device)
    # A pixel mixes four cells: (2, 2, H, W).
    (rows_of, by_row), (columns_of, by_column) = down, across
    cells = (rows_of * width).view(2, 1, H, 1) + columns_of.view(2, 1, W)
    share = by_row.view(2, 1, H, 1) * by_column.view(2, 1, W)
    places = (labels * (height * width)).view(B, 1, 1, H, W) + cells
    sums = torch.zeros(B, rows * height * width, device=labels.device, dtype=torch.float64)
    sums.scatter_add_(1, places.flatten(1), share.flatten().expand(B, -1))
    sums = sums.reshape(B, rows, -1)
    # The weights of a pixel sum to 1, so those of a segment sum to its number of pixels.
    return sums.div_(sums.sum(dim=-1, keepdim=True).round_().clamp_(min=1)).float()


def segment_matrices(labels: Tensor, height: int, width: int, counts: Sequence[int]) -> Tensor:
    """One `segment_matrix` for each of several images of the same size.

    Args:
        labels: (B, H, W) int64, each image 0 … m-1.
        height: h, rows of the map.
        width: w, columns of the map.
        counts: the m of each image.

    Returns:
        (B, M, h·w) float32, M the largest m rounded up to a multiple of `TILE`. Rows from m on are 0. On a CPU the
        rows of an image do not depend on the other images, to the last bit.
    """
    return _weights(labels, height, width, TILE * -(-max(counts) // TILE))


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
    m = int(labels.max()) + 1 if count is None else count
    return _weights(labels[None], height, width, m)[0]


def segment_scores(maps: Tensor, matrices: Tensor, owner: Tensor) -> Tensor:
    """The scores of the segments in the maps of many images.

    Args:
        maps: (R, K, h·w) float32.
        matrices: (B, M, h·w), those of `segment_matrices`.
        owner: (R,) int64, the image of each row.

    Returns:
        (R, K, M) float64, summed in float64; 0 in the padding, or NaN where the map holds numbers that are not finite.
        The products have one shape, (K, h·w) by (h·w, TILE), whatever M and R are. A product of another shape adds in
        another order on a CPU, so that the last bits of an image's scores would depend on its neighbours.

    Raises:
        ValueError: M is no multiple of TILE.
    """
    R, K, cells = maps.shape
    if matrices.shape[1] % TILE:
        raise ValueError(
            f"segment_scores: matrices must have a multiple of {TILE} rows, got {matrices.shape[1]}; "
            "use segment_matrices"
        )
    tiles = matrices.index_select(0, owner).reshape(R, -1, TILE, cells)
    # Rows of TILE numbers begin at whole cache lines; the products of other rows have other last bits here and there.
    columns = tiles.mT.to(torch.float64, memory_format=torch.contiguous_format)
    scores = maps.double()[:, None] @ columns
    return scores.transpose(1, 2).reshape(R, K, -1)
