"""The parts of a configuration: typed, frozen; a field's description is its line in the documentation."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.registry import MODULE
from camrobust.contract.segmenters import DEFAULT, SEGMENTERS

Name = Annotated[str, Field(min_length=1, max_length=200)]
Address = Annotated[str, Field(min_length=1, max_length=4096)]
"""Linux takes paths of this length at most."""
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
Spec = Annotated[str, Field(max_length=1000)]
LONGEST_FOLDER = 240
"""Characters of an encoded name in `dataset=NAME` and `model=NAME`; file systems take 255 bytes."""


class StrictPart(BaseModel):
    """A part that never changes and refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def one_or_several(value: Any) -> Any:
    """A text alone is a list of one."""
    return (value,) if isinstance(value, str) else value


def _folder_name(value: str) -> str:
    """A dataset's or a model's name, as it names a folder: percent-encoded but for ASCII letters and digits."""
    if len(quote(value, safe="")) > LONGEST_FOLDER:
        raise ValueError(f"must have at most {LONGEST_FOLDER} characters once it is percent-encoded; shorten it")
    return value


def _module_name(value: str) -> str:
    if not re.fullmatch(MODULE, value):
        raise ValueError(f"must be the dotted name of a module, such as mypkg.cams, got '{short(value)}'")
    return value


FolderName = Annotated[Name, AfterValidator(_folder_name)]
ModuleName = Annotated[Name, AfterValidator(_module_name)]


class DatasetConfig(StrictPart):
    """A set of photographs."""

    name: FolderName = Field(description="name in the results")
    images: Address = Field(
        description="folder, s3://, gs:// or az:// prefix, pattern such as photos/*.jpg, one image, or a manifest: a "
        "table (csv, line JSON, parquet), or a folder or pattern of tables, with a column uri; or [shards](running.md"
        "#shards-of-a-data-set): parquet with the images inside, tar or zip, or a folder, pattern or {0..9} of them"
    )
    image_column: Name | None = Field(None, description="images inside parquet; default: the one of {bytes, path}")
    label_column: Name | None = Field(None, description="their labels; default: label or class_index")
    exclude: Annotated[tuple[Pattern, ...], BeforeValidator(one_or_several)] = Field(
        (), max_length=100, description="patterns of image ids to leave out, such as **/@eaDir/**"
    )
    labels: Address | None = Field(
        None,
        description="table (csv, line JSON, parquet) with columns image_id (or file) and label: a class number, a wnid "
        "or a name; or a .txt with a number for each image in the order of their ids; or "
        "folders: the sub-folders are the classes, in ImageNet's order if they are wnids, else sorted",
    )
    label_names: Address | None = Field(
        None,
        description="numbers of labels that are names: a .txt file with one name per line in the order of the logits, "
        "or a table with columns class_name or wnid, and label",
    )
    access: Literal["credentials", "anonymous", "requester_pays"] = Field(
        "credentials",
        description="how a bucket is read: a public one may need anonymous; requester_pays is for S3",
    )


class MetricConfig(StrictPart):
    """How two maps are compared and averaged."""

    rbo_p: float = Field(0.9, gt=0, lt=1, description="persistence of rank-biased overlap: weight of the top ranks")
    ties: Literal["b", "a", "w", "index"] = Field("b", description="tie rule of rank-biased overlap")
    explained_class: Literal["predicted", "clean", "label"] = Field(
        "predicted",
        description="class explained on the perturbed image: its own prediction, or the clean image's; or on both the "
        "label; a multi-label network's label and a value are always the clean image's",
    )
    average: Literal["macro", "micro"] = Field(
        "macro", description="macro: over each image's pairs, then over images; micro: over all pairs"
    )
    similarities: tuple[Name, ...] | None = Field(
        None, description="measures beside rbo, from `camrobust list similarities`; default: all cheap ones"
    )


class SummaryConfig(StrictPart):
    """How the summaries are made; it changes no score row."""

    intervals: Literal["delta", "bootstrap"] = Field(
        "delta", description="intervals clustered by image: delta linearises, bootstrap resamples"
    )
    map_attacks: Literal["apart", "own", "all"] = Field(
        "apart",
        description="pairs under attacks on maps that enter consistency, responsiveness and RM: none, those on the "
        "CAM's own map, or all; by_cam has columns for them",
    )
    only: Literal["all", "correct"] = Field(
        "all", description="correct: all numbers but accuracy leave out the images that a model gets wrong unperturbed"
    )


class SegmentsConfig(BaseModel):
    """How an image is cut into segments; the other keys are the method's parameters, here with their defaults."""

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
        """The method's parameters by name."""
        return dict(self.model_extra or {})


class ClusterConfig(StrictPart):
    """Where the work runs, and on how many workers; only `batch` moves numbers, within rounding."""

    gpus_per_explainer: float | None = Field(
        None, ge=0, description="GPUs of an Explain worker; default: 0.8 where the cluster has a GPU, else 0"
    )
    gpus_per_perturber: float | None = Field(
        None, ge=0, description="GPUs of a Perturb worker; default: 0.2 where the cluster has a GPU, else 0"
    )
    explainers: tuple[int, int] | None = Field(
        None, description="fewest and most Explain workers; default: as the cluster allows"
    )
    perturbers: tuple[int, int] | None = Field(
        None, description="fewest and most Perturb workers; default: as the cluster allows"
    )
    perturb: Literal["auto", "own", "with_explain"] = Field(
        "auto",
        description="who makes the variants: workers of their own, or the Explain workers; auto: Explain workers, but "
        "workers of their own on a GPU with several models and at most four variants per model, or on CPUs if "
        "perturbers is set; the rows are the same",
    )
    cpus_per_loader: float | None = Field(
        None, gt=0, description="CPUs of a loading task; default: 1, or 0.5 without a GPU"
    )
    accelerator: Name | None = Field(None, description="Ray accelerator type of the GPU nodes, for example A10G")
    gpu_labels: dict[str, str] | None = Field(
        None, description="Ray label selector of Perturb and Explain workers, for example {role: gpu}"
    )
    gpu_resources: dict[str, float] | None = Field(
        None, description="custom Ray resources that each Perturb and Explain worker takes"
    )
    loader_labels: dict[str, str] | None = Field(None, description="Ray label selector of loading tasks")
    batch: int | Literal["auto"] = Field(
        "auto", description="images in every forward pass; auto: chosen when the run is planned, and kept in run.json"
    )
    image_timeout_s: float = Field(
        600,
        gt=0,
        description="a worker is ended if it takes longer for one image (in Explain: for one image and model, or "
        "for one pass over several images), s",
    )
    no_progress_timeout_s: float = Field(900, gt=0, description="the run gives up after so long without progress, s")

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
