"""A classifier with the layer at which it is explained."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.layout import FEATURE_MAP, Layout
from camrobust.core.explain.readout import SOFTMAX, Readout
from camrobust.core.explain.tail import FirstAffine, PooledHead, Tail
from camrobust.core.precision import arithmetic

BOXES = ("boxes", "pred_boxes")
MASKS = ("out", "masks", "pred_masks", "masks_queries_logits")
"""What the outputs of networks for detection and segmentation hold, in torchvision and transformers."""


def logits_of(output: object) -> Tensor:
    """The logits (B, m) inside the output of a classifier.

    The output may be a tensor, a tuple that begins with one (Inception), an object with `.logits` (Hugging Face) or a
    mapping with the key `logits`. One logit for each image may come as (B,), or for a single image as ().

    Raises:
        UserError: the output holds no logits of that shape, but maybe boxes, masks or scores of positions.
    """
    if isinstance(output, (tuple, list)) and output and not hasattr(output, "logits"):
        output = output[0]
    found = output.get("logits", output) if isinstance(output, Mapping) else output
    logits = getattr(output, "logits", found)
    if isinstance(logits, Tensor) and logits.ndim < 2:
        logits = logits.reshape(-1, 1)
    task = _other_task(output, logits)
    if task:
        raise UserError(
            f"model: it puts out {task}, and only networks with one row of logits for each image can be measured; wrap "
            "it in a module that makes such a row of them"
        )
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: its output must be logits of shape (images, classes), got {shape}; wrap the model")
    return logits


def _other_task(output: Any, logits: object) -> str:
    """What a network for detection or segmentation puts out, in words; "" for another one."""
    held = output if isinstance(output, Mapping) else getattr(output, "__dict__", ())
    if not isinstance(output, Tensor) and any(name in held for name in BOXES):
        return "boxes, as for detection"
    if not isinstance(logits, Tensor):
        return "masks, as for segmentation" if any(name in held for name in MASKS) else ""
    positions = logits.ndim == 4 and logits.shape[2] * logits.shape[3] > 1
    return f"scores for every position {tuple(logits.shape)}, as for segmentation" if positions else ""


@dataclass(frozen=True)
class Network:
    """A classifier with the layer at which it is explained.

    Attributes:
        module: takes normalised images (B, 3, H, W); in evaluation mode.
        layer: the target layer, a submodule of it.
        layer_name: the dotted name of the layer.
        layout: the order of positions and channels in the layer's output.
        tail: the part behind the target layer as a function of its output, None if it cannot be cut out.
        head: the weights of the tail if it is exactly global average pooling and one linear layer, else None.
        first_affine: the tail split at its first linear or convolutional layer if the layers before it keep the
            channels apart, else None.
        precision: number format in which the layers compute.
        prefix: the compiled part up to the target layer (see `compiled`), from images to the layer's output and the
            tail's context; None to run the module itself.
        readout: what the module's outputs mean.
        differentiable: a gradient of the logits reaches the target layer; it does not in a model for inference only
            or with quantised layers, and methods that need none still work.
    """

    module: nn.Module
    layer: nn.Module
    layer_name: str
    layout: Layout = FEATURE_MAP
    tail: Tail | None = None
    head: PooledHead | None = None
    first_affine: FirstAffine | None = None
    precision: str = "fp32"
    prefix: Callable[[Tensor], tuple[object, ...]] | None = None
    readout: Readout = SOFTMAX
    differentiable: bool = True

    def scores(self, output: object) -> Tensor:
        """The scores (B, n) of the classes for what the module put out; called logits elsewhere, see `readout`."""
        return self.readout.scores(logits_of(output))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, n) float32 of normalised images (B, 3, H, W)."""
        with arithmetic(self.precision, images.device):
            return self.scores(self.module(images)).float()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the context, a module is in evaluation mode without parameter gradients; all flags are restored after it.

    Raises:
        UserError: the parameters are inference tensors, which never have gradients.
    """
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise UserError("model: its parameters were made under torch.inference_mode(); build it outside of that")
    training = [part for part in module.modules() if part.training]
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True
