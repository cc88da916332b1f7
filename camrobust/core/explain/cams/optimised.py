"""Methods that search for the weights of the channels."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence
from camrobust.core.scaling import min_max

STEPS = 50
"""Largest number of steps."""
RATE = 0.1
"""Learning rate."""
CHECK_EVERY = 5
"""Steps between two looks at the logit; an image whose logit has fallen stops."""


def _combined(weights: Tensor, maps: Tensor) -> Tensor:
    """Σ_k softmax(w)_k·A_k, (B, 1, h, w), for weights (B, C) and maps (B, C, h, w)."""
    rows = weights.softmax(dim=1)[:, None]
    return torch.bmm(rows, maps.flatten(2)).reshape(len(maps), 1, *maps.shape[2:])


def _score(evidence: Evidence, weights: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The explained logit (B,) of the masked images, and its gradient (B, C) with respect to the weights."""
    network, images = replace(evidence.network, precision="fp32"), evidence.images
    with torch.enable_grad():
        weights = weights.clone().requires_grad_()
        mask = interpolate(_combined(weights, maps), size=images.shape[2:], mode="bilinear", align_corners=False)
        score = evidence.explained_logit(network.logits(images * min_max(mask, (2, 3))))
        (gradient,) = torch.autograd.grad(score.sum(), weights)
    return score.detach(), gradient


@cam("opti-cam", needs="masked inputs", source="Zhang et al., arXiv 2301.07002", year=2023)
def opti_cam(evidence: Evidence) -> Tensor:
    """Opti-CAM: Σ_k softmax(w)_k·ReLU(A_k), with the w that maximise the logit y_c of the image times this map.

    The map that multiplies the normalised image is upsampled (bilinearly) and min-max scaled. All w begin at 0.5; Adam
    takes 50 steps of rate 0.1, each a forward and a backward pass through the whole model. They are in full precision,
    because the first steps follow small gradients as far as large ones. After every fifth step an image whose logit is
    lower than five steps before stops. Deviation: in the authors' code, from which these numbers are, the sum over the
    images of a pass decides when all of them stop. A constant map has no mask, so its w stay.

    References:
        Zhang, Torres, Sicre, Avrithis & Ayache 2023, arXiv 2301.07002; code: github.com/hanwei0912/OptiCAM.
    """
    maps = evidence.activations.relu()
    empty = maps.amax(dim=(2, 3)) == 0
    weights = torch.full_like(maps[..., 0, 0], 0.5)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    before = torch.full_like(weights[:, :1], -torch.inf)
    stopped = torch.zeros_like(before, dtype=torch.bool)
    for step in range(STEPS):
        score, gradient = _score(evidence, weights, maps)
        # The gradient of an empty channel is 0, as the mask is scaled. Adam would make steps of the rounding.
        gradient = gradient.masked_fill(empty, 0)
        if step % CHECK_EVERY == 0:
            stopped, before = stopped | (score[:, None] < before), score[:, None]
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, size = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))).sqrt()
        weights = torch.where(stopped, weights, weights + RATE * mean / (size + 1e-8))
    return _combined(weights, maps)[:, 0]
