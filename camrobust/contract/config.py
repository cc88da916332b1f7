"""The configuration of a run: typed, frozen, from YAML plus overrides; and the digest of what changes numbers."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from camrobust.contract.defaults import CROP, RESIZE
from camrobust.contract.errors import UserError
from camrobust.contract.former_names import SETTINGS
from camrobust.contract.plain_yaml import check_plain, read_text, read_yaml
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown
from camrobust.contract.secrecy import refuse_secrets
from camrobust.contract.segmenters import DEFAULT, SEGMENTERS

Name = Annotated[str, Field(min_length=1, max_length=200)]
Address = Annotated[str, Field(min_length=1, max_length=4096)]
"""As long as Linux takes a path."""

Spec = Annotated[str, Field(max_length=1000)]
LONGEST_INDEX = 10
LONGEST_FOLDER = 240
"""Of `dataset=NAME` and `model=NAME`; file systems take 255 bytes."""
UNIONS = ("str", "constrained-str", "dict[str,any]", "tuple[str, ...]")
"""What pydantic adds to a place to say which kind of several it tried."""
KINDS = {
    type(None): "nothing", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def _shorthand(value: Any) -> Any:
    """A model may be written as its builder alone."""
    return {"builder": value} if isinstance(value, str) else value


def _folder_name(value: str) -> str:
    """Names of datasets and models are names of folders, with all but letters and digits of ASCII percent-encoded."""
    if len(quote(value, safe="")) > LONGEST_FOLDER:
        raise ValueError(f"must have at most {LONGEST_FOLDER} characters once it is percent-encoded; shorten it")
    return value


FolderName = Annotated[Name, AfterValidator(_folder_name)]


class DatasetConfig(_Strict):
    """Where photographs are."""

    name: FolderName = Field(description="as it stands in the results")
    images: Name = Field(
        description="folder, s3://, gs:// or az:// prefix, or a csv/parquet manifest with a column uri"
    )
    labels: Address | None = Field(None, description="csv or parquet with columns image_id (or file) and label")
    access: Literal["credentials", "anonymous", "requester_pays"] = Field(
        "credentials",
        description="how a bucket is read: a public one may need anonymous; requester_pays is for S3",
    )


class ModelConfig(_Strict):
    """One classifier."""

    name: FolderName = Field(
        "", validate_default=False, description="as it stands in the results; default: the builder"
    )
    builder: Name = Field(description="torchvision:NAME[@WEIGHTS], timm:NAME or package.module:function")
    weights: Address | None = Field(None, description=".safetensors or .pth file, a path or s3://…, gs://…, az://…")
    target_layer: Name | None = Field(None, description="dotted name of a submodule; default: discovered")
    mean: tuple[float, float, float] | None = Field(None, description="of the normalisation; default: the builder's")
    std: tuple[float, float, float] | None = Field(None, description="of the normalisation; default: the builder's")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the builder")
    classes: Address | tuple[str, ...] | None = Field(
        None,
        description="names in the order of the logits: a list, a text file with one per line, or imagenet; changes no "
        "number; default: known of published weights only",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("builder"), str):
            return {**data, "name": re.sub(r"^(torchvision|timm):", "", data["builder"])}
        return data

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        wrong = [value] if not isinstance(value, (list, tuple)) else [one for one in value if not isinstance(one, str)]
        if value is not None and not isinstance(value, str) and wrong:
            raise ValueError(
                f"must be a list of names, the path of a text file or imagenet, got {shown(wrong[0])}; quote it"
            )
        return value


class ImageConfig(_Strict):
    """Geometry of the crop that everything acts on."""

    resize: int = Field(RESIZE, ge=1, le=4096, description="shorter side after resizing, px")
    crop: int = Field(CROP, ge=8, le=4096, description="side of the centre crop, px")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop must be at most resize ({self.resize} px), got {self.crop}")
        return self


class MetricConfig(_Strict):
    """How two maps are compared and averaged."""

    rbo_p: float = Field(0.9, gt=0, lt=1, description="persistence of rank-biased overlap: weight of the top ranks")
    ties: Literal["b", "a", "w", "index"] = Field("b", description="tie rule of rank-biased overlap")
    explained_class: Literal["predicted", "clean"] = Field(
        "predicted", description="class explained on the perturbed image: its own prediction, or the clean image's"
    )
    average: Literal["macro", "micro"] = Field("macro", description="per image first, or over all pairs")
    similarities: tuple[Name, ...] | None = Field(
        None, description="measures beside rbo, from `camrobust list similarities`; default: all that cost little"
    )


class SummaryConfig(_Strict):
    """How the summaries are made; it changes no score row."""

    intervals: Literal["delta", "bootstrap"] = Field(
        "delta", description="of the summaries, clustered by image: linearised or resampled"
    )


class SegmentsConfig(BaseModel):
    """How an image is cut into segments; the other keys are the method's parameters, all of them once checked."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: Name = Field(DEFAULT, description="name from `camrobust list segments`")

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        method = data.get("method", DEFAULT)
        given = {name: value for name, value in data.items() if name != "method"}
        try:
            return {"method": method, **SEGMENTERS[str(method)].resolve(given)}
        except UserError as error:
            raise UserError(f"config: {error}") from error

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the method, by name."""
        return dict(self.model_extra or {})


class ClusterConfig(_Strict):
    """Where and how wide the work runs; changes no number."""

    gpus_per_explainer: float | None = Field(None, ge=0, description="default: 0.8 where the cluster has a GPU, else 0")
    gpus_per_perturber: float | None = Field(None, ge=0, description="default: 0.2 where the cluster has a GPU, else 0")
    explainers: tuple[int, int] | None = Field(None, description="least and most actors; default: by the cluster")
    perturbers: tuple[int, int] | None = Field(None, description="least and most actors; default: by the cluster")
    cpus_per_loader: float | None = Field(
        None, gt=0, description="of one loading task; default: 1, or 0.5 without a GPU"
    )
    accelerator: Name | None = Field(None, description="Ray accelerator type of the GPU nodes, for example A10G")
    gpu_labels: dict[str, str] | None = Field(
        None, description="Ray label selector of Perturb and Explain workers, for example {role: gpu}"
    )
    gpu_resources: dict[str, float] | None = Field(
        None, description="custom Ray resources that each Perturb and Explain worker takes"
    )
    loader_labels: dict[str, str] | None = Field(None, description="Ray label selector of loading tasks")
    batch: int | Literal["auto"] = Field("auto", description="variants in one forward pass; auto: by the memory")
    image_timeout_s: float = Field(
        600, gt=0, description="a worker that is longer at one image (in Explain: and one model) is ended"
    )
    no_progress_timeout_s: float = Field(900, gt=0, description="give up when nothing moved for so long")

    @field_validator("explainers", "perturbers")
    @classmethod
    def _ordered(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 1 <= value[0] <= value[1]:
            raise ValueError(f"must be [least, most] with 1 <= least <= most, got {list(value)}")
        return value

    @field_validator("batch")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"must be auto or at least 1, got {value}")
        return value


class RunConfig(_Strict):
    """Everything that a run is made from."""

    output: Name = Field(description="folder or s3://bucket/prefix for this run's results; no gs:// or az://")
    seed: int = Field(0, ge=0, lt=2**63, description="of every random draw")
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    models: tuple[Annotated[ModelConfig, BeforeValidator(_shorthand)], ...] = Field(min_length=1)
    image: ImageConfig = ImageConfig()
    cams: tuple[Name, ...] = Field(min_length=1, description="names from `camrobust list cams`")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="in which the models' layers compute; maps and scores are float32 in all of them"
    )
    perturbations: tuple[Spec | dict[str, Any], ...] = Field(min_length=1, description="NAME:LEVELS or {NAME: {…}}")
    resave_jpeg_quality: int | None = Field(
        None, ge=1, le=100, description="quality of a JPEG file that perturbed images go through; ImageNet-C has 85"
    )
    metric: MetricConfig = MetricConfig()
    summary: SummaryConfig = SummaryConfig()
    segments: SegmentsConfig = SegmentsConfig()
    gallery_images: int = Field(64, ge=0, description="images whose maps are kept for the report")
    max_failure_share: float = Field(0.01, ge=0, le=1, description="share of failed images above which the run fails")
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """What is written into run.json must be plain, and must not be secret."""
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
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} must have different names, got '{twice[0]}' twice")
        return self

    def numbers(self) -> dict[str, Any]:
        """The part that changes numbers, as plain data."""
        ways: dict[str, Any] = dict.fromkeys(
            ("output", "cluster", "gallery_images", "max_failure_share", "summary"), True
        )
        ways |= {"datasets": {"__all__": {"access"}}, "models": {"__all__": {"classes"}}}
        return self.model_dump(mode="json", exclude=ways)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the numbers of this configuration."""
        return hashlib.sha256(json.dumps(self.numbers(), sort_keys=True).encode()).hexdigest()[:16]


