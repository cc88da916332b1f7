"""Segments of an image, and the small matrix that ranks them by a low-resolution map."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camrobust.contract.segmenters import DEFAULT, SEGMENTERS
from camrobust.core.segments.quickshift import quickshift

__all__ = ["felzenszwalb", "grid", "quickshift", "segment", "segment_matrix", "slic"]


def segment(images: Tensor, method: str = DEFAULT, **parameters: object) -> Tensor:
    """Segments of every image, by a method of the registry.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        method: name from `camrobust list segments`.
        parameters: of the method; defaults where none are given.

    Returns:
        (B, H, W) int64 on the images' device, each image's labels 0 … m-1; they depend on the image alone.

    Raises:
        UserError: an unknown method or parameter, or a value out of its range.
        ValueError: images of another shape.
    """
    segmenter = SEGMENTERS[method]
    labels: Tensor = segmenter.load()(images, **segmenter.resolve(parameters))
    return labels


def _each(name: str, images: Tensor, cut: Callable[[NDArray[np.float64]], NDArray[np.int64]]) -> Tensor:
    """Labels of every image by a function of one (H, W, 3) float64 in [0, 1], numbered without gaps."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    scaled = images.double().div(255) if images.dtype == torch.uint8 else images.double()
    found = [torch.from_numpy(cut(image)).long() for image in scaled.movedim(1, -1).contiguous().cpu().numpy()]
    if not found:
        return torch.zeros(0, *images.shape[-2:], dtype=torch.int64, device=images.device)
    return torch.stack([labels.unique(return_inverse=True)[1] for labels in found]).to(images.device)


def slic(images: Tensor, n_segments: int = 50, compactness: float = 10, sigma: float = 0) -> Tensor:
    """k-means in Lab colour and position, by scikit-image on the CPU.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        n_segments: about how many.
        compactness: weight of position against colour; larger gives squarer segments.
        sigma: standard deviation of the smoothing before, px.

    Returns:
        (B, H, W) int64, each image's labels 0 … m-1.

    Raises:
        ValueError: images of another shape.

    References:
        Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 34(11).
    """
    from skimage.segmentation import slic as skimage_slic

    return _each(
        "slic",
        images,
        partial(skimage_slic, n_segments=n_segments, compactness=compactness, sigma=sigma, start_label=0),
    )


def felzenszwalb(images: Tensor, scale: float = 200, sigma: float = 0.8, min_size: int = 100) -> Tensor:
    """Minimum spanning trees of the pixel graph, cut by an adaptive threshold; by scikit-image on the CPU.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        scale: larger gives larger segments.
        sigma: standard deviation of the smoothing before, px.
        min_size: smaller segments are merged with a neighbour, px.

    Returns:
        (B, H, W) int64, each image's labels 0 … m-1.

    Raises:
        ValueError: images of another shape.

    References:
        Felzenszwalb & Huttenlocher 2004, "Efficient graph-based image segmentation", IJCV 59(2).
    """
    from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

    return _each("felzenszwalb", images, partial(skimage_felzenszwalb, scale=scale, sigma=sigma, min_size=min_size))


def grid(images: Tensor, cells: int = 7) -> Tensor:
    """Rectangles of equal size, blind to the image: what segments add is the difference to these.

    Args:
        images: (B, 3, H, W); only the shape counts.
        cells: rows and columns; of a side with fewer pixels, each pixel is one.

    Returns:
        (B, H, W) int64, labels 0 … m-1 in reading order.

    Raises:
        ValueError: images of another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"grid: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    down, right = (torch.arange(size, device=images.device) * min(cells, size) // size for size in images.shape[-2:])
    labels = down[:, None] * min(cells, images.shape[-1]) + right
    return labels.repeat(len(images), 1, 1)


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


def segment_matrix(labels: Tensor, height: int, width: int, *, count: int | None = None) -> Tensor:
    """W with v = W·vec(map): the mean of the bilinearly upsampled map over every segment.

    Args:
        labels: (H, W) int64, 0 … m-1.
        height: h of the map.
        width: w of the map.
        count: m, None to look for it, for which a GPU has to be waited for.

    Returns:
        (m, h·w) float32 on the labels' device; rows sum to 1.

    References:
        ../shared/metric.md, "Ranking".
    """
    H, W = labels.shape
    m = int(labels.max()) + 1 if count is None else count
    down, across = _interpolation(H, height, labels.device), _interpolation(W, width, labels.device)
    # How much every segment takes of every column cell within every image row, then of every row cell.
    places = (labels + m * torch.arange(H, device=labels.device)[:, None]).flatten()
    by_row = torch.zeros(H * m, width, device=labels.device, dtype=torch.float64)
    by_row.index_add_(0, places, across.repeat(H, 1))
    sums = torch.einsum("ysj,yi->sij", by_row.reshape(H, m, width), down)
    ones = torch.ones((), device=labels.device, dtype=torch.float64)
    sizes = torch.zeros(m, device=labels.device, dtype=torch.float64)
    sizes = sizes.index_add_(0, labels.flatten(), ones.expand(labels.numel())).clamp_(min=1)
    return (sums.flatten(1) / sizes[:, None]).float()
