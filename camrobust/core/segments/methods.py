"""The segmentation methods beside quickshift, and `segment`, which calls any of them by name."""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.segmenters import DEFAULT, SEGMENTERS
from camrobust.core.channels import check_channels
from camrobust.core.segments.colour import BLACK_TO_WHITE, in_unit


def segment(images: Tensor, method: str = DEFAULT, **parameters: object) -> Tensor:
    """Segments of every image.

    Args:
        images: (B, C, H, W), float in [0, 1] or uint8.
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
    """Labels of every image from a function of one image (H, W, C) float64 in [0, 1], numbered without gaps.

    One channel arrives as three equal ones.

    Args:
        name: of the method, for the message.
        images: (B, C, H, W), float in [0, 1] or uint8.
        cut: image to labels.
    """
    check_channels(name, images)
    every = [torch.from_numpy(cut(image)).long() for image in in_unit(images).movedim(1, -1).contiguous().cpu().numpy()]
    if not every:
        return torch.zeros(0, *images.shape[-2:], dtype=torch.int64, device=images.device)
    return torch.stack([labels.unique(return_inverse=True)[1] for labels in every]).to(images.device)


def slic(images: Tensor, n_segments: int = 50, compactness: float = 10, sigma: float = 0) -> Tensor:
    """SLIC: k-means in Lab colour and position, computed by scikit-image on the CPU.

    One channel is cut like a grey photo. Other numbers of channels are compared as they are, after scikit-image has
    scaled each image to [0, 1], with 100 from black to white, as in Lab.

    Args:
        images: (B, C, H, W), float in [0, 1] or uint8.
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

    check_channels("slic", images)
    channels = images.shape[1]
    # scikit-image compares other channels than those of a photo on the scale from 0 to 1.
    weight = 1 if channels in (1, RGB) else channels**0.5 / BLACK_TO_WHITE
    return _each(
        "slic",
        images,
        partial(skimage_slic, n_segments=n_segments, compactness=compactness * weight, sigma=sigma, start_label=0),
    )


def felzenszwalb(images: Tensor, scale: float = 200, sigma: float = 0.8, min_size: int = 100) -> Tensor:
    """Minimum spanning trees of the pixel graph, cut by an adaptive threshold; computed by scikit-image on the CPU.

    One channel is cut like a grey photo. Other numbers of channels are weighted so that black to white is as far as in
    a photo.

    Args:
        images: (B, C, H, W), float in [0, 1] or uint8.
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

    def cut(image: NDArray[np.float64]) -> NDArray[np.int64]:
        with warnings.catch_warnings():
            # It warns that more than three channels may be a mistake.
            warnings.filterwarnings("ignore", message="Got image with third dimension")
            weighted = image * (RGB / image.shape[2]) ** 0.5
            labels: NDArray[np.int64] = skimage_felzenszwalb(weighted, scale=scale, sigma=sigma, min_size=min_size)
            return labels

    return _each("felzenszwalb", images, cut)


def grid(images: Tensor, cells: int = 7) -> Tensor:
    """Rectangles of equal size, independent of the image: a baseline for the other methods.

    Args:
        images: (B, C, H, W); only the shape matters.
        cells: number of rows and of columns, at most the pixels of that side.

    Returns:
        (B, H, W) int64; labels are 0 … m-1 in reading order.

    Raises:
        ValueError: images have another shape.
    """
    check_channels("grid", images)
    down, right = (torch.arange(size, device=images.device) * min(cells, size) // size for size in images.shape[-2:])
    labels = down[:, None] * min(cells, images.shape[-1]) + right
    return labels.repeat(len(images), 1, 1)
