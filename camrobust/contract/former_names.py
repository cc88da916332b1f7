"""Former names of columns and settings; no other module knows them.

A run of an earlier version is read under today's names. A configuration with a former name is refused, and the message
gives today's.
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
    return renamed
