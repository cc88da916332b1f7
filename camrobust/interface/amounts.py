"""The amounts of a plan in words and units, for the terminal."""

from collections.abc import Mapping
from typing import Any

from camrobust.contract.units import duration, size

NAMES = {
    "cams": "CAMs",
    "variants": "perturbed variants of each image",
    "parts": "parts that an image is measured in",
    "attack_passes": "passes of attacks",
    "forwards": "forward passes",
    "rows": "score rows",
    "score_bytes": "size of the score rows",
    "explain_worker_hours": "work of Explain workers",
    "explain_hours_on_these_workers": "time on these workers",
    "explain_dollars": "price of Explain workers",
    "load_core_hours": "work of loading, on one core",
    "gpu": "warning",
    "repeated_worker_hours": "work that is repeated",
    "replacement_worker_hours": "time that workers are missing",
    "hours_with_interruptions": "time with interruptions",
    "interruptions_add_hours": "time that interruptions add",
    "dollars_with_interruptions": "price with interruptions",
    "interruptions_add_dollars": "price that interruptions add",
}
"""What an amount is called, where its name alone does not say it."""
OF = ("target_layer_of_", "head_of_")
"""Beginnings of names that end with the name of a model, which is kept as it is."""


def in_units(amounts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and amounts as a person reads them.

    >>> in_units({"rows": 12000, "explain_worker_hours": 0.01, "score_bytes": 700000, "head_of_my_net": "binary"})
    [('score rows', '12,000'), ('work of Explain workers', '36 s'), ('size of the score rows', '0.7 MB'), \
('head of my_net', 'binary')]
    """
    return [(_name(name), _amount(name, value)) for name, value in amounts.items()]


def _name(name: str) -> str:
    begun = next((start for start in OF if name.startswith(start)), None)
    if begun is not None:
        return begun.replace("_", " ") + name.removeprefix(begun)
    return NAMES.get(name, name.replace("_", " "))


def _amount(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if "hours" in name:
        return duration(value * 3600)
    if "dollars" in name:
        return f"${value:,.2f}"
    if name.endswith("_bytes"):
        return size(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
