"""Pictures of photos and maps, with numpy and Pillow alone."""

import base64
import warnings
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line

RAMP = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
     (252, 255, 164)],
    dtype=np.float64,
)  # fmt: skip
"""Eight points of the perceptually uniform ramp "inferno"."""
MOST_SIDE_PX = 4096
"""Longest side of a picture or a map that is read; a crop is not larger."""
SIDE_PX = 192
"""Longest side of a picture on the page."""
OUTLINE = (255, 255, 255)
STRIPE_PX, LIGHT, DARK = 4, 110, 0.25
"""Width of the stripes on undecided segments, how much lighter every other one is, and what is left of the light on
segments that are certainly not in the top."""


def colour(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [0, 1], (H, W), to RGB, (H, W, 3)."""
    places = np.clip(values, 0, 1) * (len(RAMP) - 1)
    low = np.minimum(places.astype(int), len(RAMP) - 2)
    share = (places - low)[..., None]
    mixed: NDArray[np.uint8] = (RAMP[low] * (1 - share) + RAMP[low + 1] * share).round().astype(np.uint8)
    return mixed


def ramp() -> str:
    """The colours of a map from the least to the greatest value, as a CSS gradient."""
    return f"linear-gradient(to right, {', '.join(f'rgb({r:.0f} {g:.0f} {b:.0f})' for r, g, b in RAMP)})"


def overlay(photo: NDArray[np.uint8], values: NDArray[Any], strength: float = 0.55) -> Image.Image:
    """A map over its photo.

    Args:
        photo: (H, W, 3) uint8.
        values: (h, w) of any range; drawn min-max scaled; NaN counts as 0, a constant map as the least value.
        strength: opacity of the map, [0, 1].
    """
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    scaled = (finite - low) / (high - low) if high > low else np.zeros_like(finite)
    size = (photo.shape[1], photo.shape[0])
    upsampled = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
    mixed = grey * (1 - strength) + colour(upsampled.astype(np.float64)) * strength
    return Image.fromarray(mixed.round().astype(np.uint8))


def outlined(photo: NDArray[np.uint8], outlines: bytes | None) -> Image.Image:
    """A photo with its segments' borders drawn white between two dark lines, so that they show on any photo."""
    if outlines is None:
        return Image.fromarray(photo)
    border = decoded(outlines, "PNG", "L")[..., None] > 0
    if border.shape[:2] != photo.shape[:2]:
        raise UserError("report: an outline in maps/ is not of its photo's size; get a sound copy of the run")
    around = np.pad(border[..., 0], 1)
    beside = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    dark = (photo.astype(np.uint16) // 3).astype(np.uint8)
    drawn = np.where(beside[..., None], dark, photo)
    return Image.fromarray(np.where(border, np.array(OUTLINE, np.uint8), drawn))


def membership(photo: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Image.Image:
    """A photo in colour where its segments are certainly in the top, dark where they are certainly not, else striped.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W): white in, black out, anything between undecided.

    Raises:
        UserError: they are not of one size.
    """
    if mask.shape != photo.shape[:2]:
        raise UserError("report: a mask in certificates/ is not of its photo's size; get a sound copy of the run")
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
    places = np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1]))
    striped = np.where((places // STRIPE_PX % 2 == 0)[..., None], LIGHT + (1 - LIGHT / 255) * grey, grey)
    inside, out = (mask == value for value in (255, 0))
    drawn = np.where(inside[..., None], photo, np.where(out[..., None], grey * DARK, striped))
    return Image.fromarray(drawn.round().astype(np.uint8))


def decoded(content: bytes, form: Literal["JPEG", "PNG"], mode: str) -> NDArray[np.uint8]:
    """Decode a picture of the gallery, which may come from a stranger.

    Raises:
        UserError: it has another format than `form`, is damaged, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(BytesIO(content), formats=(form,)) as picture:
                fits = max(picture.size) <= MOST_SIDE_PX
                pixels = np.asarray(picture.convert(mode)) if fits else None
    except Exception as error:  # a decoder may raise anything
        raise UserError(
            f"report: a picture in maps/ is no {form} that can be read ({first_line(error)}); get a sound copy of the "
            "run"
        ) from error
    if pixels is None:
        raise UserError(f"report: a picture in maps/ is larger than {MOST_SIDE_PX} px; get a sound copy of the run")
    return pixels


def data_uri(picture: Image.Image) -> str:
    """A picture as a data: address: JPEG, no side longer than SIDE_PX."""
    sink = BytesIO()
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    picture.save(sink, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
