"""Methods for transformers, from the attention among the tokens of an image."""

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.explain.attention import attend, by_position, head_of, read_at_class_token
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence


def _read_out(evidence: Evidence, values: Tensor, method: str) -> Tensor:
    """(B, N, N) queries and keys to (B, N) keys: the class token's query, or the mean where there is none."""
    return values[:, 0] if read_at_class_token(evidence, values.shape[-1], method) else values.mean(dim=1)


@cam("attention-rollout", needs="attention", cost="passes", source="Abnar & Zuidema, arXiv 2005.00928", year=2020)
def attention_rollout(evidence: Evidence) -> Tensor:
    """Attention rollout: the product over layers of (mean over heads of the attention + I)/2, at the class token.

    Says nothing of a class. Without a class token the mean over all queries is taken.

    References:
        Abnar & Zuidema 2020, arXiv 2005.00928, equation 1.
    """
    with torch.no_grad():
        _, layers = attend(evidence, "attention-rollout")
    rolled = torch.eye(layers[0].weights.shape[-1], device=evidence.images.device)
    for one in layers:
        step = one.weights.float().mean(dim=1) + torch.eye(rolled.shape[-1], device=rolled.device)
        rolled = step / step.sum(dim=-1, keepdim=True) @ rolled
    return by_position(evidence, _read_out(evidence, rolled, "attention-rollout"), "attention-rollout")


@cam("agcam", needs="attention", cost="passes", source="Leem & Seo, arXiv 2402.04563", year=2024)
def agcam(evidence: Evidence) -> Tensor:
    """AG-CAM: Σ over layers and heads of ReLU(∂y_c/∂attention)·sigmoid(score), at the class token's query.

    The score is the attention before its softmax. Without a class token the mean over all queries is taken.

    References:
        Leem & Seo 2024, arXiv 2402.04563, equations 4 to 6.
    """
    with torch.enable_grad():
        score, layers = attend(evidence, "agcam")
        gradients = torch.autograd.grad(score.sum(), [one.weights for one in layers])
    total = sum(
        (g.float().relu() * one.scores.detach().float().sigmoid()).sum(dim=1)
        for g, one in zip(gradients, layers, strict=True)
    )
    return by_position(evidence, _read_out(evidence, torch.as_tensor(total), "agcam"), "agcam")


@cam("legrad", needs="attention", cost="passes", source="Bousselham et al., arXiv 2404.03214", year=2024)
def legrad(evidence: Evidence) -> Tensor:
    """LeGrad: mean over layers, heads and queries of ReLU(∂s/∂attention).

    The score s of a layer is what the model's last normalisation and linear layer say of the mean of that layer's
    tokens, class token included.

    Raises:
        UserError: the model has no attention among all positions, or does not end in a linear layer.

    References:
        Bousselham et al. 2024, arXiv 2404.03214, equations 5 to 8.
    """
    read = head_of(evidence, "legrad")
    maps = []
    with torch.enable_grad():
        _, layers = attend(evidence, "legrad")
        for one in layers:
            if one.block is None:
                raise UserError("legrad: every attention must be in a block that puts out tokens; choose agcam")
            score = evidence.explained(read(one.block)).sum()
            (g,) = torch.autograd.grad(score, one.weights, retain_graph=True)
            maps.append(g.float().relu().mean(dim=(1, 2)))
    return by_position(evidence, torch.stack(maps).mean(dim=0), "legrad")
