"""Photographs as a user has them: paths, a folder, pictures, arrays, tensors; all to 8-bit pixels and their names."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.errors import UserError
from camrobust.io.images import MAX_BYTES, decode, prepare
from camrobust.io.manifest import list_images
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.refusals import ImageError
from camrobust.io.store import read_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

Photographs = str | Path | Image.Image | Tensor | Sequence["str | Path | Image.Image | NDArray[Any] | Tensor"]
ROUNDING = 1e-3
"""By how much pixels may leave [0, 1], as resizing makes them."""


def check_batch(images: Tensor) -> None:
    """Raise ValueError unless images are (B, 3, H, W), uint8 or in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3:
        got = tuple(images.shape)
        raise ValueError(f"images: must have the shape (B, 3, H, W), got {got}; add the batch axis, and colours first")
    if images.dtype != torch.uint8 and images.numel():
        low, high = (float(value) for value in images.float().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(f"images: must be uint8 or in [0, 1], before normalisation, got {low:g} to {high:g}; "
                             "divide by 255, and name the normalisation by mean and std")  # fmt: skip


def levels(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 on the CPU; raises as `check_batch`."""
    check_batch(images)
    return (images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)).cpu()


def photo(image: str | Path | Image.Image, where: str, resize: int, crop: int) -> Tensor:
    """A file, an object of a store, or a picture, cropped.

    Args:
        image: path, address or picture.
        where: what the sentence of an error begins with.
        resize: shorter side after resizing, px.
        crop: side of the centre crop, px.

    Returns:
        (3, crop, crop) uint8.

    Raises:
        UserError: it is not there, or no photo.
    """
    try:
        if isinstance(image, Image.Image):
            return torch.from_numpy(prepare(image, resize, crop).pixels)
        return torch.from_numpy(decode(read_object(str(image), most=MAX_BYTES), resize, crop).pixels)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"{where}: {error}; mend the path") from error
    except ImageError as error:
        name = "the picture" if isinstance(image, Image.Image) else f"'{image}'"
        raise UserError(f"{where}: {name} cannot be used: {error.message}") from error


def pixels_of(images: Photographs, resize: int, crop: int) -> tuple[list[str], Tensor]:
    """Image ids and (B, 3, H, W) uint8; files and pictures are cropped, arrays are not.

    Raises:
        UserError: no image, one twice, one that cannot be used, or of different sizes.
        ValueError: an array of another shape or range.
    """
    if isinstance(images, Tensor):
        pixels = levels(images)
        _check_count(len(pixels))
        return [str(number) for number in range(len(pixels))], pixels
    if isinstance(images, (Image.Image, np.ndarray)):
        images = [images] if isinstance(images, Image.Image) or images.ndim == 3 else list(images)
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        listed = list_images("images", str(images))
        names, images = listed["image_id"].to_list(), listed["uri"].to_list()
    else:
        images = [images] if isinstance(images, (str, Path)) else list(images)
        names = _named(images)
    _check_count(len(names))
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"images: '{twice}' occurs twice, and would count as one image; give it once")
    found = [_one(image, resize, crop) for image in images]
    if len({one.shape for one in found}) > 1:
        raise UserError("images: arrays must be of one size, as files are after cropping; crop them, or pass paths")
    return names, torch.stack(found)


def _check_count(images: int) -> None:
    if not images:
        raise UserError("images: must hold at least one image, got none")


def _named(images: Sequence[object]) -> list[str]:
    """Names that are the same wherever the files lie, where that tells them apart: random draws hang on them."""
    whole = [str(image) if isinstance(image, (str, Path)) else str(number) for number, image in enumerate(images)]
    short = [Path(name).name for name in whole]
    return short if len({*short}) == len(short) else whole


def _one(image: "str | Path | Image.Image | NDArray[Any] | Tensor", resize: int, crop: int) -> Tensor:
    if isinstance(image, (str, Path, Image.Image)):
        if not 8 <= crop <= resize:
            raise UserError(f"images: crop must be 8 px to resize ({resize} px), got {crop}; name both")
        return photo(image, "images", resize, crop)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise TypeError(f"images: each must be a path, a picture, an array or a tensor, got {type(image).__name__}; "
                        "of a data loader's batches pass the images alone")  # fmt: skip
    tensor = torch.from_numpy(image.copy()) if isinstance(image, np.ndarray) else image
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"images: each array must have the shape (3, H, W), got {tuple(tensor.shape)}; put colours "
                         "first, or pass it as a picture: PIL.Image.fromarray")  # fmt: skip
    return levels(tensor[None])[0]
