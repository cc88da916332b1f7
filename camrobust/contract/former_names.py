"""What earlier versions called otherwise. The only place where an old name of a column or a setting is known.

Runs written before are read under today's names; a configuration with an old name is refused with the new one.
"""

from collections.abc import Mapping
from typing import Any

COLUMNS = {"same": "kept_class", "segments": "n_segments", "parameter": "strength"}
"""Columns of the result tables that version 0.1 wrote."""

SETTINGS = {
    "max_failures": "max_failure_share",
    "jpeg_after": "resave_jpeg_quality",
    "gallery": "gallery_images",
    "metric.target": "metric.explained_class",
    "metric.intervals": "summary.intervals",
}
"""Settings of a configuration, dotted, as in the run.json of version 0.1."""


def renamed_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration from run.json under today's names; what both names set keeps today's value."""
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