def load_config(path: str | Path, overrides: Sequence[str] = (), output: str | None = None) -> RunConfig:
    """Read a YAML file and apply `a.b=c` overrides.

    Args:
        path: of the YAML file.
        overrides: each `dotted.key=value`, the value in YAML.
        output: replaces the output of the file.

    Raises:
        UserError: no such file, a device, too large, not YAML, a key given twice, a secret, an unknown key (with the
            nearest one), a value out of its range.
    """
    data = read_yaml(read_text(Path(path)), f"config: '{short(str(path))}'")
    if not isinstance(data, dict):
        got = KINDS.get(type(data), type(data).__name__)
        raise UserError(f"config: '{short(str(path))}' must hold keys and values, got {got}; README.md has an example")
    for override in overrides:
        _override(data, override)
    if output is not None:
        data["output"] = output
    return parse_config(data)


def parse_config(data: Mapping[str, Any]) -> RunConfig:
    """A checked configuration from plain data; one sentence for the first mistake.

    Raises:
        UserError: an unknown key (with the nearest one), a missing key, a value out of its range.
    """
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        raise _first_mistake(error) from error


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        example = "for example --set metric.rbo_p=0.95"
        raise UserError(f"--set must be key=value, got '{short(override)}'; {example}")
    # The value is not repeated in any message: it may be secret.
    option = f"--set {short(key)}"
    value = read_yaml(text, f"{option}: the value")
    *parents, last = key.split(".")
    place: Any = data
    for parent in parents:
        place = _step(place, parent, option)
    if isinstance(place, list):
        place[_index(place, last, option)] = value
    else:
        place[last] = value


