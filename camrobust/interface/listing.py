"""The registries as plain rows, for `camrobust list` and the tables in docs/."""

from collections.abc import Sequence
from math import isinf
from typing import Any

from camrobust.contract.errors import UserError
from camrobust.contract.run_record import UNKNOWN, PluginRecord
from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS, Perturbation
from camrobust.core.similarity import SIMILARITIES
from camrobust.measure.plugins import KINDS as REGISTERED
from camrobust.measure.plugins import OWN, load_plugins

KINDS = ("cams", "perturbations", "similarities", "segments", "models")


def catalogue(kind: str, plugins: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per entry of a registry, with the facts that users choose by.

    Args:
        kind: one of `KINDS`.
        plugins: modules of the user's own; where there are some, each row names the package that the method is from.

    Raises:
        UserError: a plugin cannot be loaded, or registers nothing of this kind by nature.
    """
    if plugins and kind not in REGISTERED:
        raise UserError(f"list: plugins register {', '.join(REGISTERED)}, no {kind}; leave --plugins out")
    loaded = load_plugins(plugins)
    rows = {
        "cams": _cams,
        "perturbations": _perturbations,
        "similarities": _similarities,
        "segments": _segments,
        "models": _models,
    }
    if not plugins:
        return rows[kind]()
    packages = {name: _package(module, plugin) for module, plugin in loaded.items() for name in getattr(plugin, kind)}
    return [{"name": row["name"], "package": packages.get(row["name"], OWN), **row} for row in rows[kind]()]


def _package(module: str, plugin: PluginRecord) -> str:
    """The distribution and its version, or the top-level module of what is not installed."""
    return plugin.release if plugin.package != UNKNOWN else f"{module.partition('.')[0]} (not installed)"


def _cams() -> list[dict[str, Any]]:
    return [
        {
            "name": cam.name,
            "needs": cam.needs,
            "cost": cam.cost,
            "map": "signed" if cam.signed else "not negative",
            "year": cam.year,
            "source": cam.source,
        }
        for cam in CAMS
    ]


def _perturbations() -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "family": entry.family,
            "parameters": "; ".join(map(str, entry.parameters)),
            "severity 1 to 5": " ".join(",".join(f"{value:g}" for value in strength) for strength in entry.severities),
            "chosen for": "any size" if entry.size is None else f"{entry.size} px",
            "channels": "any" if entry.channels is None else " or ".join(map(str, entry.channels)),
            "random": "yes" if entry.random else "no",
            "needs": _needed(entry),
            "source": entry.source,
        }
        for entry in PERTURBATIONS
    ]


def _needed(entry: Perturbation) -> str:
    """What a perturbation follows beside the image."""
    if entry.attacked_cam is not None:
        return f"model, and its map by {entry.attacked_cam} or cam=…"
    return "model" if entry.needs_model else "image"


def _similarities() -> list[dict[str, Any]]:
    rbo = {"name": "rbo, rbo_adjusted", "compares": "segments", "range": "0 to 1; adjusted: 0 = chance",
           "direction": "higher = more alike", "unit": "overlap of segment rankings", "measured": "always",
           "source": "Webber 2010; Corsi & Urbano 2024"}  # fmt: skip
    return [
        rbo,
        *(
            {
                "name": measure.name,
                "compares": measure.takes,
                "range": f"{measure.low:g} to {_bound(measure.high)}",
                "direction": measure.direction,
                "unit": measure.unit,
                "measured": "by default" if measure.default else "if asked for",
                "source": measure.source,
            }
            for measure in SIMILARITIES
        ),
    ]


def _segments() -> list[dict[str, Any]]:
    return [
        {
            "name": segmenter.name,
            "parameters": "; ".join(map(str, segmenter.parameters)),
            "deterministic": "yes" if segmenter.deterministic else "no",
            "source": segmenter.source,
        }
        for segmenter in SEGMENTERS
    ]


def _bound(value: float) -> str:
    return "∞" if isinf(value) else f"{value:g}"


def _models() -> list[dict[str, Any]]:
    from torchvision import models

    rows = [
        {"builder": f"torchvision:{name}", "weights": ", ".join(models.get_model_weights(name).__members__)}
        for name in models.list_models(module=models)
    ]
    try:
        import timm
    except ImportError:
        return rows
    return rows + [{"builder": f"timm:{name}", "weights": "published"} for name in timm.list_models(pretrained=True)]
