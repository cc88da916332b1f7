"""The registries as plain rows, for `camrobust list` and the tables in docs/."""

from math import isinf
from typing import Any

from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.core.similarity import SIMILARITIES

KINDS = ("cams", "perturbations", "similarities", "segments", "models")


def catalogue(kind: str) -> list[dict[str, Any]]:
    """One row per entry of a registry, with the facts that users choose by.

    Args:
        kind: one of `KINDS`.
    """
    rows = {
        "cams": _cams,
        "perturbations": _perturbations,
        "similarities": _similarities,
        "segments": _segments,
        "models": _models,
    }
    return rows[kind]()


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
            "name": perturbation.name,
            "family": perturbation.family,
            "parameter": ", ".join(perturbation.parameters),
            "unit": perturbation.unit,
            "severity 1 to 5": " ".join(_strength(strength) for strength in perturbation.severities),
            "chosen for": "any size" if perturbation.size is None else f"{perturbation.size} px",
            "random": "yes" if perturbation.random else "no",
            "needs": "model" if perturbation.needs_model else "image",
            "source": perturbation.source,
        }
        for perturbation in PERTURBATIONS
    ]


def _strength(strength: Any) -> str:
    return ",".join(f"{value:g}" for value in strength) if isinstance(strength, tuple) else f"{strength:g}"


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
            "name": method.name,
            "parameters": "; ".join(f"{p.name} = {p.default:g} ({p.meaning})" for p in method.parameters),
            "deterministic": "yes" if method.deterministic else "no",
            "source": method.source,
        }
        for method in SEGMENTERS
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
