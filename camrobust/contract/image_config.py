"""The part of a configuration that says how a photograph becomes the square that a network takes."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from camrobust.contract.config_parts import StrictPart
from camrobust.contract.defaults import CROP, MOST_CHANNELS, RESIZE

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
OWN = ("resize", "crop", "interpolation", "aspect")
"""What a published model's preprocessing says, where the configuration says none of it."""


class ImageConfig(StrictPart):
    """How a photograph is resized and cropped; where nothing is said, as the models' published weights want it."""

    resize: int = Field(
        RESIZE,
        ge=1,
        le=4096,
        description="shorter side after resizing, px; default: that of the models' weights, else 256",
    )
    crop: int = Field(
        CROP, ge=8, le=4096, description="side of the centre crop, px; default: that of the models' weights, else 224"
    )
    interpolation: Interpolation = Field(
        "bilinear", description="filter of the resizing, always with antialiasing; default: that of the weights"
    )
    aspect: Literal["keep", "squash"] = Field(
        "keep", description="squash: both sides become resize, whatever the photo's shape; default: as for the weights"
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=MOST_CHANNELS,
        description="channels of the images, 1 for greys; default: as many as mean and std of the models have values, "
        "else 3; see [your own model](own-model.md#other-than-three-channels)",
    )

    @property
    def is_own(self) -> bool:
        """Whether the configuration leaves size and filter to the models."""
        return not self.model_fields_set.intersection(OWN)

    @property
    def in_words(self) -> str:
        """As a sentence names it: `resize 256 px, crop 224 px, bilinear`."""
        squash = ", squashed" if self.aspect == "squash" else ""
        return f"resize {self.resize} px, crop {self.crop} px, {self.interpolation}{squash}"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop must be at most resize ({self.resize} px), got {self.crop}")
        return self
