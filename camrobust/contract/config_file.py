"""Reading a configuration: a YAML file, `--set` overrides, and one sentence about the first mistake."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from camrobust.contract.config import RunConfig
from camrobust.contract.config_parts import (
    ClusterConfig,
    DatasetConfig,
    ImageConfig,
    MetricConfig,
    SummaryConfig,
)
from camrobust.contract.errors import UserError
from camrobust.contract.former_names import SETTINGS
from camrobust.contract.model_config import ModelConfig
from camrobust.contract.plain_yaml import read_text, read_yaml
from camrobust.contract.quoting import short, shown
from camrobust.contract.registry import unknown

LONGEST_INDEX = 10
UNIONS = ("str", "constrained-str", "dict[str,any]", "tuple[str, ...]")
"""Words that pydantic adds to the place of a mistake where a value may have several types."""
KINDS = {
    type(None): "nothing", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false",
}  # fmt: skip


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
    """Check a configuration given as plain data.

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
    """The keys that are known at a place of the configuration."""
    places: dict[str, type[BaseModel]] = {
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
        return UserError(f"config: {place} has too few values, {location[-1]}; give least and most")
    if first["type"] == "missing":
        return UserError(f"config: the key '{where}' is missing")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = first["input"]
    got = "" if isinstance(given, (dict, BaseModel)) or "got" in message else f", got {shown(given)}"
    return UserError(f"config: {where + ': ' if where else ''}{message}{got}")


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(short(str(part)) for part in location)
