"""What a configuration says about one model, and what a builder makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from camrobust.contract.quoting import short

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
UNTRAINED = "none"
"""`torchvision:NAME@none`, `timm:NAME@none` and `hf:NAME@none` leave the weights random."""


@dataclass(frozen=True)
class ModelSpec:
    """What a configuration says about one model.

    Attributes:
        name: its name in the results.
        builder: "torchvision:NAME[@WEIGHTS]", "timm:NAME[@none]", "hf:NAME_OR_FOLDER" or "package.module:function".
        weights: address of a weights file (.safetensors, or .pth/.pt read with weights_only); None for the builder's
            own weights.
        target_layer: dotted name of a submodule; None to discover it.
        mean: per-channel mean of the normalisation; None for the builder's own.
        std: per-channel standard deviation of the normalisation; None for the builder's own.
        arguments: keyword arguments for the builder.
        head: how the outputs are read, see `contract.heads`; None tells one logit from several.
    """

    name: str
    builder: str
    weights: str | None = None
    target_layer: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None


@dataclass
class Built:
    """A module fresh from its builder, with what it expects of images.

    Attributes:
        module: the network.
        mean: of the normalisation.
        std: of the normalisation.
        classes: names of the classes in the order of the logits; empty where the builder knows none.
        size: shorter side after resizing and side of the crop that its weights are for, px; None where unknown.
    """

    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def some(keys: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    first = ", ".join(short(key) for key in keys[:3])
    return f"{first} and {len(keys) - 3} more" if len(keys) > 3 else first
