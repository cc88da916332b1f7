"""Methods that pass images through the model that were masked, or made noisy."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from camrobust.core.explain.cams.gradient import ratio
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence, record

NOISY_PASSES = 4
NOISE = 0.3
"""Standard deviation, in units of the normalised input."""


@cam("scorecam", needs="masked inputs", cost="many passes", source="Wang et al., arXiv 1910.01279", year=2020)
def scorecam(evidence: Evidence) -> Tensor:
    """Score-CAM: w = softmax over k of the logit y_c of the image times mask k; ReLU Σ_k w_k·A_k.

    Mask k is A_k upsampled to the image (bilinear) and then min-max scaled; it multiplies the normalised image. The
    logit of the unmasked baseline cancels in the softmax. A channel that is constant has no mask and weighs 0.

    References:
        Wang et al. 2020, arXiv 1910.01279, algorithm 1. Libraries differ from it and from each other by up to 0.1:
        grad-cam upsamples with aligned corners, torchcam scales before it upsamples.
    """
    A, images = evidence.activations, evidence.images
    B, C = A.shape[:2]
    rows = torch.arange(B, device=A.device).repeat_interleave(C)
    channels = torch.arange(C, device=A.device).repeat(B)
    size = max(1, min(32, evidence.chunk))
    scores = []
    for row, channel in zip(rows.split(size), channels.split(size), strict=True):
        masks = interpolate(A[row, channel][:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
        low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
        logits = evidence.network.logits(images[row] * ratio(masks - low, high - low))
        scores.append(evidence.explained(logits, row))
    constant = A.amax(dim=(2, 3)) == A.amin(dim=(2, 3))
    weights = torch.cat(scores).reshape(B, C).masked_fill(constant, -torch.inf).softmax(dim=1)
    weights = torch.where(constant.all(dim=1, keepdim=True), 0.0, weights)
    return torch.einsum("bc,bchw->bhw", weights, A).relu()


@cam("smoothgradcam++", needs="passes", cost="passes", source="Omeiza et al., arXiv 1908.01224", year=2019)
def smoothgradcam_plus_plus(evidence: Evidence) -> Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with g, g² and g³ averaged over noisy copies of the image, and the clean A.

    w = Σ_s α·ReLU(ḡ), α = mean(g²) / (2·mean(g²) + S·mean(g³)), S = Σ_s A; 0 where nothing is left. Four copies with
    normal noise of deviation 0.3 on the normalised input, drawn from the image's own stream; the class is the clean
    image's. torchcam pairs these weights with the gradient of the last noisy copy alone.

    Raises:
        ValueError: the evidence was collected without random streams.

    References:
        Omeiza et al. 2019, arXiv 1908.01224, equation 8.
    """
    if evidence.draws is None:
        raise ValueError(
            "smoothgradcam++: draws must hold one random stream per image, got None; pass draws= to collect()"
        )
    draws = evidence.draws.apart("smoothgradcam++")
    powers = torch.zeros(3, *evidence.activations.shape, device=evidence.activations.device)
    for _ in range(NOISY_PASSES):
        noise = draws.normal(evidence.images.shape[1:]).to(evidence.images.device)
        _, found, _, _ = record(evidence.network, evidence.images + NOISE * noise, lambda _: evidence.targets)
        g = evidence.network.layout.fold(found)
        powers += torch.stack((g, g**2, g**3))
    first, second, third = powers / NOISY_PASSES
    alpha = ratio(second, 2 * second + evidence.sums[:, :, None, None] * third)
    return torch.einsum("bc,bchw->bhw", (alpha * first.relu()).sum(dim=(2, 3)), evidence.activations).relu()
