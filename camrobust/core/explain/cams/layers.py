"""Methods that combine the maps of several layers. They run the whole model forward and backward once more.

All are combined at a fine resolution and then averaged down to that of the target layer, which all maps here have.
"""

from collections import Counter
from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams.gradient import plus_plus_weights
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.layout import tensor_in
from camrobust.core.precision import GRADIENT_SCALE
from camrobust.core.scaling import min_max

FIRST_STAGE = 2
"""Maps of a fourth of the image's side (2**-2) are the finest that Refine-CAM uses."""
PERCENTILE = 0.9
"""Importances above this percentile of the layers are cut down to it in Winsor-CAM."""
LEAST = 0.1
"""Weight of the least important layer in Winsor-CAM, that of the most important being 1."""


def _outputs_with_gradients(evidence: Evidence, modules: Sequence[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Outputs of some layers and the gradients of the explained logit there, float32, in the order of their runs.

    Runs on which the logit does not depend are left out.
    """
    scale = GRADIENT_SCALE.get(evidence.network.precision, 1.0)
    outputs: list[Tensor] = []
    edges: list[GradientEdge] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = tensor_in(output)
        if tensor is not None and tensor.requires_grad:
            # A later layer may write into the tensor, and autograd would then give the gradient behind it.
            outputs.append(tensor.detach().float().clone())
            edges.append(get_gradient_edge(tensor))

    with torch.enable_grad(), hooked(modules, note):
        score = evidence.explained_logit(evidence.network.logits(evidence.images.clone().requires_grad_()))
        gradients = torch.autograd.grad(score.sum() * scale, edges, allow_unused=True)
    return [(A, g.float() / scale) for A, g in zip(outputs, gradients, strict=True) if g is not None]


def _stages(evidence: Evidence) -> list[nn.Module]:
    """The last layer of each stage before that of the target layer, the finest first.

    What lies in a block that leads from one stage to the next, such as its first convolution, does not count.
    """
    network = evidence.network
    names = {part: name for name, part in network.module.named_modules() if name}
    noted: list[tuple[str, int]] = []
    leading: dict[str, int] = {}
    behind: list[bool] = []

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if module is network.layer:
            behind.append(True)
        stage, before = _stage(evidence, output), _stage(evidence, tensor_in(inputs))
        if not behind and stage is not None:
            noted.append((names[module], stage))
            if before is not None and before < stage:
                leading[names[module]] = before

    with torch.no_grad(), hooked(names, note):
        network.logits(evidence.images[:1])
    runs, own = Counter(name for name, _ in noted), _stage(evidence, evidence.outputs) or 0
    last: dict[int, nn.Module] = {}
    for name, stage in noted:
        around = (name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1))
        if runs[name] == 1 and FIRST_STAGE <= stage < own and all(leading.get(one) != stage for one in around):
            last[stage] = network.module.get_submodule(name)
    return [last[stage] for stage in sorted(last)]


def _stage(evidence: Evidence, output: object) -> int | None:
    """How many times a feature map's side is half the image's, rounded; None if it is no feature map."""
    sides = {"map": (2, 3), "last": (1, 2)}.get(evidence.network.layout.order)
    if sides is None or not isinstance(output, Tensor) or output.ndim != 4:
        return None
    (h, w), (H, W) = (output.shape[side] for side in sides), evidence.images.shape[2:]
    return round(log2(H / h)) if abs(h * W - w * H) < max(H, W) and h > 1 else None


@cam("refinecam", needs="passes", source="Domeniconi et al., arXiv 2605.14641", year=2026)
def refinecam(evidence: Evidence) -> Tensor:
    """RefineCAM: the product over stages of the Grad-CAM++ maps of their last layers.

    A stage is all layers whose maps are about a fourth, an eighth, … as wide as the image. The last stage is that of
    the target layer, which stands for it. Each map is min-max scaled, upsampled (bilinearly) to the image and scaled
    again. Rows of tokens are one stage only; the map is that of Grad-CAM++, smoothed on its way up and down. The
    authors' code leaves the layers to the user; their example takes the ends of the four stages of a ResNet. Deviation:
    the product is averaged down to the target layer's resolution.

    References:
        Domeniconi, Stramiglio, Lombardi & Salti 2026, arXiv 2605.14641; grad-cam 1.5.7, `RefineCAM`.
    """
    layout, stages = evidence.network.layout, _stages(evidence)
    finer = _outputs_with_gradients(evidence, stages) if stages else []
    pairs = [(layout.to_map(A), layout.to_map(g)) for A, g in finer] + [(evidence.activations, evidence.gradients)]
    product = torch.ones_like(evidence.images[:, :1])
    for A, g in pairs:
        scaled = _scaled(A, plus_plus_weights(A.sum(dim=(2, 3)), g.relu()))
        product = product * min_max(_resized(scaled, product.shape[2:]), (2, 3))
    return _reduced(product, evidence)


@cam("winsor-cam", needs="passes", source="Wall et al., arXiv 2507.10846", year=2025)
def winsor_cam(evidence: Evidence) -> Tensor:
    """Winsor-CAM: Σ_l v_l·(Grad-CAM of layer l, min-max scaled) over all convolutional layers l.

    The importance of a layer is ReLU(mean of its Grad-CAM weights). Among an image's layers with a positive importance,
    values above the 90th percentile are cut down to it, and all are scaled linearly to v_l between 0.1 and 1; the other
    layers have v_l = 0. The maps are upsampled (bilinearly) to the size of the largest. All this is as in the authors'
    code. They leave the percentile to the user, ours is that of their example. Deviation: the sum is averaged down to
    the target layer's resolution. Nothing else depends on the target layer.

    Raises:
        UserError: the model has fewer than two convolutional layers.

    References:
        Wall, Wang, Rizk & Santosh 2025, arXiv 2507.10846; code: github.com/USD-AI-ResearchLab/Winsor-CAM.
    """
    convolutions = [part for part in evidence.network.module.modules() if isinstance(part, nn.Conv2d)]
    if len(convolutions) < 2:
        raise UserError(
            f"winsor-cam: the model must have two or more convolutional layers, got {len(convolutions)}; choose gradcam"
        )
    maps, importances = [], []
    for A, g in _outputs_with_gradients(evidence, convolutions):
        weights = g.mean(dim=(2, 3))
        maps.append(_scaled(A, weights))
        importances.append(weights.mean(dim=1).relu())
    size = max(one.shape[2] for one in maps), max(one.shape[3] for one in maps)
    total = torch.zeros(len(evidence.images), 1, *size, device=evidence.images.device)
    for one, share in zip(maps, winsorised(torch.stack(importances, dim=1)).unbind(1), strict=True):
        total = total + share[:, None, None, None] * _resized(one, size)
    return _reduced(total, evidence)


def winsorised(importances: Tensor) -> Tensor:
    """Importances (B, L), none negative, as weights: winsorised from above and scaled to 0.1 … 1; 0 stays 0."""
    positive = importances > 0
    known = importances.masked_fill(~positive, torch.nan)
    cut = torch.minimum(importances, known.nanquantile(PERCENTILE, dim=1, keepdim=True).nan_to_num())
    low = cut.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    spread = cut.amax(dim=1, keepdim=True) - low
    share = torch.where(spread > 0, (cut - low) / spread.clamp(min=torch.finfo(cut.dtype).tiny), 1.0)
    return torch.where(positive, LEAST + (1 - LEAST) * share, 0.0)


def _scaled(activations: Tensor, weights: Tensor) -> Tensor:
    """ReLU Σ_k w_k·A_k, min-max scaled, (B, 1, h, w)."""
    sums = torch.bmm(weights[:, None], activations.flatten(2)).reshape(len(weights), 1, *activations.shape[2:])
    return min_max(sums.relu(), (2, 3))


def _reduced(maps: Tensor, evidence: Evidence) -> Tensor:
    """Maps (B, 1, H, W), averaged down to the resolution (B, h, w) of the target layer."""
    h, w = evidence.activations.shape[2:]
    return adaptive_avg_pool2d(maps, (h, w))[:, 0]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, 1, h, w), upsampled bilinearly."""
    return interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
