"""A classifier made of an image-text model such as CLIP and a list of prompts, one per class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.tail import nearly_equal
from camrobust.measure.built import ModelSpec


class ZeroShot(nn.Module):
    """Logits = scale · cos(image, prompt) + bias, with the prompts embedded once.

    Args:
        model: with `get_image_features`, as CLIP's of transformers.
        texts: (n, C), the embedded prompts, of length 1.
        scale: of the cosines.
        bias: added to them; SigLIP has one.
    """

    def __init__(self, model: Any, texts: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model = model
        self.texts, self.scale, self.bias = nn.Buffer(texts), nn.Buffer(scale), nn.Buffer(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, n) of normalised images (B, 3, H, W)."""
        embedded = _pooled(self.model.get_image_features(pixel_values=images))
        cosines: Tensor = embedded / embedded.norm(dim=-1, keepdim=True) @ self.texts.T
        logits: Tensor = self.scale * cosines + self.bias
        return logits


def _pooled(output: Any) -> Tensor:
    """(B, C), the embedding in what the features' methods return."""
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled


def with_prompts(spec: ModelSpec, model: Any, tokenizer: Any, prompts: Sequence[str]) -> ZeroShot:
    """An image-text model with prompts as its head; the parts that only embed text are left out.

    Args:
        spec: for messages.
        model: of transformers, in evaluation mode.
        tokenizer: of the same model.
        prompts: one per class.

    Raises:
        UserError: a prompt is too long, or the model's own logits are not those of such a head.
    """
    longest = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    if max(map(len, tokenizer(list(prompts))["input_ids"])) > longest:
        raise UserError(f"model '{spec.name}': a prompt is longer than {longest} tokens; shorten it")
    tokens = tokenizer(list(prompts), padding="max_length", max_length=longest, return_tensors="pt")
    side = model.config.vision_config.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    ran: set[nn.Module] = set()
    with torch.no_grad():
        embedded = _pooled(model.get_text_features(**tokens))
        texts = embedded / embedded.norm(dim=-1, keepdim=True)
        bias = getattr(model, "logit_bias", None)
        scale = model.logit_scale.exp()
        whole = ZeroShot(model, texts, scale, torch.zeros(()) if bias is None else bias.detach().clone())
        wanted = model(pixel_values=images, **tokens).logits_per_image
        with hooked(model.children(), lambda part, _inputs, _output: ran.add(part)):
            found = whole(images)
    if not nearly_equal(found, wanted):
        raise UserError(
            f"model '{spec.name}': its logits are not scaled cosines of image and prompt; write a builder of your own"
        )
    for name, part in [*model.named_children()]:
        if part not in ran:
            delattr(model, name)
    return whole
