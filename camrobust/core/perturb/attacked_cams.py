"""Which CAM an attack on maps climbs: one that is named, several, or each of the run that can be climbed."""

from collections.abc import Mapping, Sequence

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short, shown
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb.registry import Perturbation

EACH = "each"
"""Stands for every differentiable CAM of the run."""


def differentiable() -> tuple[str, ...]:
    """Names of the CAMs that are smooth functions of activations and gradients; those of plugins come last."""
    return tuple(cam.name for cam in CAMS if cam.differentiable)


def check_differentiable(attack: str, cam: str) -> None:
    """Raise UserError unless a CAM can be climbed."""
    if cam not in differentiable():
        raise UserError(
            f"{attack}: cam must be differentiable, got '{short(cam)}'; choose one of {', '.join(differentiable())}"
        )


def taken_from(entry: Perturbation, given: Mapping[str, object]) -> tuple[tuple[str | None, ...], dict[str, object]]:
    """The CAMs that the settings of a perturbation name, and the settings without them.

    Args:
        entry: the perturbation.
        given: its settings by name; "cam" is a name, "each", or a list of names.

    Raises:
        UserError: the CAMs are no names, or one of them cannot be climbed.
    """
    if entry.attacked_cam is None or "cam" not in given:
        return (entry.attacked_cam,), dict(given)
    named = given["cam"]
    names = list(named) if isinstance(named, (list, tuple)) else [named]
    if not names or not all(isinstance(name, str) for name in names) or (EACH in names and len(names) > 1):
        raise UserError(
            f"perturbations: cam of {entry.name} must be the name of a CAM, a list of names, or {EACH}, "
            f"got {shown(named)}"
        )
    for name in names:
        if name not in (EACH, entry.attacked_cam):
            check_differentiable(f"perturbations: {entry.name}", str(name))
    return tuple(map(str, names)), {key: value for key, value in given.items() if key != "cam"}


def of_run(attack: str, cams: Sequence[str]) -> list[str]:
    """The differentiable CAMs among those of a run, which an attack on each CAM attacks.

    Raises:
        UserError: there are none.
    """
    targets = [name for name in cams if name in differentiable()]
    if not targets:
        raise UserError(
            f"perturbations: cam: {EACH} of {attack} must find a differentiable CAM among those that are measured, got "
            f"{short(', '.join(cams)) or 'none'}; add one of {', '.join(differentiable())}"
        )
    return targets
