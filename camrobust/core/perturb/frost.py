"""Frost from photographs, which another package carries, and a made-up texture under a name of its own."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.errors import UserError
from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.perturb.registry import imagenet_c, perturbation
from camrobust.core.perturb.weather import cloud_map

PACKAGE = "imagecorruptions"
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""Five of six: ImageNet-C's code draws a number below 5, so that it never used the sixth photograph."""
SEVERITIES = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
ICE = (0.82, 0.91, 1.0)
DECAY = 1.6
PictureWeight = Annotated[float, Parameter(0, 10, "times the picture")]
FrostWeight = Annotated[float, Parameter(0, 10, "times the frost")]


def _folder() -> Path | None:
    """The folder of the photographs; the package that carries them is not imported."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "frost"
        if all((folder / name).is_file() for name in PHOTOGRAPHS):
            return folder
    return None


def photographs_needed() -> None:
    """Check that the photographs are there.

    Raises:
        UserError: the package that carries them is not installed.
    """
    if _folder() is None:
        raise UserError(
            "perturbations: frost needs the photographs in the package imagecorruptions-imaug (Apache-2.0), which is "
            "not installed; pip install 'camrobust[frost]', or use frost_procedural, which is not ImageNet-C"
        )


@lru_cache(maxsize=32)
def _photograph(name: str, height: int, width: int, device: torch.device) -> Tensor:
    """(3, h, w) float32 in [0, 1], larger than (height, width); enlarged if the file is smaller."""
    photographs_needed()
    photograph = Image.open((_folder() or Path()) / name).convert("RGB")
    factor = max((height + 1) / photograph.height, (width + 1) / photograph.width)
    if factor > 1:
        size = (int(np.ceil(photograph.width * factor)), int(np.ceil(photograph.height * factor)))
        photograph = photograph.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(photograph)).permute(2, 0, 1).float().div(255).to(device)


@imagenet_c(family="weather", severities=SEVERITIES, channels=(RGB,), ready=photographs_needed)
def frost(images: Tensor, image: PictureWeight, frost: FrostWeight, draws: Draws) -> Tensor:
    """Lay a piece of a photograph of frost over the picture.

    As in the original ImageNet-C: one of five photographs, unscaled, at a random place. (imagecorruptions enlarges them
    by a tenth and draws from six.) A photograph smaller than the image is enlarged to cover it.

    Raises:
        UserError: the photographs are not installed.
    """
    H, W = images.shape[2:]
    pieces = []
    for which, down, across in draws.uniform((3,)).tolist():
        photograph = _photograph(PHOTOGRAPHS[int(which * len(PHOTOGRAPHS))], H, W, images.device)
        top, left = int(down * (photograph.shape[1] - H)), int(across * (photograph.shape[2] - W))
        pieces.append(photograph[:, top : top + H, left : left + W])
    return (images * image + torch.stack(pieces) * frost).clamp(0, 1)


@perturbation(family="weather", severities=SEVERITIES, source="camrobust")
def frost_procedural(images: Tensor, image: PictureWeight, frost: FrostWeight, draws: Draws) -> Tensor:
    """Lay a made-up texture of ice over the picture: bright veins where two cloud maps cross their middle level.

    Blended like `frost`, but without photographs: this is not ImageNet-C.
    """
    first, second = (1 - (cloud_map(images, DECAY, draws) * 2 - 1).abs() for _ in range(2))
    veins = torch.maximum(first * first * first, second * second * second)
    ice = veins * torch.tensor(ICE, device=images.device)[:, None, None]
    return (images * image + ice * frost).clamp(0, 1)
