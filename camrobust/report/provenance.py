"""How a run was made and how to make it again, with nothing secret in it."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

SECRET = re.compile(
    r"(password|passwd|secret|credential|signature|(^|[_-])token|(api|access|private)[_-]?key)s?$", re.I
)
"""Names of settings whose value is never shown."""
IN_ADDRESS = (
    re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@"),
    re.compile(r"((?:sig|signature|token|credential)=)[^&\s]+", re.I),
)
HIDDEN = "(hidden)"


def masked(value: Any) -> Any:
    """Plain data without the values of secret settings and without the secrets inside addresses."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if SECRET.search(str(key)) and one else masked(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(one) for one in value]
    return _masked_text(value) if isinstance(value, str) else value


def _masked_text(text: str) -> str:
    userinfo, query = IN_ADDRESS
    return query.sub(rf"\1{HIDDEN}", userinfo.sub(f"{HIDDEN}@", text))


def configuration(run: Mapping[str, Any]) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(run.get("config", {}), sort_keys=False, allow_unicode=True)


def commands(run: Mapping[str, Any]) -> list[str]:
    """Shell lines that measure the run again, its configuration saved as run.yaml."""
    if run.get("combined"):
        return [f"camrobust aggregate {shlex.join(run['combined'])} --output again"]
    versions = dict(run.get("versions", {}))
    own = [f"# Python {versions.pop('python', '')}, camrobust {versions.pop('camrobust', '')}"]
    pinned = [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]
    install = [f"pip install {shlex.join(pinned)}"] if pinned else []
    return [*own, *install, "camrobust run run.yaml --output again", "camrobust verify again"]


def stage_times(run: Mapping[str, Any]) -> list[str]:
    """What took how long, a line each."""
    times = run.get("times", {})
    whole = [f"{name}: {seconds:,.1f} s" for name, seconds in times.get("seconds", {}).items()]
    stages = [
        f"{name}: {stage['images']:,.0f} images, {stage['busy_s']:,.1f} s of work"
        for name, stage in times.get("stages", {}).items()
    ]
    return whole + stages
