"""Methods that pass masked or noisy images through the model."""

from collections.abc import Callable, Iterable

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
SAMPLES = 10
"""Masked images for every channel in SS-CAM and IS-CAM."""
MASK_NOISE = 2.0
"""Standard deviation of the noise of SS-CAM, in units of a mask between 0 and 1."""


Vary = Callable[[Tensor, Tensor], Iterable[Tensor]]
"""A function from masks (N, 1, H, W) in [0, 1] and the image (N,) of each to the variants of these masks."""


def _softmax_of_scores(evidence: Evidence, vary: Vary) -> Tensor:
    """The softmax over channels of the logit y_c of the image times mask k, (B, C).

    Mask k is A_k, upsampled (bilinearly) and then min-max scaled; the logit is the mean over the mask's variants. A
    constant channel has no mask and the weight 0.
    """
    A, images = evidence.activations, evidence.images
    B, C = A.shape[:2]
    scores = []
    for row, channel in evidence.reruns(C, MASKED_BATCH):
        masks = interpolate(A[row, channel][:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
        variants = vary(min_max(masks, (2, 3)), row)
        logits = [evidence.explained_logit(evidence.network.logits(images[row] * mask), row) for mask in variants]
        scores.append(torch.stack(logits).mean(dim=0))
    constant = A.amax(dim=(2, 3)) == A.amin(dim=(2, 3))
    means = torch.cat(scores).reshape(B, C).masked_fill(constant, -torch.inf)
    return means.softmax(dim=1).masked_fill(constant.all(dim=1, keepdim=True), 0)


@cam("scorecam", needs="masked inputs", returns="weights", source="Wang et al., arXiv 1910.01279", year=2020)
def scorecam(evidence: Evidence) -> Tensor:
    """Score-CAM: w_k = softmax over k of the logit y_c of the image times mask k; ReLU Σ_k w_k·A_k.

    Mask k is A_k, upsampled (bilinearly) to the image and then min-max scaled; it multiplies the normalised image. The
    logit of the baseline cancels in the softmax. A constant channel has no mask and the weight 0.

    References:
        Wang et al. 2020, arXiv 1910.01279, algorithm 1. Libraries differ from it and from each other by up to 0.1:
        grad-cam upsamples with aligned corners, torchcam scales before upsampling.
    """
    return _softmax_of_scores(evidence, lambda masks, _: [masks])


@cam(
    "ss-cam",
    needs="masked inputs",
    cost="thousands of passes",
    needs_host=True,
    returns="weights",
    source="Wang et al., arXiv 2006.14255",
    year=2020,
)
def ss_cam(evidence: Evidence) -> Tensor:
    """SS-CAM: Score-CAM whose logits are means over ten masks with noise; ReLU Σ_k w_k·A_k.

    The noise is normal with standard deviation 2. It is added to the mask between 0 and 1, which may leave that range,
    and is the same for all colours. This is SS-CAM(1) of the paper as torchcam reads it; other implementations add the
    noise before the scaling and have no softmax. Deviations: ten samples and not 35, for their cost. An image's ten
    noises are drawn once, from its own stream, and serve all its channels: the differences between channels, which are
    all that the softmax sees, then depend less on chance.

    Raises:
        ValueError: the evidence was collected without random streams.

    References:
        Wang, Naidu, Michael & Kundu 2020, arXiv 2006.14255; torchcam 0.5, `SSCAM`.
    """
    draws = evidence.streams("ss-cam").apart("ss-cam")
    noises = [MASK_NOISE * draws.normal((1, *evidence.images.shape[2:])) for _ in range(SAMPLES)]
    noises = [noise.to(evidence.images.device) for noise in noises]
    return _softmax_of_scores(evidence, lambda masks, rows: (masks + noise[rows] for noise in noises))


@cam(
    "is-cam",
    needs="masked inputs",
    cost="thousands of passes",
    returns="weights",
    source="Naidu et al., arXiv 2010.03023",
    year=2020,
)
def is_cam(evidence: Evidence) -> Tensor:
    """IS-CAM: Score-CAM whose logits are means over the mask times 1/N, 1/N + 2/N, …, 1/N + … + N/N; N = 10.

    The factors are sums, so they grow up to 5.5: torchcam and the other implementations that we found add each mask to
    the ones before. With the factors 1/N, 2/N, …, 1 it would be the integral that the method's name suggests.

    References:
        Naidu et al. 2020, arXiv 2010.03023; torchcam 0.5, `ISCAM`.
    """
    factors = [step * (step + 1) / (2 * SAMPLES) for step in range(1, SAMPLES + 1)]
    return _softmax_of_scores(evidence, lambda masks, _: (masks * factor for factor in factors))


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
