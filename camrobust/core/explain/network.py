"""A classifier with the layer at which it is explained."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.layout import FEATURE_MAP, Layout
from camrobust.core.explain.tail import FirstAffine, PooledHead, Tail
from camrobust.core.precision import arithmetic


def logits_of(output: object) -> Tensor:
    """The logits (B, n) inside the output of a classifier.

    The output may be a tensor, a tuple that begins with one (Inception), an object with `.logits` (Hugging Face) or a
    mapping with the key `logits`.

    Raises:
        UserError: the output holds no logits of that shape.
    """
    if isinstance(output, (tuple, list)) and output and not hasattr(output, "logits"):
        output = output[0]
    if isinstance(output, Mapping) and not hasattr(output, "logits"):
        output = output.get("logits", output)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: its output must be logits of shape (images, classes), got {shape}; wrap the model")
    return logits


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
        outputs: what the module puts out, "logits", "probabilities" or "sigmoids"; all are called logits elsewhere.
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
    outputs: str = "logits"

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities of the classes, (B, n), for what the module put out: a softmax, unless it holds one."""
        return logits if self.outputs == "probabilities" else logits.softmax(dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, n) float32 of normalised images (B, 3, H, W)."""
        with arithmetic(self.precision, images.device):
            return logits_of(self.module(images)).float()


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
