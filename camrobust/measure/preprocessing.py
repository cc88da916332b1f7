"""How the published weights of a model want photographs resized and cropped, from their metadata alone.

Nothing is built and no weights are fetched; of a Hugging Face model its small processor file is. Weights from a file of
the user, random weights and builders of the user's own say nothing. Mean and deviation come with the model itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import floor
from typing import Any

from camrobust.contract.image_config import INTERPOLATIONS, ImageConfig
from camrobust.measure.built import UNTRAINED, ModelSpec
from camrobust.measure.hugging_face import CROPPED_BELOW

PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of filters, as processors write them."""


def published_preprocessing(spec: ModelSpec) -> ImageConfig | None:
    """How a model's published weights want photographs prepared; None where nothing is known.

    Args:
        spec: of the model.
    """
    kind, _, rest = spec.builder.partition(":")
    if spec.weights is not None:
        return None
    ways: dict[str, Callable[[ModelSpec, str], ImageConfig | None]] = {
        "torchvision": _torchvision, "timm": _timm, "hf": _hugging_face,
    }  # fmt: skip
    way = ways.get(kind)
    try:
        return None if way is None else way(spec, rest)
    except (ImportError, KeyError, ValueError, RuntimeError, AttributeError, TypeError):
        return None  # what is wrong with the builder is said when the model is built


def _image(resize: int, crop: int, interpolation: object, *, squash: bool = False) -> ImageConfig | None:
    """The settings; None where the filter is one that Pillow lacks."""
    name = str(interpolation)
    if name not in INTERPOLATIONS:
        return None
    return ImageConfig(
        resize=max(resize, crop),
        crop=crop,
        interpolation=name,
        aspect="squash" if squash else "keep",
    )


def _torchvision(_spec: ModelSpec, rest: str) -> ImageConfig | None:
    from torchvision import models

    name, _, tag = rest.partition("@")
    if tag == UNTRAINED or name not in models.list_models(module=models):
        return None
    preset = models.get_model_weights(name)[tag or "DEFAULT"].transforms()
    return _image(int(preset.resize_size[0]), int(preset.crop_size[0]), preset.interpolation.value)


def _timm(spec: ModelSpec, rest: str) -> ImageConfig | None:
    import timm

    name, _, tag = rest.partition("@")
    settings = None if tag == UNTRAINED else timm.get_pretrained_cfg(name)
    return None if settings is None else of_timm(asdict(settings), spec.arguments)


def of_timm(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> ImageConfig | None:
    """From a pretrained configuration of timm, as its own evaluation transform reads it.

    Args:
        settings: with input_size, crop_pct, interpolation and crop_mode.
        arguments: of the builder; `img_size` goes before the settings.
    """
    side = arguments.get("img_size", settings["input_size"][-1])
    mode = settings.get("crop_mode") or "center"
    if not isinstance(side, int) or mode not in ("center", "squash"):
        return None
    resize = floor(side / (settings.get("crop_pct") or 0.875))
    return _image(resize, side, settings.get("interpolation") or "bicubic", squash=mode == "squash")


def _hugging_face(spec: ModelSpec, rest: str) -> ImageConfig | None:
    from camrobust.measure.hugging_face import processor_of

    processor = processor_of(spec, rest)
    return None if processor is None else of_processor(processor)


def of_processor(processor: Any) -> ImageConfig | None:
    """From an image processor of transformers; None where it pads, or does not make squares."""
    size, crop = _sides(getattr(processor, "size", None)), _sides(getattr(processor, "crop_size", None))
    filter_ = PILLOW.get(int(getattr(processor, "resample", 2)), "")
    if not size or getattr(processor, "do_resize", True) is False:
        return None
    share = getattr(processor, "crop_pct", None)
    if share is not None:
        side = size.get("shortest_edge", size.get("height", 0))
        return (
            _image(int(side / share), side, filter_)
            if side < CROPPED_BELOW
            else _image(side, side, filter_, squash=True)
        )
    cropped = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    if crop and cropped and crop.get("height") != crop.get("width"):
        return None
    if "shortest_edge" in size and "longest_edge" not in size:
        return _image(size["shortest_edge"], crop["height"], filter_) if cropped else None
    if size.get("height") and size.get("height") == size.get("width"):
        return _image(size["height"], crop["height"] if cropped else size["height"], filter_, squash=True)
    return None


def _sides(told: Any) -> dict[str, int]:
    """The sides that a processor names; of a crop by one number both."""
    if isinstance(told, int):
        return {"height": told, "width": told}
    return {key: int(value) for key, value in dict(told or {}).items() if value is not None}
