"""The part of a configuration that describes one model."""

import re
from typing import Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from camrobust.contract.config_parts import Address, FolderName, Name, Spec, StrictPart
from camrobust.contract.defaults import MOST_CHANNELS, RGB
from camrobust.contract.errors import UserError
from camrobust.contract.former_names import renamed_builder
from camrobust.contract.heads import parse_head
from camrobust.contract.quoting import shown


def short_name(builder: str) -> str:
    """The name of a model that is given by its builder alone; of a folder's path only the last part."""
    name = re.sub(r"^(torchvision|timm|hf):", "", builder)
    return name.rstrip("/").rpartition("/")[2] if builder.startswith("hf:") and name[:1] in (".", "/", "~") else name


def model_shorthand(value: Any) -> Any:
    """A model may be written as its builder alone."""
    return {"builder": value} if isinstance(value, str) else value


class ModelConfig(StrictPart):
    """One classifier."""

    name: FolderName = Field("", validate_default=False, description="name in the results; default: the builder")
    builder: Name = Field(
        description="torchvision:NAME[@WEIGHTS], timm:NAME, hf:NAME_OR_FOLDER[@REVISION] or package.module:function; "
        "with @none the weights are random, drawn from the run's seed"
    )
    weights: Address | None = Field(None, description=".safetensors or .pth file, a path or s3://…, gs://…, az://…")
    target_layer: Name | None = Field(None, description="dotted name of a submodule; default: discovered")
    mean: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        max_length=MOST_CHANNELS,
        description="mean of the normalisation, one value for each channel; default: the builder's",
    )
    std: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        max_length=MOST_CHANNELS,
        description="standard deviation of the normalisation, one value for each channel; default: the builder's",
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments for the builder; of hf: only prompts, a list of texts"
    )
    classes: Address | tuple[str, ...] | None = Field(
        None,
        description="names of the classes in the order of the logits (of one logit: of 0 and 1): a list, a text file "
        "with one name per line, or imagenet; changes no number; default: known for published weights only",
    )
    head: Spec | None = Field(
        None,
        validate_default=False,
        description="how the outputs are read: softmax, binary, multilabel, multilabel:explained=LABEL, "
        "value:tolerance=T (regression) or value:tolerance=T,explained=OUTPUT; binary and multilabel take "
        "outputs=logits or outputs=probabilities where that cannot be seen; default: binary for one output, else "
        "softmax; see [own-model.md](own-model.md#other-heads)",
    )

    classes_kept: Address | tuple[Name, ...] | None = Field(
        None,
        description="classes between which the network may choose, as of 1000 for ImageNet-R: a list or a text file of "
        "names, numbers or wnids, one per line; default: all",
    )

    @field_validator("classes_kept", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """Numbers in a list are written as they are."""
        if not isinstance(value, (list, tuple)):
            return value
        return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]

    @field_validator("builder", mode="before")
    @classmethod
    def _today(cls, value: Any) -> Any:
        return renamed_builder(value)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("builder"), str):
            return {**data, "name": short_name(data["builder"])}
        return data

    @field_validator("head")
    @classmethod
    def _resolved(cls, value: str | None, info: ValidationInfo) -> str | None:
        """The head as it is recorded: with the number of an output that was named."""
        names = info.data.get("classes")
        try:
            return None if value is None else str(parse_head(value, names if isinstance(names, tuple) else ()))
        except UserError as error:
            raise UserError(f"config: model '{info.data.get('name')}': {error}") from error

    @field_validator("target_layer", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        several = isinstance(value, (list, tuple))
        if several:
            raise ValueError("must be one layer, got a list; list the model once for each, under different names")
        return value

    @model_validator(mode="after")
    def _for_each_channel(self) -> Self:
        counts = [None if values is None else len(values) for values in (self.mean, self.std)]
        if len({*counts}) > 1 and {*counts} != {None, RGB}:
            raise ValueError(
                "mean and std must have one value for each channel, got "
                f"{counts[0] or 'no'} and {counts[1] or 'no'} values; name both"
            )
        return self

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        wrong = (
            [value] if not isinstance(value, (list, tuple)) else [name for name in value if not isinstance(name, str)]
        )
        if value is not None and not isinstance(value, str) and wrong:
            raise ValueError(
                f"must be a list of names, the path of a text file or imagenet, got {shown(wrong[0])}; quote it"
            )
        return value
