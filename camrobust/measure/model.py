"""Models by name: builder, weights, target layer and preprocessing tied together in one row.

"torchvision:resnet50@IMAGENET1K_V2", "timm:tf_efficientnet_lite0" or "package.module:function", each with an optional
weights file. Where bytes come from is not this room's business: a weights file arrives as its content.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import PurePath
from traceback import extract_tb
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short, shown
from camrobust.contract.registry import unknown
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.network import Network, frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from camrobust.core.precision import fastest_layout
from camrobust.measure.weights import read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROBES = 2
UNIT = 4
"""Largest mean and standard deviation of pixels in [0, 1] that are taken for such."""
UNTRAINED = "none"
"""`torchvision:NAME@none` and `timm:NAME@none` leave the weights random."""


@dataclass(frozen=True)
class ModelSpec:
    """What a configuration says about one model.

    Attributes:
        name: as it stands in the results.
        builder: "torchvision:NAME[@WEIGHTS]", "timm:NAME[@none]" or "package.module:function".
        weights: where a weights file is (.safetensors, or .pth/.pt read with weights_only), None for the builder's own.
        target_layer: dotted name of a submodule, None to discover it.
        mean: per-channel mean of the normalisation, None for the builder's own.
        std: per-channel standard deviation of the normalisation, None for the builder's own.
        arguments: keyword arguments for the builder.
    """

    name: str
    builder: str
    weights: str | None = None
    target_layer: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class PassLimit:
    """Images that one pass holds on this device, None until a pass ran out of memory."""

    images: int | None = None


@dataclass(frozen=True)
class Model:
    """A model ready to be measured.

    Attributes:
        name: as it stands in the results.
        network: the module, its target layer and the tail behind it.
        mean: (3, 1, 1) on the model's device.
        std: (3, 1, 1) on the model's device.
        classes: number of logits.
        channels_last: whether it takes images whose channels are last in memory; a `view` over a feature map does not.
        fits: what one pass was found to hold.
    """

    name: str
    network: Network
    mean: Tensor
    std: Tensor
    classes: int
    channels_last: bool = True
    fits: PassLimit = field(default_factory=PassLimit)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.mean.device

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or in [0, 1], to the model's input, float32 on its device."""
        images = images.to(self.device)
        scaled = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        return (scaled - self.mean) / self.std

    def inputs(self, images: Tensor, precision: str) -> Tensor:
        """The same in the order of memory in which the model computes fastest."""
        ready = self.normalise(images)
        return fastest_layout(ready, precision) if self.channels_last else ready


@dataclass
class _Built:
    """What a builder gave: the module and, where it knows them, its normalisation."""

    module: nn.Module
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_model(
    spec: ModelSpec, weights: bytes | None = None, image_size: int = 224, device: str | torch.device = "cpu"
) -> Model:
    """Build a model, fill it, find or check its target layer.

    Args:
        spec: what to build.
        weights: content of the weights file that the spec names, None where it names none.
        image_size: side of the square crop, px; one dummy image of that size is passed through.
        device: where to put the model.

    Returns:
        The model in evaluation mode with frozen parameters.

    Raises:
        UserError: unknown builder, weights that do not fit, no such target layer, an output that is not logits.
    """
    try:
        built = _build(spec, own_weights=weights is None)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a builder is the user's code: whatever it raises is told, not traced
        place = extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"model '{spec.name}': {spec.builder} raised {type(error).__name__}: {first_line(error)} "
            f"({PurePath(place.filename).name}, line {place.lineno}); mend the builder or its arguments"
        ) from error
    if weights is not None:
        _fill(built.module, read_weights(weights, spec.weights or "weights"), spec)
    return wrap(
        built.module,
        name=spec.name,
        target_layer=spec.target_layer,
        mean=spec.mean or built.mean,
        std=spec.std or built.std,
        image_size=image_size,
        device=device,
    )


