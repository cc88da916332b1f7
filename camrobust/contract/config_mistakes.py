"""One sentence about the first mistake in a configuration: the key, what it must hold, what was given."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from camrobust.contract.config_rules import dotted_keys, found, in_words, keys_at
from camrobust.contract.errors import UserError
from camrobust.contract.former_names import SETTINGS
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown
from camrobust.contract.spelling import folded

MEANT = {
    "cams": ("methods", "method", "explainer", "explanations", "attributions", "saliency", "xai"),
    "perturbations": (
        "noise",
        "noises",
        "corruption",
        "corruptions",
        "attack",
        "attacks",
        "transforms",
        "augmentations",
    ),
    "output": ("out", "outdir", "outputdir", "savedir", "results", "logdir"),
    "seed": ("randomseed", "randomstate"),
    "precision": ("dtype", "amp", "fp16", "bf16", "half"),
    "resave_jpeg_quality": ("jpeg", "jpegquality"),
    "gallery_images": ("visualize", "pictures"),
    "datasets.0.images": ("data", "folder", "path", "photos", "root", "dir", "files", "manifest"),
    "models.0.builder": ("network", "networks", "architecture", "arch", "net", "backbone"),
    "models.0.weights": ("checkpoint", "ckpt", "statedict", "pretrained"),
    "models.0.target_layer": ("layer", "layers", "targetlayers"),
    "models.0.mean": ("normalize", "normalization", "normalisation"),
    "cluster.gpus_per_explainer": ("device", "devices", "gpu", "gpus", "cuda", "numgpus", "ngpu"),
    "cluster.explainers": ("workers", "numworkers", "nworkers", "jobs", "njobs"),
    "cluster.batch": ("batchsize", "bs"),
    "cluster.image_timeout_s": ("timeout",),
    "metric.similarities": ("metrics", "measures", "similarity"),
}
"""Keys that other programs call otherwise, to what is meant here; the words without marks and in small letters."""
WRONG_KIND = ("_type", "_parsing", "_error", "greater_than", "less_than", "too_short", "too_long", "int_from_float",
              "finite_number", "too_small", "too_large", "_size")  # fmt: skip
"""Parts of the names of pydantic's errors that say no more than which values are taken."""


def first_mistake(error: ValidationError, *inside: str) -> UserError:
    """The first mistake that pydantic found, as one sentence with the remedy; `inside` names the part it looked at."""
    errors = error.errors()
    # A key with a slip is also a key that is missing; the slip says more.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    location = (*inside, *first["loc"])
    place, rule = found(location)
    if first["type"] == "extra_forbidden":
        return _unknown_key(location[-1], location[:-1])
    if first["type"] == "missing" and isinstance(location[-1], str):
        return UserError(f"config: the key '{_dotted(location)}' is missing; {_remedy(location[-1])}")
    if first["type"] == "missing":
        return UserError(f"config: {_dotted(place[:-1])} has too few values; give the least and the most")
    where = f"{_dotted(place)}: " if place else ""
    if first["type"] != "value_error" and any(part in first["type"] for part in WRONG_KIND):
        return UserError(f"config: {where}must be {_wanted(first, place, rule)}, got {_given(first['input'])}")
    message = first["msg"].removeprefix("Value error, ")
    got = "" if isinstance(first["input"], (dict, BaseModel)) or "got" in message else f", got {shown(first['input'])}"
    return UserError(f"config: {where}{message[:1].lower() + message[1:]}{got}")


def _wanted(first: Any, place: Sequence[int | str], rule: dict[str, Any]) -> str:
    """What must stand there, in plain words."""
    most = first.get("ctx", {}).get("max_length")
    if "too_long" in first["type"] and most is not None:
        return f"at most {most} {'characters' if first['type'].startswith('string') else 'values'} long"
    if "too_short" in first["type"]:
        return "filled in" if first["type"].startswith("string") else "a list of one or more"
    key = next((one for one in reversed(place) if isinstance(one, str)), "")
    in_list = bool(place) and isinstance(place[-1], int)
    return in_words("" if in_list else key, rule) if rule else "another value"


def _given(value: Any) -> str:
    """What was given; a whole part is not repeated, as it may be long."""
    if isinstance(value, (dict, BaseModel)):
        return "keys and values"
    return "nothing" if value is None or value == "" else shown(value)


def _remedy(key: str) -> str:
    """What to write for a key that is missing."""
    examples = {
        "output": "write for example output: runs/first",
        "datasets": "write for example datasets: [{name: photos, images: path/to/photos}]",
        "models": "write for example models: [\"torchvision:resnet50\"]",
        "cams": "write for example cams: [gradcam, random]; `camrobust list cams` names all",
        "perturbations": "write for example perturbations: [\"gaussian_noise:1-5\"]; `camrobust list perturbations` "
        "names all",
        "name": "give it a name for the result tables",
        "images": "write a folder, a pattern or a table of images",
        "builder": "write for example builder: \"torchvision:resnet50\"",
    }  # fmt: skip
    return examples.get(key, "fill it in")


def _unknown_key(key: int | str, location: Sequence[int | str]) -> UserError:
    """The sentence for a key that is not known: today's name, a near one, or where it belongs."""
    place, _ = found(location)
    where = _dotted([*place, key])
    if where in SETTINGS:
        return UserError(f"config: the key '{where}' is now called '{SETTINGS[where]}'")
    known = keys_at(place)
    above = f"config{': ' + _dotted(place) if place else ''}"
    elsewhere = _belongs(str(key), place, known)
    if elsewhere is not None:
        return UserError(f"{above}: unknown key '{short(str(key))}'; did you mean '{elsewhere}'? known: "
                         f"{', '.join(sorted(known))}")  # fmt: skip
    return UserError(f"{above}: {unknown('key', key, known)}")


def _belongs(key: str, place: Sequence[int | str], known: Sequence[str]) -> str | None:
    """The key that is meant: another word for one, or one that stands in another part; None for a slip."""
    word = folded(key)
    prefix = "".join(f"{0 if isinstance(part, int) else part}." for part in place)
    if any(folded(name) == word for name in known):
        return None
    meant = next((name for name, words in MEANT.items() if word in words), None)
    if meant is None:
        meant = next((name for name in dotted_keys() if folded(name.rpartition(".")[2]) == word), None)
    if meant is None:
        return None
    return meant.removeprefix(prefix) if meant.startswith(prefix) else meant


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(short(str(part)) for part in location)
