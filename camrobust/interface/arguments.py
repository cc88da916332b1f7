"""Arguments of the Python functions, checked and in one form: models, names of CAMs, class numbers, settings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from warnings import warn

import numpy as np
from torch import Tensor, nn

from camrobust.contract.defaults import PRECISIONS, RGB
from camrobust.contract.errors import UserError
from camrobust.core.channels import spoken
from camrobust.core.explain.network import frozen
from camrobust.measure.builders import ModelSpec
from camrobust.measure.model import Model, load_model, wrap


@contextmanager
def ready_model(
    model: nn.Module | str | Model,
    target_layer: str | None,
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    head: str | None = None,
) -> Iterator[Model]:
    """The model, ready to be explained inside the block; a module is restored when the block ends.

    Args:
        model: a module, a name such as torchvision:resnet50, or a model that is ready.
        target_layer: dotted name of a submodule, None to discover it.
        images: (B, C, H, W), those that it will take.
        mean: mean of the normalisation, for a module.
        std: standard deviation of the normalisation, for a module.
        head: how the outputs are read, for a module or a name.
    """
    if not isinstance(model, (nn.Module, str, Model)):
        raise TypeError(f"model: must be a torch.nn.Module or a name such as torchvision:resnet50, got {type(model)}")
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        height, width = images.shape[2:]
        if isinstance(model, nn.Module):
            model = wrap(model, target_layer=target_layer, image_size=(height, width), mean=mean, std=std, head=head)
        elif isinstance(model, str):
            # Other channels than a photo's are said by mean and std, which a name alone does not have.
            own = (None, None) if channels_of(model, mean) == RGB else (mean, std)
            name = model.partition(":")[2] or model
            spec = ModelSpec(name, model, target_layer=target_layer, mean=own[0], std=own[1], head=head)
            model = load_model(spec, image_size=width)
        if images.shape[1] != model.channels:
            raise ValueError(
                f"images: must have {spoken(model.channels)}, as the model's mean and std, got {images.shape[1]}; pass "
                "mean and std with one value for each channel"
            )
        for remark in model.remarks:
            warn(remark, UserWarning, stacklevel=4)
        yield model


def channels_of(model: nn.Module | str | Model, mean: tuple[float, ...]) -> int:
    """How many channels the images for a model must have: one for each value of its mean."""
    if isinstance(model, Model):
        return model.channels
    return len(mean) if hasattr(mean, "__len__") else RGB


def as_list(names: str | Sequence[Any] | Mapping[str, object]) -> Sequence[Any]:
    """A list, also where one entry stands alone."""
    return [names] if isinstance(names, (str, Mapping)) else list(names)


def check_cams(cams: Sequence[str]) -> None:
    """Raise UserError unless there are one or more different names."""
    twice = next((name for name, count in Counter(cams).items() if count > 1), None)
    if not cams or twice is not None:
        got = "none" if twice is None else f"'{twice}' twice"
        raise UserError(f"cams: must be one or more different names, got {got}; see `camrobust list cams`")


def check_evaluation(explained_class: str, precision: str, resave_jpeg_quality: int | None) -> None:
    """Raise UserError for a value that a configuration would refuse."""
    for name, value, known in (
        ("explained_class", explained_class, ("predicted", "clean")),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise UserError(f"{name}: must be one of {', '.join(known)}, got '{value}'")
    if resave_jpeg_quality is not None and (
        type(resave_jpeg_quality) is not int or not 1 <= resave_jpeg_quality <= 100
    ):
        raise UserError(
            "resave_jpeg_quality: must be a whole number from 1 to 100 (JPEG quality), "
            f"got {resave_jpeg_quality}; None leaves it out"
        )


def true_class(label: object, ready: Model) -> int | None:
    """The true class of an image, checked; None where it is unknown.

    Raises:
        UserError: not a class of the model, or the model puts out values.
    """
    if label is None:
        return None
    if not ready.network.readout.has_classes:
        raise UserError(f"labels: must be None for a model that puts out values, got {label!r}; leave labels out")
    return class_number(label, "labels", ready.classes)


def class_number(value: object, where: str, classes: int) -> int:
    """A class number, checked.

    Args:
        value: what the user gave.
        where: name of the argument, for the message.
        classes: how many classes the model has.

    Raises:
        UserError: not a whole number from 0 to classes - 1.
    """
    try:
        number = int(value)  # type: ignore[call-overload]
        whole = bool(number == value) and not isinstance(value, (bool, np.bool_))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or not 0 <= number < classes:
        raise UserError(
            f"{where}: must be class numbers from 0 to {classes - 1}, got {value!r}; number them in logit order"
        )
    return int(number)