def wrap(
    module: nn.Module,
    *,
    name: str = "model",
    target_layer: str | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    image_size: int | tuple[int, int] = 224,
    device: str | torch.device | None = None,
) -> Model:
    """Make any classifier measurable; freezes it for good (use `core.evidence.frozen` to get it back unchanged).

    Args:
        module: takes (B, 3, H, W), returns logits (B, n), a tuple that begins with them, or an object with `.logits`.
        name: as it stands in the results.
        target_layer: dotted name of a submodule, None to discover it.
        mean: of the normalisation.
        std: of the normalisation.
        image_size: side of the square crop, or height and width, px.
        device: where to put it, None to leave it where it is.

    Raises:
        UserError: no such target layer, an output that is not logits, or a normalisation of pixels up to 255.
    """
    if not (all(-UNIT <= one <= UNIT for one in mean) and all(0 < one <= UNIT for one in std)):
        raise UserError(
            f"model '{name}': mean and std must be those of pixels in [0, 1], got {_shown(mean)} and {_shown(std)}; "
            "divide them by 255"
        )
    if device is None:
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module = _plain(module).to(device).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    sample = _probe(image_size).to(device)
    side = image_size if isinstance(image_size, int) else f"{image_size[0]}x{image_size[1]}"
    with _as_user_error(
        f"model '{name}': cannot take float32 images of {side} px", "check image.crop and the model's forward"
    ):
        with torch.no_grad(), frozen(module):
            signed = 2 * sample - 1
            before = signed.clone()
            classes = logits_of(module(signed)).shape[1]
            channels_last = _takes(module, before.contiguous(memory_format=torch.channels_last))
        if not torch.equal(signed, before):
            raise UserError(
                f"model '{name}': its forward changes its input in place, which other passes need; write x = x - mean "
                "instead of x.sub_(mean)"
            )
    with _as_user_error(
        f"model '{name}': its layers cannot be watched", "pass the plain module, not a scripted or exported one"
    ):
        network = build_network(module, sample, target_layer)
    return Model(
        name=name,
        network=network,
        mean=torch.tensor([*mean], dtype=torch.float32, device=device).reshape(-1, 1, 1),
        std=torch.tensor([*std], dtype=torch.float32, device=device).reshape(-1, 1, 1),
        classes=classes,
        channels_last=channels_last,
    )


