"""Reading a configuration: a YAML file, `--set` overrides, and one sentence about the first mistake."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from camrobust.contract.certify_config import CertifyConfig
from camrobust.contract.config import RunConfig
from camrobust.contract.config_mistakes import first_mistake
from camrobust.contract.errors import UserError
from camrobust.contract.plain_yaml import read_text, read_yaml
from camrobust.contract.quoting import short

LONGEST_INDEX = 10
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
        raise UserError(
            f"config: '{short(str(path))}' must hold keys and values, got {got}; `camrobust init` writes an example"
        )
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
        raise first_mistake(error) from error


def parse_certify(data: Mapping[str, Any]) -> CertifyConfig:
    """Check the part `certify` of a configuration alone; raises as `parse_config` does."""
    try:
        return CertifyConfig.model_validate(dict(data))
    except ValidationError as error:
        raise first_mistake(error, "certify") from error


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
