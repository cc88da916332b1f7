"""Contributions of the channels to the logit by DeepLIFT."""

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams.ablation import terms_of_logit
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.deeplift import RescaleRule
from camrobust.core.explain.evidence import Evidence
from camrobust.core.scaling import ratio

SCALES = (0.1, 1.0, 10.0)
"""Deviations of the random outputs of the target layer with which a model is tried."""
MISSING = 1e-3
"""Largest share of the change of the logit that the contributions may miss there."""
_tried: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], float]] = WeakKeyDictionary()
"""What they missed, by model, target layer, explained output and shapes."""


@cam(
    "lift-cam",
    needs="gradients",
    cost="passes",
    closed_form=True,
    returns="weights",
    source="Jung & Oh, arXiv 2102.05228",
    year=2021,
)
def lift_cam(evidence: Evidence) -> Tensor:
    """LIFT-CAM: w_k = Σ_s of DeepLIFT's contribution of A_k to y_c, against A = 0; ReLU Σ_k w_k·A_k.

    The contributions estimate the SHAP values of the channels. DeepLIFT has a rule for element-wise functions and max
    pooling; other functions have their gradients. So models are refused in which the contributions do not add up to the
    change of the logit: transformers, and networks with gates behind the target layer. If the tail is global average
    pooling and one linear layer, the contribution is exactly fc_w[c, k]·mean_s(A_k); where the logit is positive, the
    map is then that of Ablation-CAM. Otherwise the tail runs once more, in full precision.

    Raises:
        UserError: the contributions do not add up behind this target layer.

    References:
        Jung & Oh 2021, arXiv 2102.05228, ICCV; code: github.com/Hyungsik-Jung/LIFT-CAM.
    """
    if evidence.head is not None:
        return terms_of_logit(evidence, evidence.head)
    evidence = replace(evidence, network=replace(evidence.network, precision="fp32"), outputs=evidence.outputs.float())
    missing = _missing(evidence)
    if not missing <= MISSING:
        raise UserError(
            f"lift-cam: behind '{evidence.network.layer_name}' the contributions of the channels must add up to the "
            f"change of the logit, they miss {missing:.1%} of it; DeepLIFT has no rule for attention, for norms over "
            "channels and for products of activations; choose ablationcam"
        )
    rows = torch.arange(len(evidence.outputs), device=evidence.images.device)
    found, _ = contributions(evidence, evidence.outputs, rows)
    return evidence.network.layout.to_map(found).sum(dim=(2, 3))


def contributions(evidence: Evidence, outputs: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """DeepLIFT's contributions of the target layer's outputs to the explained logit, against outputs of zeros.

    Args:
        evidence: of the images, in full precision.
        outputs: (N, …) float32, in the layer's own layout.
        rows: (N,), the image of each.

    Returns:
        The contributions (N, …), and what they lack, (N,): a share of the change of the logit or, if that is smaller,
        of the largest logit.
    """
    twice = rows.repeat(2)
    with torch.enable_grad():
        leaf = outputs.clone().requires_grad_()
        with RescaleRule():
            logits = evidence.logits_of_outputs(torch.cat((leaf, torch.zeros_like(leaf))), twice)
        score, without = evidence.explained_logit(logits, twice).split(len(rows))
        (slopes,) = torch.autograd.grad(score.sum(), leaf)
    found, change = outputs * slopes, (score - without).detach()
    size = torch.maximum(change.abs(), logits.detach().abs().amax(dim=1)[: len(rows)])
    return found, ratio((found.flatten(1).sum(dim=1) - change).abs(), size)


def _missing(evidence: Evidence) -> float:
    """The largest share that contributions lack for fixed outputs of the target layer; tried once for a model."""
    known = _tried.setdefault(evidence.network.module, {})
    explained = evidence.network.readout.explained
    key = evidence.network.layer_name, explained, evidence.outputs.shape[1:], evidence.images.shape[1:]
    if key not in known:
        # Nothing of the images of this pass may enter: every worker must come to what the plan came to.
        generator, device = torch.Generator().manual_seed(0), evidence.outputs.device
        outputs = _probes(evidence, generator).to(device)
        rows = torch.arange(len(outputs), device=device)
        images = torch.randn(len(outputs), *evidence.images.shape[1:], generator=generator).to(device)
        targets = rows % evidence.logits.shape[1] if explained is None else torch.full_like(rows, explained)
        trial = replace(evidence, images=images, outputs=outputs, targets=targets)
        known[key] = float(contributions(trial, outputs, rows)[1].max())
    return known[key]


def _probes(evidence: Evidence, generator: torch.Generator) -> Tensor:
    """Random outputs (N, …) of the target layer in its own layout, at every scale.

    Noise averages out in global pooling and then reaches no bend of a function behind it. So there are also maps that
    are constant in each channel: of both signs, of one sign, and of the other.
    """
    noise = torch.randn(2 * len(SCALES), *evidence.outputs.shape[1:], generator=generator)
    layout = evidence.network.layout
    channels = layout.to_map(noise).shape[1]
    constant = torch.randn(2 * len(SCALES), channels, 1, 1, generator=generator)
    constant = torch.cat((constant, constant[: len(SCALES)].abs(), -constant[len(SCALES) :].abs()))
    constant = constant.expand(-1, -1, *layout.to_map(noise).shape[2:])
    flat = layout.from_map(constant, noise.repeat(2, *[1] * (noise.ndim - 1)))
    outputs = torch.cat((noise, flat))
    scales = torch.tensor(SCALES).repeat(len(outputs) // len(SCALES))
    return outputs * scales.reshape(-1, *[1] * (outputs.ndim - 1))
