"""Images as users have them (a folder, paths, pictures, arrays, tensors), turned into names and 8-bit pixels."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.errors import UserError
from camrobust.contract.paths import is_folder
from camrobust.contract.quoting import short
from camrobust.core.channels import DEEP, held
from camrobust.interface.arguments import per_image
from camrobust.io.file_kinds import HIDDEN, holds_many
from camrobust.io.image_errors import ImageError
from camrobust.io.image_listing import in_words
from camrobust.io.images import MAX_BYTES, decode, prepare
from camrobust.io.manifest import list_dataset
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.readings import read_picture
from camrobust.io.sample_levels import UNUSED
from camrobust.io.store import read_object

Photographs = str | Path | Image.Image | Tensor | Sequence[str | Path | Image.Image | NDArray[Any] | Tensor]
ROUNDING = 1e-3
"""How far pixels may lie outside of [0, 1]; resizing causes that."""


def check_batch(images: Tensor, channels: int = RGB) -> None:
    """Raise ValueError unless images are (B, C, H, W), uint8 or in [0, 1]; other than three channels also uint16.

    Those of 16 bits must use more than a quarter of the range, as files must: else they are perhaps of 12 bits.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(
            f"images: must have the shape (B, {channels}, H, W), got {tuple(images.shape)}; add the batch axis, put "
            "channels first, and give mean and std one value for each channel"
        )
    whole = (torch.uint8,) if channels == RGB else (torch.uint8, torch.uint16)
    if images.dtype == torch.uint16 and channels != RGB and images.numel():
        for highest in images.to(torch.int32).flatten(1).amax(dim=1).tolist():
            if 0 < highest <= DEEP // UNUSED:
                raise ValueError(
                    "images: a uint16 image must use more than a quarter of the 16 bits, got no value above "
                    f"{highest}, so perhaps not all bits are used; divide by the level that is white, 4095 for 12 bits"
                )
    if images.dtype not in whole and images.numel():
        low, high = (float(value) for value in images.float().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(f"images: must be uint8 or in [0, 1], before normalisation, got {low:g} to {high:g}; "
                             "divide by 255, and name the normalisation by mean and std")  # fmt: skip


def levels(images: Tensor, channels: int = RGB) -> Tensor:
    """Images (B, C, H, W) on the CPU as they are measured (`core.channels.held`); raises like `check_batch`."""
    check_batch(images, channels)
    return held(images).cpu()


def photo(
    image: str | Path | Image.Image, where: str, resize: int, crop: int, content: bytes | None = None,
    channels: int = RGB,
) -> Tensor:  # fmt: skip
    """The pixels of a file, an object of a store, or a picture, resized and cropped.

    Args:
        image: path, address or picture.
        where: first word of an error message.
        resize: shorter side after resizing, px.
        crop: side of the centre crop, px.
        content: bytes of the file, None to read them here.
        channels: of the result.

    Returns:
        (C, crop, crop) as it is measured: uint8 for three channels, else float32.

    Raises:
        UserError: the file is missing or is not a photo, or the crop is larger than the resized photo.
    """
    if not 8 <= crop <= resize:
        raise UserError(f"{where}: crop must be from 8 px to resize ({resize} px), got {crop}; give both")
    try:
        if isinstance(image, Image.Image):
            return torch.from_numpy(prepare(image, resize, crop, channels).pixels)
        content = _content(image, where) if content is None else content
        return torch.from_numpy(decode(content, resize, crop, channels).pixels)
    except ImageError as error:
        name = "the picture" if isinstance(image, Image.Image) else f"'{image}'"
        raise UserError(f"{where}: {name} cannot be used: {error.message}") from error


def _content(image: str | Path, where: str) -> bytes:
    try:
        return read_object(str(image), most=MAX_BYTES)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"{where}: {error}; correct the path") from error


def pixels_of(
    images: Photographs, resize: int, crop: int, image_ids: Sequence[str] | None = None, channels: int = RGB
) -> tuple[list[str], Tensor]:  # fmt: skip
    """Image ids, and pixels (B, C, H, W) as they are measured. Files and pictures are cropped, arrays are not.

    Random draws depend on the id, and a default id depends only on its image: on the path below a folder; on the name
    and a hash of the bytes for other files; on a hash of the pixels for everything else.

    Raises:
        UserError: no image, an unusable image, images of different sizes, or ids that are not different texts.
        ValueError: an array of another shape or range, or another number of ids.
    """
    if isinstance(images, Tensor):
        named = [(_pixels_id(image), image) for image in levels(images, channels)]
    else:
        named = _several(images, resize, crop, channels)
    if not named:
        raise UserError("images: must hold at least one image, got none")
    if len({pixels.shape for _, pixels in named}) > 1:
        raise UserError("images: arrays must all have one size, as files have after cropping; crop them, or pass paths")
    names = [name for name, _ in named] if image_ids is None else _checked(image_ids, len(named))
    return names, torch.stack([pixels for _, pixels in named])


