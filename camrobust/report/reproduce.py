"""How a run was made and how to make it again, with nothing secret in it."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml


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
