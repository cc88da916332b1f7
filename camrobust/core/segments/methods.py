"""The segmentation methods beside quickshift, and `segment`, which calls any of them by name."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camrobust.contract.segmenters import DEFAULT, SEGMENTERS


def segment(images: Tensor, method: str = DEFAULT, **parameters: object) -> Tensor:
    """Segments of every image.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        method: a name that `camrobust list segments` shows.
        parameters: parameters of the method; the others have their defaults.

    Returns:
        (B, H, W) int64 on the images' device; each image's labels are 0 … m-1 and depend on that image alone.

    Raises:
        UserError: the method or a parameter is unknown, or a value is out of its range.
        ValueError: images have another shape.

    Examples:
        >>> import torch
        >>> from camrobust.core.segments import segment
        >>> segment(torch.zeros(1, 3, 28, 28), "grid", cells=2).unique()
        tensor([0, 1, 2, 3])
    """
    segmenter = SEGMENTERS[method]
    labels: Tensor = segmenter.load()(images, **segmenter.resolve(parameters))
    return labels


def _each(name: str, images: Tensor, cut: Callable[[NDArray[np.float64]], NDArray[np.int64]]) -> Tensor:
    """Labels of every image from a function of one image (H, W, 3) float64 in [0, 1], numbered without gaps.

    Args:
        name: of the method, for the message.
        images: (B, 3, H, W), float in [0, 1] or uint8.
        cut: image to labels.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name}: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    scaled = images.double().div(255) if images.dtype == torch.uint8 else images.double()
    every = [torch.from_numpy(cut(image)).long() for image in scaled.movedim(1, -1).contiguous().cpu().numpy()]
    if not every:
        return torch.zeros(0, *images.shape[-2:], dtype=torch.int64, device=images.device)
    return torch.stack([labels.unique(return_inverse=True)[1] for labels in every]).to(images.device)


def slic(images: Tensor, n_segments: int = 50, compactness: float = 10, sigma: float = 0) -> Tensor:
    """SLIC: k-means in Lab colour and position, computed by scikit-image on the CPU.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        n_segments: approximate number of segments.
        compactness: weight of position against colour; a larger value gives squarer segments.
        sigma: standard deviation of the Gaussian smoothing before the segmentation, px.

    Returns:
        (B, H, W) int64; each image's labels are 0 … m-1.

    Raises:
        ValueError: images have another shape.

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
    """Minimum spanning trees of the pixel graph, cut by an adaptive threshold; computed by scikit-image on the CPU.

    Args:
        images: (B, 3, H, W), float in [0, 1] or uint8.
        scale: a larger value gives larger segments.
        sigma: standard deviation of the Gaussian smoothing before the segmentation, px.
        min_size: segments with fewer pixels are merged with a neighbour.

    Returns:
        (B, H, W) int64; each image's labels are 0 … m-1.

    Raises:
        ValueError: images have another shape.

    References:
        Felzenszwalb & Huttenlocher 2004, "Efficient graph-based image segmentation", IJCV 59(2).
    """
    from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

    return _each("felzenszwalb", images, partial(skimage_felzenszwalb, scale=scale, sigma=sigma, min_size=min_size))


def grid(images: Tensor, cells: int = 7) -> Tensor:
    """Rectangles of equal size, independent of the image: a baseline for the other methods.

    Args:
        images: (B, 3, H, W); only the shape matters.
        cells: number of rows and of columns, at most the pixels of that side.

    Returns:
        (B, H, W) int64; labels are 0 … m-1 in reading order.

    Raises:
        ValueError: images have another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"grid: images must have the shape (B, 3, H, W), got {tuple(images.shape)}")
    down, right = (torch.arange(size, device=images.device) * min(cells, size) // size for size in images.shape[-2:])
    labels = down[:, None] * min(cells, images.shape[-1]) + right
    return labels.repeat(len(images), 1, 1)
