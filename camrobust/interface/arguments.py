"""Arguments of the Python functions, checked and in one form: models, names of CAMs, class numbers, settings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import isfinite
from types import MappingProxyType
from typing import Any
from warnings import warn

import numpy as np
from torch import Tensor, nn

from camrobust.contract.certify_config import CertifyConfig
from camrobust.contract.config_file import parse_certify
from camrobust.contract.defaults import PRECISIONS, RGB
from camrobust.contract.errors import UserError
from camrobust.contract.heads import parse_head
from camrobust.contract.plain_yaml import read_yaml
from camrobust.contract.quoting import short, shown
from camrobust.core.channels import spoken
from camrobust.core.explain.network import frozen
from camrobust.measure.built import IMAGENET_MEAN, IMAGENET_STD, ModelSpec
from camrobust.measure.model import Model, load_model, wrap
from camrobust.measure.networks import plain, refuse_shapeless
from camrobust.measure.settings import CertifySettings

NOTHING: Mapping[str, Any] = MappingProxyType({})
ONE_SIGMA: Mapping[str, Any] = MappingProxyType({"sigma": [0.12]})
"""The sigma of a picture, where none is named."""
TargetLayer = str | nn.Module | Sequence[str | nn.Module] | None
"""A layer by its dotted name, or the layer itself; a list may hold one of them."""


@contextmanager
def ready_model(
    model: nn.Module | str | Model,
    target_layer: TargetLayer,
    images: Tensor,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
) -> Iterator[Model]:
    """The model, ready to be explained inside the block; a module is restored when the block ends.

    Args:
        model: a module, a name such as torchvision:resnet50, or a model that is ready.
        target_layer: a submodule or its dotted name, None to discover it.
        images: (B, C, H, W), those that it will take.
        mean: mean of the normalisation; None for the builder's own, and for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        head: how the outputs are read, for a module or a name; a model that is ready takes only its own.

    Raises:
        TypeError: the model is none of these.
        UserError: a layer that the model does not have, or a normalisation that is none.
    """
    if not isinstance(model, (nn.Module, str, Model)):
        raise TypeError(f"model: must be a torch.nn.Module or a name such as torchvision:resnet50, got {type(model)}")
    if isinstance(model, Model):
        _check_ready(model, given=any(one is not None for one in (target_layer, mean, std)), head=head)
    if isinstance(model, nn.Module):
        refuse_shapeless(model, "model", "the network")
    layer, means, deviations = layer_name(model, target_layer), per_channel(mean, "mean"), per_channel(std, "std")
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        height, width = images.shape[2:]
        if isinstance(model, nn.Module):
            means, deviations = means or IMAGENET_MEAN, deviations or IMAGENET_STD
            model = wrap(model, target_layer=layer, image_size=(height, width), mean=means, std=deviations, head=head)
        elif isinstance(model, str):
            spec = ModelSpec(model.partition(":")[2] or model, model, None, layer, means, deviations, head=head)
            model = load_model(spec, image_size=width)
        if images.shape[1] != model.channels:
            raise ValueError(
                f"images: must have {spoken(model.channels)}, as the model's mean and std, got {images.shape[1]}; pass "
                "mean and std with one value for each channel"
            )
        for remark in model.remarks:
            warn(remark, UserWarning, stacklevel=4)
        yield model


def _check_ready(model: Model, *, given: bool, head: str | None) -> None:
    """Refuse a model that is ready together with settings of a model that is not, or with another head."""
    if given:
        raise UserError("model: one that is ready has its own target_layer, mean and std; leave them out")
    own = model.network.readout
    if head is not None and not own.is_of(parse_head(head)):
        raise UserError(
            f"model: one that is ready has its own head, {own.head} of {own.outputs}, got '{short(head)}'; leave it "
            "out, or make the model anew"
        )


def layer_name(model: nn.Module | str | Model, layer: Any) -> str | None:
    """The dotted name of a target layer that is given by its name, as a module of the model, or as a list of one.

    Raises:
        UserError: the module is not in the model, or the list holds several.
        TypeError: it is something else.
    """
    if isinstance(layer, (list, tuple)):
        if len(layer) != 1:
            raise UserError(
                f"target_layer: must be one layer, got a list of {len(layer)}; explain one after the other, or list "
                "the model in a configuration once for each, under different names"
            )
        return layer_name(model, layer[0])
    if layer is None or isinstance(layer, str):
        name: str | None = layer
        return name
    if not isinstance(layer, nn.Module):
        raise TypeError(f"target_layer: must be a submodule of the model or its dotted name, got {type(layer)}")
    layers = plain(model).named_modules() if isinstance(model, nn.Module) else ()
    name = next((name for name, part in layers if part is layer), "")
    if not name:
        raise UserError(
            f"target_layer: this {type(layer).__name__} is not a submodule of the model; take one of "
            "model.named_modules(), or its dotted name"
        )
    return name


def per_channel(values: object, where: str) -> tuple[float, ...] | None:
    """A mean or standard deviation, one number per channel; None stays None.

    Raises:
        UserError: not numbers.
    """
    if values is None:
        return None
    try:
        numbers = tuple(float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(isfinite, numbers)):
        raise UserError(
            f"{where}: must be a list of numbers, one per channel of pixels in [0, 1], got {shown(values)}; write "
            f"{where}=(0.5, 0.5, 0.5) for the same one in all three"
        )
    return numbers


def per_image(values: object, where: str, images: int, remedy: str) -> list[Any]:
    """A list with an entry per image.

    Raises:
        ValueError: it is none, or has another length.
    """
    try:
        entries = list(values)  # type: ignore[call-overload]
    except TypeError:
        entries = None
    if entries is None or len(entries) != images:
        got = f"{type(values).__name__} {shown(values)}" if entries is None else len(entries)
        raise ValueError(f"{where}: must be one per image ({images}), got {got}; {remedy}")
    return list(entries)


def channels_of(model: nn.Module | str | Model, mean: Any) -> int:
    """How many channels the images for a model must have: one for each value of its mean."""
    if isinstance(model, Model):
        return model.channels
    return len(mean) if hasattr(mean, "__len__") and not isinstance(mean, str) else RGB


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
        ("explained_class", explained_class, ("predicted", "clean", "label")),
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


def certify_settings(
    value: bool | Mapping[str, Any] | CertifyConfig | None, usual: Mapping[str, Any] = NOTHING
) -> CertifySettings | None:
    """What is to be certified: None for nothing, True for all defaults, or as in a configuration.

    Args:
        value: as the user gave it.
        usual: values of keys that are not given; all others have the defaults of a configuration.

    Raises:
        UserError: an unknown key, or a value out of its range.
    """
    if value is None or value is False:
        return None
    if value is not True and not isinstance(value, (Mapping, CertifyConfig)):
        raise UserError(
            f"certify: must be True, or keys as in a configuration, got {shown(value)}; pass {{'samples': 500}}"
        )
    if not isinstance(value, CertifyConfig):
        value = parse_certify({**usual, **({} if value is True else value)})
    return CertifySettings(**value.model_dump())


def certify_options(options: Sequence[str]) -> CertifySettings:
    """What `--certify KEY=VALUE …` asks for; by default one sigma, as a picture has little room.

    Raises:
        UserError: an option without =, an unknown key, or a value out of its range.
    """
    data: dict[str, Any] = dict(ONE_SIGMA)
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise UserError(f"--certify: must be KEY=VALUE, got '{short(option)}'; for example samples=500")
        data[key] = read_yaml(text, f"--certify {short(key)}: the value")
    return CertifySettings(**parse_certify(data).model_dump())


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
