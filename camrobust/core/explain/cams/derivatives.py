"""Methods that need another derivative of the tail than the gradient of one logit.

Symbols: A activations (B, C, h, w), g = ∂y_c/∂A, y the logits, c the explained class, mean_s over positions.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

ALPHA = 0.6
"""Weight of the competing classes in Finer-CAM."""
COMPETITORS = 3
"""Number of the competing classes in Finer-CAM."""


def _all_rows(evidence: Evidence) -> Tensor:
    """The numbers of all images, (B,)."""
    return torch.arange(len(evidence.images), device=evidence.images.device)


def _contrast(evidence: Evidence, shares: Tensor) -> Tensor:
    """mean_s of the gradient of a weighted sum of the logits, (B, C), for weights (B, n)."""
    if evidence.head is not None:
        return shares @ evidence.head.weight.float() / evidence.activations[0, 0].numel()
    with torch.enable_grad():
        outputs = evidence.outputs.clone().requires_grad_()
        contrast = (evidence.logits_of_outputs(outputs, _all_rows(evidence)) * shares).sum()
        (gradients,) = torch.autograd.grad(contrast, outputs)
    return evidence.network.layout.to_map(gradients).float().mean(dim=(2, 3))


@cam(
    "diffgradcam",
    needs="gradients",
    cost="passes",
    closed_form=True,
    returns="weights",
    source="Piland et al., arXiv 2506.08514",
    year=2025,
)
def diffgradcam(evidence: Evidence) -> Tensor:
    """DiffGradCAM: Grad-CAM of y_c - mean(y of all other classes).

    What is added to all logits cancels: it changes no probability, but a network can be trained to hide in it what it
    looks at. If the logits add up to a constant, the map is that of Grad-CAM. If the tail is global average pooling and
    one linear layer, the gradient is known; otherwise the tail runs once more.

    The authors published no code, and we could read only what they say of the method, not their equations. The mean is
    our reading: it has both properties that they name, resistance to such training and Grad-CAM's map without it.

    References:
        Piland, Sweet & Czajka 2025, arXiv 2506.08514.
    """
    others = max(1, evidence.logits.shape[1] - 1)
    shares = torch.full_like(evidence.logits, -1 / others).scatter(1, evidence.targets[:, None], 1.0)
    return _contrast(evidence, shares)


@cam(
    "finercam",
    needs="gradients",
    cost="passes",
    closed_form=True,
    returns="weights",
    source="Zhang et al., arXiv 2501.11309",
    year=2025,
)
def finercam(evidence: Evidence) -> Tensor:
    """Finer-CAM: Grad-CAM of y_c - α·mean(y of the 3 classes whose logits are nearest to y_c), α = 0.6.

    This removes what the class has in common with similar classes. If the tail is global average pooling and one linear
    layer, the gradient is known; otherwise the tail runs once more. With fewer than four classes, all others are taken.

    References:
        Zhang et al. 2025, arXiv 2501.11309, equation 5; α and 3 as published.
    """
    away = (evidence.logits - evidence.scores[:, None]).abs().scatter(1, evidence.targets[:, None], torch.inf)
    count = min(COMPETITORS, evidence.logits.shape[1] - 1)
    nearest = away.topk(count, dim=1, largest=False).indices
    shares = torch.zeros_like(evidence.logits).scatter(1, nearest, -ALPHA / max(1, count))
    shares = shares.scatter(1, evidence.targets[:, None], 1.0)
    return _contrast(evidence, shares)


@cam(
    "shapleycam",
    needs="gradients",
    cost="passes",
    closed_form=True,
    returns="weights",
    source="Cai, arXiv 2501.06261",
    year=2025,
)
def shapleycam(evidence: Evidence) -> Tensor:
    """ShapleyCAM: w = mean_s(g - ½·H·A), H the Hessian of y_c with respect to the layer's output; ReLU Σ_k w_k·A_k.

    The weights are a second-order Taylor estimate of the Shapley values of the activations. H·A is one Hessian-vector
    product through the tail, over class and register tokens too. It is 0 if the tail is piecewise linear in A (pooling,
    linear layers and ReLUs); the map is then that of Grad-CAM.

    References:
        Cai 2025, arXiv 2501.06261, equation 14; with the logit as utility, as in grad-cam.
    """
    if evidence.head is not None:
        return evidence.mean_gradients
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = evidence.outputs.clone().requires_grad_()
        score = evidence.explained_logit(evidence.logits_of_outputs(outputs, _all_rows(evidence))).sum()
        (gradients,) = torch.autograd.grad(score, outputs, create_graph=True)
        product = None
        if gradients.requires_grad:
            along = (gradients * outputs.detach()).sum()
            (product,) = torch.autograd.grad(along, outputs, allow_unused=True)
    weights = gradients.detach() if product is None else gradients.detach() - 0.5 * product
    return evidence.network.layout.to_map(weights).float().mean(dim=(2, 3))
