"""`hf:NAME_OR_FOLDER`: image classifiers of Hugging Face's transformers, and zero-shot heads made of prompts.

Weights are .safetensors only, and no code of a repository runs. What an image processor does to colours is found by
passing plain pictures through it, not by reading its settings, of which every family has its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.contract.paths import folder_and_revision, is_file, is_folder
from camrobust.contract.quoting import first_line, shown
from camrobust.measure.built import UNTRAINED, Built, ModelSpec, some
from camrobust.measure.zero_shot import with_prompts

SAFE: Mapping[str, Any] = {"trust_remote_code": False}
COLOURS = ((0, 0, 0), (255, 255, 255), (51, 102, 204))
"""Black, white, and a colour that tells the order of the channels."""
ROUNDING = 1e-5
"""How far what is read from float32 values may be from a setting."""
CROPPED_BELOW = 384
"""ConvNeXt's processor resizes to this size and above without cropping."""


def hugging_face(spec: ModelSpec, rest: str, *, own_weights: bool) -> Built:
    """Build a classifier of transformers.

    Args:
        spec: what to build; of its arguments only `prompts` is known, a list of texts, one per class.
        rest: NAME[@REVISION], NAME@none or the path of a folder as `save_pretrained` wrote it.
        own_weights: load the weights that the name stands for.

    Raises:
        UserError: transformers is not installed, or in one sentence why the model cannot be had.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"model '{spec.name}': transformers is not installed; pip install 'camrobust[transformers]'"
        ) from error
    prompts = _prompts(spec)
    name, revision = _place(spec, rest)
    own_weights = own_weights and revision != UNTRAINED
    source: dict[str, Any] = {**SAFE, **({"revision": revision} if revision not in ("", UNTRAINED) else {})}
    kind = "AutoModelForZeroShotImageClassification" if prompts else "AutoModelForImageClassification"
    auto: Any = getattr(transformers, kind)
    processors: Any = transformers.AutoImageProcessor
    with _one_sentence(spec, name), _silent():
        config = transformers.AutoConfig.from_pretrained(name, **source)
        module = _with_weights(spec, auto, name, config, source) if own_weights else auto.from_config(config)
        built = Built(module, classes=_class_names(config))
        if prompts:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source)
            built = Built(with_prompts(spec, module.eval(), tokenizer, prompts), classes=tuple(prompts))
        if spec.mean is None or spec.std is None or is_file(Path(name) / "preprocessor_config.json"):
            return _with_processor(spec, built, processors.from_pretrained(name, **source))
    return built


def processor_of(spec: ModelSpec, rest: str) -> Any | None:
    """The image processor of a model that has its published weights; None where it has none, or weights are random.

    Args:
        spec: the model.
        rest: what stands behind `hf:`.
    """
    import transformers

    name, revision = _place(spec, rest)
    if revision == UNTRAINED or (is_folder(name) and not is_file(Path(name) / "preprocessor_config.json")):
        return None
    source: dict[str, Any] = {**SAFE, **({"revision": revision} if revision else {})}
    processors: Any = transformers.AutoImageProcessor
    with _one_sentence(spec, name), _silent():
        return processors.from_pretrained(name, **source)


def _prompts(spec: ModelSpec) -> list[str]:
    unknown = [key for key in spec.arguments if key != "prompts"]
    if unknown:
        raise UserError(
            f"model '{spec.name}': hf: knows the argument prompts only, got {some(unknown)}; write a builder of your "
            "own for others"
        )
    prompts = spec.arguments.get("prompts", [])
    texts = isinstance(prompts, (list, tuple)) and all(isinstance(text, str) and text for text in prompts)
    if "prompts" in spec.arguments and not (texts and 1 < len(prompts) == len(set(prompts))):
        raise UserError(
            f"model '{spec.name}': prompts must be a list of two or more different texts, one per class, got "
            f"{shown(prompts)}; write prompts: [a photo of a cat, a photo of a dog]"
        )
    if prompts and spec.weights is not None:
        raise UserError(
            f"model '{spec.name}': prompts are embedded by the model's own weights, so a weights file cannot follow; "
            "save the whole model as a folder with save_pretrained"
        )
    return list(prompts)


def _place(spec: ModelSpec, rest: str) -> tuple[str, str]:
    """A folder's path or a name, and what stands behind its @."""
    name, marked = folder_and_revision(rest)
    revision, folder = marked.removeprefix("@"), Path(name).expanduser()
    if is_folder(folder):
        return str(folder), revision
    if name.count("/") > 1 or name[:1] in (".", "/", "~"):
        raise UserError(f"model '{spec.name}': there is no folder '{name}'; correct the path")
    return name, revision


def _with_weights(spec: ModelSpec, auto: Any, name: str, config: Any, source: Mapping[str, Any]) -> nn.Module:
    """The model with its weights in float32, all of which its file must hold."""
    module, told = auto.from_pretrained(
        name, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **source
    )
    absent = sorted({*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])})
    if absent:
        raise UserError(
            f"model '{spec.name}': '{name}' holds no weights for {some(absent)}, so its head would be random; name a "
            "model that was trained to classify"
            + (", or give arguments: {prompts: […]}" if hasattr(config, "text_config") else "")
        )
    made: nn.Module = module
    return made


