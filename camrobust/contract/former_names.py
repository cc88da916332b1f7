"""Former names of columns and settings; no other module knows them.

A run of an earlier version is read under today's names. A configuration with the former name of a setting is refused,
and the message gives today's; the former place of one of our own builders still works.
"""

from collections.abc import Mapping
from typing import Any

COLUMNS = {"same": "kept_class", "segments": "n_segments", "parameter": "strength"}
"""Columns in the result tables of version 0.1, to today's names."""

SETTINGS = {
    "max_failures": "max_failure_share",
    "jpeg_after": "resave_jpeg_quality",
    "gallery": "gallery_images",
    "metric.target": "metric.explained_class",
    "metric.intervals": "summary.intervals",
}
"""Dotted settings in the run.json of version 0.1, to today's names."""


ATTACKED = dict.fromkeys(("cam_attack", "cam_attack_centre", "cam_attack_region"), "gradcam")
"""Attacks on maps in runs whose rows do not say which CAM they attack, to the CAM that they attacked then."""

BUILDERS = {"camrobust.demo:efficientnet_lite0": "camrobust.interface.demo:efficientnet_lite0"}
"""Builders of camrobust's own that configurations may name, to the places where they are today."""


def renamed_builder(builder: Any) -> Any:
    """Where one of camrobust's own builders is today; any other builder unchanged."""
    return BUILDERS.get(builder, builder) if isinstance(builder, str) else builder


def renamed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from run.json under today's names; where both names are set, today's counts."""
    renamed = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for old, new in SETTINGS.items():
        *parents, name = old.split(".")
        place = renamed.get(parents[0]) if parents else renamed
        if not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        *parents, name = new.split(".")
        place = renamed.setdefault(parents[0], {}) if parents else renamed
        if isinstance(place, dict):
            place.setdefault(name, value)
    models = renamed.get("models")
    if isinstance(models, list):
        renamed["models"] = [
            {**model, "builder": renamed_builder(model["builder"])}
            if isinstance(model, Mapping) and "builder" in model
            else model
            for model in models
        ]
    return renamed
