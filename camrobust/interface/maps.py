"""Maps that draw themselves in a notebook, and one map drawn over its photo."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from camrobust.contract.defaults import CROP, RESIZE
from camrobust.contract.errors import UserError
from camrobust.core.channels import as_photo
from camrobust.interface.certified_grid import certain_segments, certified_grid
from camrobust.interface.inputs import levels, photo
from camrobust.interface.notebook import pictures
from camrobust.report.pictures import overlay as overlaid

SHOWN = 6
"""Number of images that a notebook shows with their maps."""
HASHED = re.compile(r"(.+)@[0-9a-f]{12}")
"""The id that `interface.inputs` gives a file: its name and a hash of its bytes."""
PIXELS = re.compile(r"[0-9a-f]{16}")
"""The id of an image without a name."""


class Maps(dict[str, Tensor]):
    """Maps (B, h, w) by CAM; a notebook draws them over the first images.

    Args:
        maps: maps by CAM.
        images: the images, (B, C, H, W) uint8 or in [0, 1]; the first `SHOWN` are kept.
        names: of the images, as `explain` names them; None for their numbers.
        predicted: what the model says of each of the first images, in words; None to say nothing.
        certificates: rows with masks of every image, columns as `certificates.CERTIFICATES`, and then all images are
            kept; None where none were asked for.
        classes: names of the classes; empty where they are unknown.

    Attributes:
        certificates: as given.
    """

    def __init__(
        self, maps: Mapping[str, Tensor], images: Tensor, names: Sequence[str] | None = None,
        predicted: Sequence[str] | None = None, certificates: pl.DataFrame | None = None, classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(maps)
        self.certificates = certificates
        self._by_image = [] if certificates is None else certificates.partition_by("image_id", maintain_order=True)
        self._count, self._classes = len(images), classes
        kept = images[:SHOWN] if certificates is None else images
        self._photos = as_photo(kept).permute(0, 2, 3, 1).cpu().numpy()
        shown = range(len(kept[:SHOWN]))
        self._names = [_title(number, names[number] if names else "") for number in shown]
        self._predicted = [predicted[number] if predicted else "" for number in shown]

    def __repr__(self) -> str:
        """The shapes, not the numbers."""
        shapes = ", ".join(f"{name}: {tuple(maps.shape)}" for name, maps in self.items())
        return f"Maps({shapes})"

    def _repr_html_(self) -> str:
        maps = {name: maps[:SHOWN].float().cpu().numpy() for name, maps in self.items()}
        photos = self._photos[:SHOWN]
        certain = [_nearest(*pair) for pair in zip(self._by_image, photos, strict=False)]
        return pictures(photos, maps, self._names, self._predicted, self._count, certain)

    def certain(self, image: int = 0) -> Image.Image:
        """What is certain about the segments of an image, for each CAM, sigma and radius.

        In colour the segments that are certain to be in the top of the order that is averaged over noise, dark those
        that are certain to be outside of it, striped the others (docs/certificates.md).

        Args:
            image: its number among the images.

        Raises:
            UserError: there are no certificates, or no such image.

        Examples:
            >>> import camrobust, torch, torchvision
            >>> model, photos = torchvision.models.squeezenet1_1(), torch.rand(2, 3, 64, 64)
            >>> maps = camrobust.explain(model, photos, certify={"samples": 20, "pilot": 5, "radii": [0, 0.1]})
            >>> maps.certain(1).size  # a notebook shows the picture itself
            (614, 540)
        """
        if self.certificates is None:
            raise UserError("certain: there are no certificates of these maps; call explain with certify=True")
        if not 0 <= image < self._count:
            raise UserError(f"certain: image must be a number from 0 to {self._count - 1}, got {image}")
        return certified_grid(self._by_image[image].to_dicts(), self._photos[image], self._classes)


def _nearest(rows: pl.DataFrame, photo: NDArray[np.uint8]) -> dict[str, Image.Image]:
    """What is certain about each CAM of a photo at the smallest sigma and radius, by title."""
    first = rows.sort("sigma", "radius", maintain_order=True).unique("cam", keep="first", maintain_order=True)
    return {
        f"{row['cam']}: certain within {row['radius']:.3g} (sigma {row['sigma']:g})": certain_segments(row, photo)
        for row in first.iter_rows(named=True)
    }


def _title(number: int, name: str) -> str:
    """What a notebook calls an image: its file, or its number where it has no name."""
    if not name or PIXELS.fullmatch(name):
        return f"image {number}"
    file = HASHED.fullmatch(name)
    return file[1] if file else name


def overlay(
    image: str | Path | Tensor | NDArray[Any] | Image.Image, values: Tensor | NDArray[Any], strength: float = 0.55
) -> Image.Image:
    """A map drawn over its photo.

    Args:
        image: (C, H, W) tensor, uint8 or in [0, 1], before normalisation (drawn as the grey mean of its channels unless
            there are three); or (H, W, 3) uint8 array; or a picture; or
            a path, whose photo is cropped as `evaluate` and `explain` do by default.
        values: (h, w), a raw map. It is min-max scaled and upsampled; NaN and constant maps get the lowest colour.
        strength: opacity of the map, [0, 1].

    Raises:
        ValueError: an image or a map of another shape, or a strength out of its range.

    Examples:
        >>> import camrobust, torch
        >>> photo, values = torch.rand(3, 64, 64), torch.rand(7, 7)
        >>> camrobust.overlay(photo, values).size
        (64, 64)
    """
    if isinstance(image, (str, Path)):
        image = photo(image, "image", RESIZE, CROP)
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert("RGB"))
    elif isinstance(image, Tensor):
        array = as_photo(levels(image[None], image.shape[0]))[0].permute(1, 2, 0).numpy()
    else:
        array = image
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image: must be (H, W, 3) uint8, got {array.shape} {array.dtype}; pass a tensor (3, H, W)")
    if values.ndim != 2:
        raise ValueError(f"values: must be one map (h, w), got {tuple(values.shape)}; choose one of the batch")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: must be in [0, 1], got {strength}")
    field = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
    return overlaid(array, field, strength)
