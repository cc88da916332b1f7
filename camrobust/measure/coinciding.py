"""Which CAMs are the same map on a model, found by trying."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS, COSTLY
from camrobust.core.explain.evidence import Choose, collect, explain
from camrobust.core.explain.maps import refuse_without_gradient
from camrobust.core.explain.readout import Readout
from camrobust.core.scaling import min_max
from camrobust.measure.model import Model

NEAR = 1e-5
"""Largest difference of two scaled maps that count as equal."""


def coinciding(model: Model, cams: Sequence[str], pixels: Tensor, precision: str = "fp32") -> dict[str, str]:
    """Which CAMs give the same map for this model and layer, found by trying.

    Methods that take hundreds of passes are left out: Score-CAM, its variants and Opti-CAM always, Ablation-CAM and
    Recipro-CAM where the layers behind the target layer have no closed form.

    Args:
        model: the classifier.
        cams: names in the order of the configuration.
        pixels: (B, C, H, W), some images as they are measured.
        precision: of the layers.

    Returns:
        The name of a CAM to the name of the first CAM before it in the list that equals it on every image, for
        its highest score and its lowest one (min-max scaled maps within `NEAR`).
    """
    costly = COSTLY if model.network.head is not None else (*COSTLY, "tail")
    cams = [name for name in cams if CAMS[name].cost not in costly]
    if not cams:
        return {}
    refuse_without_gradient(model.network, [CAMS[name] for name in cams])
    network = replace(model.network, precision=precision)
    ids, inputs = [str(number) for number in range(len(pixels))], model.inputs(pixels, precision)
    scaled = []
    for choose in _choices(network.readout):
        draws = Draws.of(0, "", ids, "cam", "probe", 0, model.device)
        maps = explain(collect(network, inputs, choose, draws), [CAMS[name].function for name in cams])
        scaled.append(min_max(maps, (2, 3), constant=torch.nan))
    together = torch.cat(scaled)
    same: dict[str, str] = {}
    for later, name in enumerate(cams):
        first = next((one for one in range(later) if _equal(together[:, one], together[:, later])), None)
        if first is not None:
            same[name] = cams[first]
    return same


def _choices(readout: Readout) -> list[Choose]:
    """Which scores are explained: those that a run explains, and the lowest, whose sign is another one more often.

    Some methods agree only where the explained score is above 0. Noise says nothing about its sign on photos.
    """
    lowest: Choose = partial(torch.argmin, dim=1)
    if readout.explained is None:
        return [readout.predicted, lowest]
    return [readout.predicted, lowest, partial(torch.argmax, dim=1)]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether scaled maps (N, h, w), NaN where constant, are equal; a map that is constant in both says nothing."""
    silent = (one.isnan() & other.isnan()).flatten(1).all(dim=1)
    differences = (one - other)[~silent].abs()
    return bool(len(differences)) and bool((differences <= NEAR).all())