@contextmanager
def _as_user_error(what: str, remedy: str) -> Iterator[None]:
    """A model's forward is the user's code: whatever it raises is told, not traced."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} ({type(error).__name__}: {first_line(error)}); {remedy}") from error


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        module(images)
    except Exception:  # noqa: BLE001 - a model may refuse them by whatever it likes
        return False
    return True


def bytes_per_image(model: Model, image_size: int) -> int:
    """What every layer puts out for one image, in bytes: about what a pass over it takes, tail re-runs left out.

    Looks at the images that `load_model` has tried, as a model may fail at others.
    """
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    leaves = [module for module in model.network.module.modules() if not any(module.children())]
    with hooked(leaves, count), torch.no_grad():
        model.network.module(_probe(image_size).to(model.device))
    return total // PROBES


def _plain(module: nn.Module) -> nn.Module:
    """The module inside torch.compile or DataParallel, whose layers can be hooked."""
    for name in ("module", "_orig_mod"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module) and (name == "_orig_mod" or isinstance(module, nn.DataParallel)):
            return _plain(inner)
    return module


def _probe(image_size: int | tuple[int, int]) -> Tensor:
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return torch.rand(PROBES, 3, height, width, generator=torch.Generator().manual_seed(0))


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{one:g}" for one in values)


def _build(spec: ModelSpec, *, own_weights: bool) -> _Built:
    """Call the builder; `own_weights` says whether its published weights are wanted."""
    kind, _, rest = spec.builder.partition(":")
    if not rest:
        raise UserError(
            f"model '{spec.name}': builder must be torchvision:NAME, timm:NAME or package.module:function, "
            f"got '{spec.builder}'"
        )
    name, _, tag = rest.partition("@")
    builders: dict[str, Callable[[ModelSpec, str, str], _Built]] = {"torchvision": _torchvision, "timm": _timm}
    build = builders.get(kind)
    if build is None:
        return _function(spec, kind, rest)
    return build(spec, name, tag or ("DEFAULT" if own_weights else UNTRAINED))


def _download(spec: ModelSpec, build: Callable[[], nn.Module]) -> nn.Module:
    """Call a builder that may fetch its published weights from the network."""
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model '{spec.name}': its published weights could not be fetched ({first_line(error)}); "
            "name a weights file with `weights:`, or let this machine reach the network once"
        ) from error


def _torchvision(spec: ModelSpec, name: str, tag: str) -> _Built:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    if tag == UNTRAINED:
        keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return _Built(models.get_model(name, weights=None, **keywords, **spec.arguments))
    published = models.get_model_weights(name)
    if tag not in published.__members__:
        raise unknown(f"weights of torchvision model '{name}'", tag, [*published.__members__, UNTRAINED])
    entry = published[tag]
    preset = entry.transforms()
    module = _download(spec, lambda: models.get_model(name, weights=entry, **spec.arguments))
    return _Built(module, tuple(preset.mean), tuple(preset.std))


def _timm(spec: ModelSpec, name: str, tag: str) -> _Built:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model '{spec.name}': timm is not installed; pip install 'camrobust[timm]'") from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    create = partial(timm.create_model, name, pretrained=tag != UNTRAINED, **spec.arguments)
    module: nn.Module = create() if tag == UNTRAINED else _download(spec, create)
    settings = getattr(module, "pretrained_cfg", {})
    return _Built(module, tuple(settings.get("mean", IMAGENET_MEAN)), tuple(settings.get("std", IMAGENET_STD)))


def _function(spec: ModelSpec, module_name: str, function_name: str) -> _Built:
    """The user's own builder; it runs because the configuration names it."""
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"model '{spec.name}': cannot import '{module_name}' ({first_line(error)}); "
            "is it installed, or in the working directory that the job was submitted with?"
        ) from error
    if not callable(getattr(module, function_name, None)):
        raise unknown(f"function in {module_name}", function_name, [key for key in vars(module) if key[:1] != "_"])
    built = getattr(module, function_name)(**spec.arguments)
    if not isinstance(built, nn.Module):
        raise UserError(
            f"model '{spec.name}': {spec.builder} must return a torch.nn.Module, got {type(built).__name__}"
        )
    mean, std = getattr(built, "mean", None), getattr(built, "std", None)
    if isinstance(mean, tuple) and isinstance(std, tuple):
        return _Built(built, mean, std)
    return _Built(built)


def _some(keys: list[str]) -> str:
    first = ", ".join(short(key) for key in keys[:3])
    return f"{first} and {len(keys) - 3} more" if len(keys) > 3 else first


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What keeps some weights from filling a module, by the word for it."""
    both = [(key, own[key], weights[key]) for key in own if key in weights]
    return {
        "missing:": [key for key in own if key not in weights and not key.endswith("num_batches_tracked")],
        "not in the model:": [key for key in weights if key not in own],
        "other shape:": [
            f"{key} is {shown(tuple(given.shape))}, not {tuple(wanted.shape)}"
            for key, wanted, given in both
            if given.shape != wanted.shape
        ],
        "other type:": [
            f"{key} is {given.dtype}, not {wanted.dtype}"
            for key, wanted, given in both
            if given.shape == wanted.shape and given.is_floating_point() != wanted.is_floating_point()
        ],
    }


def _fill(module: nn.Module, weights: dict[str, Tensor], spec: ModelSpec) -> None:
    """Load every weight or say which do not fit."""
    misfits = _misfits(module.state_dict(), weights)
    complaints = [f"{what} {_some(keys)}" for what, keys in misfits.items() if keys]
    where = f"model '{spec.name}': weights '{short(spec.weights)}'"
    if complaints:
        raise UserError(
            f"{where} do not fit {spec.builder} ({'; '.join(complaints)}); name the architecture they were trained with"
        )
    try:
        module.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{where} cannot be copied ({first_line(error)}); save them in floating point") from error
    finite = {name: bool(value.isfinite().all()) for name, value in module.named_parameters()}
    # A buffer may hold infinity, as masks of attention do.
    finite |= {name: not bool(value.isnan().any()) for name, value in module.named_buffers()}
    spoilt = [name for name, whole in finite.items() if not whole]
    if spoilt:
        raise UserError(f"{where} hold NaN or infinity in {_some(spoilt)}; take those of an earlier epoch")
