"""Which CAMs are the same map on a model, found by trying."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS, COSTLY
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.maps import refuse_without_gradient
from camrobust.core.scaling import min_max
from camrobust.measure.model import Model


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
        The name of a CAM to the name of the first CAM before it in the list that equals it on every image (min-max
        scaled maps within 1e-5).
    """
    costly = COSTLY if model.network.head is not None else (*COSTLY, "tail")
    cams = [name for name in cams if CAMS[name].cost not in costly]
    if not cams:
        return {}
    refuse_without_gradient(model.network, [CAMS[name] for name in cams])
    draws = Draws.of(0, "", [str(number) for number in range(len(pixels))], "cam", "probe", 0, model.device)
    network = replace(model.network, precision=precision)
    evidence = collect(network, model.inputs(pixels, precision), draws=draws)
    # Constant maps become NaN, so that they equal no other map.
    scaled = min_max(explain(evidence, [CAMS[name].function for name in cams]), (2, 3), constant=torch.nan)
    same: dict[str, str] = {}
    for later, name in enumerate(cams):
        for earlier in range(later):
            if (scaled[:, later] - scaled[:, earlier]).abs().max() <= 1e-5:
                same[name] = cams[earlier]
                break
    return same
