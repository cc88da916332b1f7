"""Methods that pass masked or noisy images through the model."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence
from camrobust.core.explain.shared_pass import run_with_gradient
from camrobust.core.scaling import min_max, ratio

MASKED_BATCH = 32
"""Largest number of masked images in one pass."""
NOISY_PASSES = 4
NOISE = 0.3
"""Standard deviation of the noise, in units of the normalised input."""


@cam("scorecam", needs="masked inputs", returns="weights", source="Wang et al., arXiv 1910.01279", year=2020)
def scorecam(evidence: Evidence) -> Tensor:
    """Score-CAM: w_k = softmax over k of the logit y_c of the image times mask k; ReLU Σ_k w_k·A_k.

    Mask k is A_k, upsampled (bilinearly) to the image and then min-max scaled; it multiplies the normalised image. The
    logit of the baseline cancels in the softmax. A constant channel has no mask and the weight 0.

    References:
        Wang et al. 2020, arXiv 1910.01279, algorithm 1. Libraries differ from it and from each other by up to 0.1:
        grad-cam upsamples with aligned corners, torchcam scales before upsampling.
    """
    A, images = evidence.activations, evidence.images
    B, C = A.shape[:2]
    scores = []
    for row, channel in evidence.reruns(C, MASKED_BATCH):
        masks = interpolate(A[row, channel][:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
        logits = evidence.network.logits(images[row] * min_max(masks, (2, 3)))
        scores.append(evidence.explained_logit(logits, row))
    constant = A.amax(dim=(2, 3)) == A.amin(dim=(2, 3))
    logits = torch.cat(scores).reshape(B, C).masked_fill(constant, -torch.inf)
    return logits.softmax(dim=1).masked_fill(constant.all(dim=1, keepdim=True), 0)


@cam(
    "smoothgradcam++",
    needs="passes",
    needs_host=True,
    returns="weights",
    source="Omeiza et al., arXiv 1908.01224",
    year=2019,
)
def smoothgradcam_plus_plus(evidence: Evidence) -> Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with g, g² and g³ averaged over noisy copies of the image, and the clean A.

    w = Σ_s α·ReLU(ḡ), α = mean(g²) / (2·mean(g²) + S·mean(g³)), 0 where the denominator is 0; S = Σ_s A. There are
    four copies with normal noise of standard deviation 0.3 on the normalised input, drawn from the image's own stream.
    The explained class is that of the clean image. torchcam pairs these weights with the activations of the last noisy
    copy instead of the clean ones.

    Raises:
        ValueError: the evidence was collected without random streams.

    References:
        Omeiza et al. 2019, arXiv 1908.01224, equation 8.
    """
    draws = evidence.streams("smoothgradcam++").apart("smoothgradcam++")
    powers = torch.zeros(3, *evidence.activations.shape, device=evidence.activations.device)
    for _ in range(NOISY_PASSES):
        noise = draws.normal(evidence.images.shape[1:]).to(evidence.images.device)
        noisy = evidence.images + NOISE * noise
        _, gradients, _, _ = run_with_gradient(evidence.network, noisy, lambda _: evidence.targets)
        g = evidence.network.layout.to_map(gradients)
        powers += torch.stack((g, g**2, g**3))
    first, second, third = powers / NOISY_PASSES
    alpha = ratio(second, 2 * second + evidence.sums[:, :, None, None] * third)
    weights: Tensor = (alpha * first.relu()).sum(dim=(2, 3))
    return weights
