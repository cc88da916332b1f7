"""The configuration of a run, and the digest of the settings that change numbers."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from camrobust.contract.certify_config import CertifyConfig
from camrobust.contract.config_parts import (
    ClusterConfig,
    DatasetConfig,
    MetricConfig,
    ModuleName,
    Name,
    SegmentsConfig,
    Spec,
    StrictPart,
    SummaryConfig,
)
from camrobust.contract.defaults import RGB
from camrobust.contract.image_config import ImageConfig
from camrobust.contract.model_config import ModelConfig, model_shorthand
from camrobust.contract.plain_yaml import check_plain
from camrobust.contract.secrecy import refuse_secrets

COLUMNS = ("image_column", "label_column")


class RunConfig(StrictPart):
    """A whole configuration."""

    output: Name = Field(description="folder, or s3://, gs:// or az:// prefix, for this run's results")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random draw")
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1, description="one or more sets of photographs")
    models: tuple[Annotated[ModelConfig, BeforeValidator(model_shorthand)], ...] = Field(
        min_length=1, description="one or more classifiers; a text alone is a builder"
    )
    image: ImageConfig = ImageConfig()
    plugins: tuple[ModuleName, ...] = Field(
        (), max_length=50, description="modules of your own that register methods, such as mypkg.cams"
    )
    cams: tuple[Name, ...] = Field(min_length=1, description="names from `camrobust list cams`")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="in which the models' layers compute; maps and scores are always float32"
    )
    compile: bool = Field(
        False, description="whether torch compiles the layers up to the target layer; needs a C++ compiler (g++)"
    )
    perturbations: tuple[Spec | dict[str, Any], ...] = Field(min_length=1, description="NAME:LEVELS or {NAME: {…}}")
    resave_jpeg_quality: int | None = Field(
        None, ge=1, le=100, description="save each perturbed image as a JPEG of this quality first; ImageNet-C used 85"
    )
    metric: MetricConfig = MetricConfig()
    summary: SummaryConfig = SummaryConfig()
    segments: SegmentsConfig = SegmentsConfig()
    certify: CertifyConfig | None = Field(
        None,
        description="guarantees for every map, {} for all defaults; default: none; see [certificates](certificates.md)",
    )
    gallery_images: int = Field(64, ge=0, description="images whose maps are kept for the report")
    max_failure_share: float = Field(0.01, ge=0, le=1, description="share of failed images above which the run fails")
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Refuse what must not be in run.json: secrets, and anything but plain data."""
        if isinstance(data, Mapping):
            check_plain(data)
            refuse_secrets(data)
        return data

    @model_validator(mode="after")
    def _unique(self) -> Self:
        for what, names in (
            ("datasets", [one.name for one in self.datasets]),
            ("models", [one.name for one in self.models]),
            ("cams", list(self.cams)),
            ("plugins", list(self.plugins)),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} must have different names, got '{twice[0]}' twice")
        return self

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        counts = sorted({*self._named_channels(), *([self.image.channels] if self.image.channels else [])})
        if len(counts) > 1:
            raise ValueError(
                "all models of a run must take images of one number of channels (mean, std, image.channels), got "
                f"{' and '.join(map(str, counts))}; make a run for each"
            )
        if self.resave_jpeg_quality is not None and self.channels not in (1, RGB):
            raise ValueError(
                f"resave_jpeg_quality needs images of 1 or {RGB} channels, got {self.channels}; leave it out"
            )
        return self

    def _named_channels(self) -> set[int]:
        """How many channels the normalisations have that the configuration names."""
        return {len(model.mean) for model in self.models if model.mean is not None} | {
            len(model.std) for model in self.models if model.std is not None
        }

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.image.channels or max(self._named_channels(), default=RGB)

    def numbers(self) -> dict[str, Any]:
        """The settings that change numbers, as plain data.

        Plugins are not in it, because a digest must not need an import. run.json records a hash of their source
        instead, and it is compared before the run is resumed. It covers no module outside a plugin's own package.
        """
        ways: dict[str, Any] = dict.fromkeys(
            ("output", "cluster", "gallery_images", "max_failure_share", "plugins", "summary"), True
        )
        # Runs from before there was compiled code, exclude, certify, its tries or the columns below keep their digest.
        ways |= {key: True for key in ("compile", "certify") if not getattr(self, key)}
        if self.certify is not None and not self.certify.tries:
            ways["certify"] = {"tries"}
        # What says nothing new is left out, so that runs from before it could be said keep their digest.
        usual = ImageConfig(channels=max(self._named_channels(), default=RGB))
        ways["image"] = {
            name
            for name in ("channels", "interpolation", "aspect")
            if getattr(self.image, name) in (None, getattr(usual, name))
        }
        ways["datasets"] = {
            place: {
                "access",
                *(name for name in ("exclude", "label_names", *COLUMNS) if not getattr(dataset, name)),
            }
            for place, dataset in enumerate(self.datasets)
        }
        # Runs from before there were heads and classes_kept keep their digest.
        ways["models"] = {
            place: {"classes", *(name for name in ("head", "classes_kept") if not getattr(model, name))}
            for place, model in enumerate(self.models)
        }
        return self.model_dump(mode="json", exclude=ways)

    def digest(self) -> str:
        """Sixteen hexadecimal digits made of the settings that change numbers."""
        return hashlib.sha256(json.dumps(self.numbers(), sort_keys=True).encode()).hexdigest()[:16]


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the keys in which two plain structures differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [name for key in keys for name in differing_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [name for place, (a, b) in pairs for name in differing_keys(a, b, f"{prefix}{place}.")]
    return [] if old == new else [prefix.removesuffix(".")]