def _step(place: Any, key: str, option: str) -> Any:
    below = place[_index(place, key, option)] if isinstance(place, list) else place.setdefault(key, {})
    if not isinstance(below, (dict, list)):
        raise UserError(f"{option}: '{short(key)}' holds a single value, so nothing can be set inside it")
    return below


def _index(place: list[Any], key: str, option: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < LONGEST_INDEX) or int(key) >= len(place):
        raise UserError(f"{option}: '{short(key)}' must be a position from 0 to {len(place) - 1}")
    return int(key)


def _keys_at(location: Sequence[int | str]) -> list[str]:
    """The keys that the configuration knows at a place."""
    places: dict[str, type[_Strict]] = {
        "datasets": DatasetConfig, "models": ModelConfig, "image": ImageConfig, "metric": MetricConfig,
        "summary": SummaryConfig, "cluster": ClusterConfig,
    }  # fmt: skip
    model = places.get(str(location[0]), RunConfig) if len(location) > 1 else RunConfig
    return list(model.model_fields)


def _first_mistake(error: ValidationError) -> UserError:
    first = error.errors()[0]
    location = [part for part in first["loc"] if part not in UNIONS]
    where = _dotted(location)
    if first["type"] == "extra_forbidden":
        place = _dotted(location[:-1])
        if where in SETTINGS:
            return UserError(f"config: the key '{where}' is now called '{SETTINGS[where]}'")
        message = str(unknown("key", location[-1], _keys_at(location)))
        return UserError(f"config{': ' + place if place else ''}: {message}")
    if first["type"] == "missing" and isinstance(location[-1], int):
        place = _dotted(location[:-1])
        return UserError(f"config: {place} has too few values, {location[-1]}; give one for each channel")
    if first["type"] == "missing":
        return UserError(f"config: the key '{where}' is missing")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = first["input"]
    got = "" if isinstance(given, (dict, BaseModel)) or "got" in message else f", got {shown(given)}"
    return UserError(f"config: {where + ': ' if where else ''}{message}{got}")


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(short(str(part)) for part in location)


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the keys in which two plain structures differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [found for key in keys for found in differing_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for place, (a, b) in pairs for found in differing_keys(a, b, f"{prefix}{place}.")]
    return [] if old == new else [prefix.removesuffix(".")]