def check_once(names: Sequence[str]) -> None:
    """Raise UserError if two images have the same id, as they would count as one."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"images: '{twice}' occurs twice, and would count as one image; give it once, or tell the two apart by "
            "image_ids"
        )


def _checked(image_ids: Sequence[str], images: int) -> list[str]:
    names = per_image([image_ids] if isinstance(image_ids, str) else image_ids, "image_ids", images, "name every image")
    odd = next((name for name in names if not isinstance(name, str) or not name), None)
    if odd is not None:
        raise UserError(f"image_ids: each must be a text that is not empty, got {odd!r}; name every image")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"image_ids: '{twice}' occurs twice; give each image its own")
    broken = next((name for name in names if not _utf8(name)), None)
    if broken is not None:
        raise UserError(f"image_ids: {broken!a} is not valid UTF-8; write it otherwise")
    return [str(name) for name in names]


def _utf8(text: str) -> bool:
    return text == text.encode(errors="replace").decode()


def _hash(content: bytes, digits: int) -> str:
    return hashlib.blake2b(content, digest_size=digits // 2).hexdigest()


def _pixels_id(pixels: Tensor) -> str:
    """16 hexadecimal digits that identify pixels (C, H, W)."""
    return _hash(f"{tuple(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes(), 16)


def _several(images: Any, resize: int, crop: int, channels: int) -> list[tuple[str, Tensor]]:
    """Ids and pixels of the images of a folder, or of files, pictures and arrays."""
    if isinstance(images, (str, Path)) and (is_folder(images) or holds_many(str(images))):
        listed = list_dataset("images", str(images), arrays=channels != RGB)
        left_out = {kind: count for kind, count in listed.left_out.items() if kind != HIDDEN}
        if left_out:
            warn(f"images: {in_words(left_out)}", UserWarning, stacklevel=4)
        rows = listed.images.select("image_id", "uri", "place").iter_rows()
        return [(name, _listed(name, uri, place, resize, crop, channels)) for name, uri, place in rows]
    alone = isinstance(images, (str, Path, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim == 3)
    return [_single(image, resize, crop, channels) for image in ([images] if alone else images)]


def _listed(name: str, uri: str, place: str | None, resize: int, crop: int, channels: int) -> Tensor:
    """Pixels of a listed image, which may lie inside a file with many."""
    if place is None:
        return _single(uri, resize, crop, channels)[1]
    where = f"{short(name)} in {uri}"
    try:
        content = read_picture(uri, place)
    except MissingObjectError as error:
        raise UserError(f"images: {error}; correct the path") from error
    except ImageError as error:
        raise UserError(f"images: '{where}' cannot be used: {error.message}") from error
    return photo(where, "images", resize, crop, content, channels)


def _file_id(image: str | Path, content: bytes) -> str:
    """A file's name and 12 hexadecimal digits of its bytes: the same in every folder, different for every photo."""
    name = str(image).rstrip("/").rpartition("/")[2]
    if not _utf8(name):
        raise UserError(f"images: the file name {name!a} is not valid UTF-8; rename it")
    return f"{name}@{_hash(content, 12)}"


def _single(
    image: str | Path | Image.Image | NDArray[Any] | Tensor, resize: int, crop: int, channels: int
) -> tuple[str, Tensor]:
    """Id and pixels of one image."""
    if isinstance(image, (str, Path, Image.Image)):
        if isinstance(image, Image.Image):
            pixels = photo(image, "images", resize, crop, channels=channels)
            return _pixels_id(pixels), pixels
        content = _content(image, "images")
        return _file_id(image, content), photo(image, "images", resize, crop, content, channels)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise TypeError(f"images: each must be a path, a picture, an array or a tensor, got {type(image).__name__}; "
                        "of a data loader's batches, pass only the images")  # fmt: skip
    tensor = torch.from_numpy(image.copy()) if isinstance(image, np.ndarray) else image
    if tensor.ndim != 3 or tensor.shape[0] != channels:
        raise ValueError(
            f"images: each array must have the shape ({channels}, H, W), got {tuple(tensor.shape)}; put colours first, "
            "or pass it as a picture: PIL.Image.fromarray; for other channels give mean and std as many values"
        )
    pixels = levels(tensor[None], channels)[0]
    return _pixels_id(pixels), pixels
