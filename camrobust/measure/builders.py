"""Builders of models by name, and the filling of a built model with the weights of a file."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

from torch import nn

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.contract.registry import unknown
from camrobust.contract.spelling import nearest, suggestion
from camrobust.measure.built import IMAGENET_MEAN, IMAGENET_STD, UNTRAINED, Built, ModelSpec, some
from camrobust.measure.checkpoints import StateDict, fitting, reasons
from camrobust.measure.hugging_face import hugging_face


def build_module(spec: ModelSpec, *, own_weights: bool) -> Built:
    """Call the builder; with `own_weights` it also loads its published weights."""
    kind, _, rest = spec.builder.partition(":")
    if not rest:
        raise UserError(
            f"model '{spec.name}': builder must be torchvision:NAME, timm:NAME, hf:NAME or package.module:function, "
            f"got '{spec.builder}'{_meant(spec.builder)}"
        )
    if kind == "hf":
        return hugging_face(spec, rest, own_weights=own_weights)
    name, _, tag = rest.partition("@")
    builders: dict[str, Callable[[ModelSpec, str, str], Built]] = {"torchvision": _torchvision, "timm": _timm}
    build = builders.get(kind)
    if build is None:
        return _function(spec, kind, rest)
    return build(spec, name, tag or ("DEFAULT" if own_weights else UNTRAINED))


def _meant(name: str) -> str:
    """What a name without a builder may mean: a model of torchvision."""
    from torchvision import models

    bare, _, tag = name.partition("@")
    near = nearest(bare, models.list_models(module=models))
    return f"; did you mean 'torchvision:{near[0]}{'@' if tag else ''}{tag}'?" if near else ""


def _download(spec: ModelSpec, build: Callable[[], nn.Module]) -> nn.Module:
    """Call a builder that may fetch its published weights from the network."""
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"model '{spec.name}': its published weights could not be fetched ({first_line(error)}); "
            "name a weights file with `weights:`, or let this machine reach the network once"
        ) from error


def _torchvision(spec: ModelSpec, name: str, tag: str) -> Built:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    if tag == UNTRAINED:
        keywords = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return Built(models.get_model(name, weights=None, **keywords, **spec.arguments))
    published = models.get_model_weights(name)
    if tag not in published.__members__:
        raise unknown(f"weights of torchvision model '{name}'", tag, [*published.__members__, UNTRAINED])
    entry = published[tag]
    preset = entry.transforms()
    module = _download(spec, lambda: models.get_model(name, weights=entry, **spec.arguments))
    size = (int(preset.resize_size[0]), int(preset.crop_size[0]))
    return Built(module, tuple(preset.mean), tuple(preset.std), size=size)


def _timm(spec: ModelSpec, name: str, tag: str) -> Built:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model '{spec.name}': timm is not installed; pip install 'camrobust[timm]'") from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    create = partial(timm.create_model, name, pretrained=tag != UNTRAINED, **spec.arguments)
    module: nn.Module = create() if tag == UNTRAINED else _download(spec, create)
    settings = getattr(module, "pretrained_cfg", {})
    side = None if tag == UNTRAINED else settings.get("input_size", (None,))[-1]
    size = None if side is None else (int(side / settings.get("crop_pct", 1)), int(side))
    return Built(
        module, tuple(settings.get("mean", IMAGENET_MEAN)), tuple(settings.get("std", IMAGENET_STD)), size=size
    )


def _function(spec: ModelSpec, module_name: str, function_name: str) -> Built:
    """A builder of the user's own."""
    try:
        module = import_module(module_name)
    except ImportError as error:
        hint = "" if "." in module_name else suggestion(module_name, ("torchvision", "timm"))
        raise UserError(
            f"model '{spec.name}': cannot import '{module_name}' ({first_line(error)}); {hint}is it installed, or in "
            "the working directory that the job was submitted with?"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise unknown(f"function in {module_name}", function_name, [key for key in vars(module) if key[:1] != "_"])
    if hasattr(function, "cache_info"):
        # Behind functools.cache, two models would be one module: weights and caches of the one would be the other's.
        function = function.__wrapped__
    built = function(**spec.arguments)
    if not isinstance(built, nn.Module):
        raise UserError(
            f"model '{spec.name}': {spec.builder} must return a torch.nn.Module, got {type(built).__name__}"
        )
    mean, std = getattr(built, "mean", None), getattr(built, "std", None)
    if isinstance(mean, tuple) and isinstance(std, tuple):
        return Built(built, mean, std)
    return Built(built)


def fill(module: nn.Module, found: Mapping[str, StateDict], spec: ModelSpec) -> None:
    """Load weights into the module: those of the state dicts found in a file that fit.

    Raises:
        UserError: naming those that do not fit or are not finite.
    """
    where = f"model '{spec.name}': weights '{short(spec.weights)}'"
    own = module.state_dict()
    weights = fitting(own, found, where)
    complaints = [f"{reason} {some(keys)}" for reason, keys in reasons(own, weights).items()]
    if complaints:
        raise UserError(
            f"{where} do not fit {spec.builder} ({'; '.join(complaints)}); name the architecture they were trained with"
        )
    try:
        module.load_state_dict(weights, strict=False)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{where} cannot be copied ({first_line(error)}); save them in floating point") from error
    finite = {name: bool(value.isfinite().all()) for name, value in module.named_parameters()}
    # Buffers may hold infinity: attention masks do.
    finite |= {name: not bool(value.isnan().any()) for name, value in module.named_buffers()}
    spoilt = [name for name, whole in finite.items() if not whole]
    if spoilt:
        raise UserError(f"{where} hold NaN or infinity in {some(spoilt)}; take those of an earlier epoch")
