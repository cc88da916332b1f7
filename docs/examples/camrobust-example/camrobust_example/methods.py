"""One CAM, one perturbation and one similarity; importing this module registers them."""

from typing import Annotated

from torch import Tensor

import camrobust
from camrobust.contract.parameters import Parameter
from camrobust.core.draws import Draws
from camrobust.core.explain.evidence import Evidence


@camrobust.cam("abs-gradcam", needs="gradients", source="camrobust-example", year=2026)
def abs_gradcam(evidence: Evidence) -> Tensor:
    """Grad-CAM without signs, (B, h, w): Σ_k |mean_s(g_k)|·|A_k|, all that moves the logit whichever way."""
    weights = evidence.gradients.mean(dim=(2, 3), keepdim=True).abs()
    return (weights * evidence.activations.abs()).sum(dim=1)


@camrobust.perturbation(severities=(0.02, 0.05, 0.1, 0.2, 0.4), family="sensor", source="camrobust-example")
def dead_rows(
    images: Tensor, share: Annotated[float, Parameter(0, 1, "share of the rows", "probability of a row")], draws: Draws
) -> Tensor:
    """Rows of a sensor that give nothing: each row is black with this probability, (B, 3, H, W) in [0, 1]."""
    alive = draws.uniform((1, images.shape[2], 1)) >= share
    return images * alive.to(images.device)


@camrobust.similarity(
    "area_shift", takes="positions", low=0, high=1, same=0, unit="share of the positions", source="camrobust-example"
)
def area_shift(clean: Tensor, noisy: Tensor) -> Tensor:
    """Change of the share of positions above the middle of the map's range, [0, 1], 0 = same."""
    return (_hot_share(clean) - _hot_share(noisy)).abs()


def _hot_share(maps: Tensor) -> Tensor:
    low, high = maps.amin(dim=-1, keepdim=True), maps.amax(dim=-1, keepdim=True)
    return (maps > (low + high) / 2).float().mean(dim=-1)
