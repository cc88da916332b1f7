"""Frost: photographs of it, which a package of its own carries; and a made-up texture under its own name."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.perturb.registry import check_streams, each, imagenet_c, perturbation, within
from camrobust.core.perturb.weather import cloud_map

PACKAGE = "imagecorruptions"
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The sixth photograph was never drawn for ImageNet-C: its code draws a number below 5."""
SEVERITIES = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
ICE = (0.82, 0.91, 1.0)
DECAY = 1.6


def _folder() -> Path | None:
    """Where the photographs lie; the package is found, not imported."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "frost"
        if all((folder / name).is_file() for name in PHOTOGRAPHS):
            return folder
    return None


def photographs_needed() -> None:
    """Refuse frost without its photographs.

    Raises:
        UserError: the package that carries them is not installed.
    """
    if _folder() is None:
        raise UserError(
            "perturbations: frost needs the photographs in the package imagecorruptions-imaug (Apache-2.0), which is "
            "not installed; pip install 'camrobust[frost]', or take frost_procedural, which is not ImageNet-C"
        )


@lru_cache(maxsize=32)
def _photograph(name: str, height: int, width: int, device: torch.device) -> Tensor:
    """(3, h, w) float32 in [0, 1], larger than (height, width): enlarged where the file is not."""
    photographs_needed()
    photograph = Image.open((_folder() or Path()) / name).convert("RGB")
    short = max((height + 1) / photograph.height, (width + 1) / photograph.width)
    if short > 1:
        size = (int(np.ceil(photograph.width * short)), int(np.ceil(photograph.height * short)))
        photograph = photograph.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(photograph)).permute(2, 0, 1).float().div(255).to(device)


@imagenet_c(
    "frost", parameter=("image", "frost"), unit="times the picture, times the frost", severities=SEVERITIES,
    family="weather", random=True, ready=photographs_needed,
    check=each(
        within("frost", "image", 0, 10, "times the picture"), within("frost", "frost", 0, 10, "times the frost")
    ),
)  # fmt: skip
def frost(images: Tensor, image: float, frost: float, draws: Draws) -> Tensor:
    """A piece of a photograph of frost laid over the picture.

    As in the original ImageNet-C: one of five photographs, unscaled, at a random place. (imagecorruptions enlarges them
    by a tenth and draws from six.) Where an image is larger than a photograph, the photograph is enlarged to cover it.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        image: weight of the picture.
        frost: weight of the frost.
        draws: one random stream per image; gives the photograph and the place.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        UserError: the photographs are not installed.
        ValueError: draws does not hold B streams.

    References:
        Hendrycks & Dietterich 2019, arXiv 1903.12261, "Frost".
    """
    check_streams("frost", images, draws)
    H, W = images.shape[2:]
    pieces = []
    for which, down, across in draws.uniform((3,)).tolist():
        photograph = _photograph(PHOTOGRAPHS[int(which * len(PHOTOGRAPHS))], H, W, images.device)
        top, left = int(down * (photograph.shape[1] - H)), int(across * (photograph.shape[2] - W))
        pieces.append(photograph[:, top : top + H, left : left + W])
    return (images * image + torch.stack(pieces) * frost).clamp(0, 1)


@perturbation(
    "frost_procedural", parameter=("image", "frost"), unit="times the picture, times the frost", severities=SEVERITIES,
    family="weather", random=True, source="camrobust",
    check=each(
        within("frost_procedural", "image", 0, 10, "times the picture"),
        within("frost_procedural", "frost", 0, 10, "times the frost"),
    ),
)  # fmt: skip
def frost_procedural(images: Tensor, image: float, frost: float, draws: Draws) -> Tensor:
    """A made-up texture of ice laid over the picture: bright veins where two cloud maps cross their middle.

    Blended as `frost` is, but no photograph: not ImageNet-C.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        image: weight of the picture.
        frost: weight of the ice.
        draws: one random stream per image.

    Returns:
        (B, 3, H, W) float32 in [0, 1], a new tensor.

    Raises:
        ValueError: draws does not hold B streams.
    """
    check_streams("frost_procedural", images, draws)
    first, second = (1 - (cloud_map(images, DECAY, draws) * 2 - 1).abs() for _ in range(2))
    veins = torch.maximum(first * first * first, second * second * second)
    ice = veins * torch.tensor(ICE, device=images.device)[:, None, None]
    return (images * image + ice * frost).clamp(0, 1)
