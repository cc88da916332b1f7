"""Lists of perturbations by name."""

from collections.abc import Mapping, Sequence

from camrobust.contract.defaults import RGB
from camrobust.contract.registry import unknown
from camrobust.core.channels import spoken
from camrobust.core.perturb.registry import PERTURBATIONS, without_model

PREFIX = "preset:"

IMAGENET_C_15 = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
IMAGENET_C_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
PAPER = ("gaussian_noise", "salt_pepper", "speckle_noise", "shot_noise", "uniform_noise", "fgsm", "pgd")
"""The perturbations of arXiv 2508.18154."""
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "salt_pepper", "speckle_noise", "uniform_noise")


def _five(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}:1-5" for name in names)


PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("gaussian_noise:1,3,5", "salt_pepper:1,3,5"),
    "imagenet-c": _five(IMAGENET_C_15),
    "imagenet-c-extra": _five(IMAGENET_C_EXTRA),
    "noise": _five(NOISE),
    "blur": _five(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")),
    "weather": _five(("snow", "frost", "fog", "brightness", "spatter")),
    "adversarial": _five(("fgsm", "pgd")),
    "paper": _five(PAPER),
    "digital": _five(("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate")),
    "all": (),
}
"""Lists by name, used as "preset:NAME". `all`: every perturbation that needs no model, at severities 1 to 5. A list
leaves out what is not defined for the images' number of channels."""


def preset(name: str, channels: int = RGB) -> tuple[str, ...]:
    """The perturbations of a preset that are defined for so many channels, as a configuration would name them.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    every = PRESETS[name] or _five(without_model())
    return tuple(spec for spec in every if PERTURBATIONS[_name(spec)].takes(channels))


def _name(spec: str) -> str:
    return spec.partition(":")[0]


def left_out(specs: Sequence[str | Mapping[str, object]], channels: int) -> tuple[str, ...]:
    """One sentence for each preset that leaves perturbations out, because they are not defined for the images.

    Args:
        specs: as for `variants`.
        channels: of the images.

    Raises:
        UserError: there is no such preset.
    """
    sentences = []
    for name in (str(spec).removeprefix(PREFIX) for spec in specs if str(spec).startswith(PREFIX)):
        kept = preset(name, channels)
        missing = [_name(spec) for spec in preset(name) if spec not in kept]
        if missing:
            sentences.append(
                f"{PREFIX}{name} leaves out {', '.join(missing)}: not defined for images of {spoken(channels)}"
            )
    return tuple(sentences)