def _class_names(config: Any) -> tuple[str, ...]:
    """The names of the classes; none where they are only numbered, as by default."""
    names = [str(config.id2label.get(number, "")) for number in range(config.num_labels)]
    return () if names == [f"LABEL_{number}" for number in range(len(names))] else tuple(names)


def _with_processor(spec: ModelSpec, built: Built, processor: Any) -> Built:
    """The same model with the normalisation and the size of its image processor."""
    pictures = [np.full((61, 83, 3), colour, dtype=np.uint8) for colour in COLOURS]
    values = processor(images=pictures, return_tensors="pt")["pixel_values"]
    if values.ndim != 4 or values.shape[:2] != (len(COLOURS), 3):
        raise UserError(
            f"model '{spec.name}': its processor must make (B, 3, H, W), got {tuple(values.shape)}; write a builder of "
            "your own"
        )
    side = int(values.shape[2]) if values.shape[2] == values.shape[3] else None
    mean, std, turned = colours(values[:, :, values.shape[2] // 2, values.shape[3] // 2])
    if turned is None:
        raise UserError(
            f"model '{spec.name}': what its processor does to colours is no mean and deviation per channel; give mean "
            "and std"
        )
    mean, std = _exact(mean, getattr(processor, "image_mean", None)), _exact(std, getattr(processor, "image_std", None))
    module = nn.Sequential(Turned(), built.module) if turned else built.module
    size = None if side is None else (_resized(processor, side), side)
    return Built(module, mean, std, classes=built.classes, size=size)


def colours(values: Tensor) -> tuple[tuple[float, ...], tuple[float, ...], bool | None]:
    """What a processor does to colours, read from what it makes of `COLOURS`.

    Args:
        values: (3, 3), a row per colour and a column per channel of the model.

    Returns:
        Mean and standard deviation per channel of a picture in [0, 1], and whether the model's channels are blue, green
        and red; None if it does something else.
    """
    black, white, colour = values.double()
    shares = (colour - black) / (white - black) * 255
    wanted = torch.tensor(COLOURS[2]).double()
    turned = next((turn for turn in (False, True) if torch.allclose(shares, wanted.flip(0) if turn else wanted)), None)
    mean, std = -black / (white - black), 1 / (white - black)
    order = (2, 1, 0) if turned else (0, 1, 2)
    return tuple(float(mean[c]) for c in order), tuple(float(std[c]) for c in order), turned


def _exact(found: tuple[float, ...], told: Any) -> tuple[float, ...]:
    """Numbers that were found within rounding, as the processor's settings have them if these agree."""
    if isinstance(told, (list, tuple)) and np.shape(told) == (3,) and np.allclose(found, told, rtol=0, atol=ROUNDING):
        return tuple(float(value) for value in told)
    return tuple(round(value, 6) + 0.0 for value in found)


class Turned(nn.Module):
    """Red, green and blue to blue, green and red."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to the same shape."""
        return images.flip(1)


def _resized(processor: Any, side: int) -> int:
    """The shorter side to which a processor resizes before it crops to `side`, px."""
    size, share = getattr(processor, "size", None) or {}, getattr(processor, "crop_pct", None)
    if share and side < CROPPED_BELOW:
        return int(side / share)
    shorter = size.get("shortest_edge") or min(size.get("height") or side, size.get("width") or side)
    return max(side, int(shorter))


@contextmanager
def _silent() -> Iterator[None]:
    """Without progress bars and reports; what matters becomes an error of ours."""
    logging: Any = import_module("transformers.utils.logging")
    hub, verbosity, bars = getLogger("huggingface_hub"), logging.get_verbosity(), logging.is_progress_bar_enabled()
    level = hub.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.setLevel(ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


REASONS: Mapping[str, str] = {
    "couldn't connect": "cannot be fetched and is not in this machine's cache; let it reach the network once, or name "
    "a folder that save_pretrained wrote",
    "not a valid model identifier": "is neither a folder nor a model that the hub shows; correct the name, or set "
    "HF_TOKEN for a private one",
    "gated repo": "is given only to those who asked for it; ask on its page, and set HF_TOKEN",
    "Repo id must": "is neither a folder nor a possible name; write hf:OWNER/NAME or the path of a folder",
    "image processor": "has no image processor; give mean and std",
    "safetensors": "has no .safetensors file, and pickles are not loaded; write one with save_pretrained, or name the "
    "pickle as a weights file",
    "custom code": "brings code of its own, which is not run; write a builder of your own",
    "Unrecognized configuration class": "is no image classifier; name one that was trained to classify, or give "
    "prompts to a model such as CLIP",
    "model_type": "is no folder that save_pretrained wrote: its config.json names no model; correct the path",
}
"""What transformers' errors say, and what we say."""


@contextmanager
def _one_sentence(spec: ModelSpec, name: str) -> Iterator[None]:
    """What transformers raises, as one sentence of ours."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # it raises anything at files that it does not expect
        said = next((ours for theirs, ours in REASONS.items() if theirs in str(error)), None)
        reason = said or f"cannot be loaded ({type(error).__name__}: {first_line(error)}); correct the folder"
        raise UserError(f"model '{spec.name}': '{name}' {reason}") from error
