"""Methods for transformers, computed from the attention among the tokens of an image."""

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.explain.attention import by_position, has_class_token, record_attention, token_classifier
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence


def _at_class_token(evidence: Evidence, values: Tensor, method: str) -> Tensor:
    """(B, N queries, N keys) to (B, N keys): the class token's query, or the mean over queries if there is none."""
    return values[:, 0] if has_class_token(evidence, values.shape[-1], method) else values.mean(dim=1)


@cam("attention-rollout", needs="attention", source="Abnar & Zuidema, arXiv 2005.00928", year=2020)
def attention_rollout(evidence: Evidence) -> Tensor:
    """Attention rollout: the product over layers of (mean over heads of the attention + I)/2, at the class token.

    The map does not depend on the class. Without a class token, the mean over all queries is taken.

    References:
        Abnar & Zuidema 2020, arXiv 2005.00928, equation 1.
    """
    with torch.no_grad():
        _, layers = record_attention(evidence, "attention-rollout")
    rolled = torch.eye(layers[0].weights.shape[-1], device=evidence.images.device)
    for layer in layers:
        step = layer.weights.float().mean(dim=1) + torch.eye(rolled.shape[-1], device=rolled.device)
        rolled = step / step.sum(dim=-1, keepdim=True) @ rolled
    return by_position(evidence, _at_class_token(evidence, rolled, "attention-rollout"), "attention-rollout")


@cam("agcam", needs="attention", source="Leem & Seo, arXiv 2402.04563", year=2024)
def agcam(evidence: Evidence) -> Tensor:
    """AG-CAM: Σ over layers and heads of ReLU(∂y_c/∂attention)·sigmoid(score), at the class token's query.

    The score is the attention before the softmax. Without a class token, the mean over all queries is taken.

    References:
        Leem & Seo 2024, arXiv 2402.04563, equations 4 to 6.
    """
    with torch.enable_grad():
        score, layers = record_attention(evidence, "agcam")
        gradients = torch.autograd.grad(score.sum(), [layer.weights for layer in layers])
    total = sum(
        (g.float().relu() * layer.scores.detach().float().sigmoid()).sum(dim=1)
        for g, layer in zip(gradients, layers, strict=True)
    )
    return by_position(evidence, _at_class_token(evidence, torch.as_tensor(total), "agcam"), "agcam")


@cam("legrad", needs="attention", source="Bousselham et al., arXiv 2404.03214", year=2024)
def legrad(evidence: Evidence) -> Tensor:
    """LeGrad: mean over layers, heads and queries of ReLU(∂s/∂attention).

    The score s of a layer is the explained logit that the model's last normalisation and linear layer give for the
    mean of the tokens behind that layer, with the class token.

    Raises:
        UserError: the model has no attention among all positions, a block without output tokens, or no linear head.

    References:
        Bousselham et al. 2024, arXiv 2404.03214, equations 5 to 8.
    """
    classify = token_classifier(evidence, "legrad")
    maps = []
    with torch.enable_grad():
        _, layers = record_attention(evidence, "legrad")
        for layer in layers:
            if layer.block is None:
                raise UserError("legrad: every attention must be in a block that puts out tokens; choose agcam")
            score = evidence.explained_logit(classify(layer.block)).sum()
            (g,) = torch.autograd.grad(score, layer.weights, retain_graph=True)
            maps.append(g.float().relu().mean(dim=(1, 2)))
    return by_position(evidence, torch.stack(maps).mean(dim=0), "legrad")
