"""Models by name: builder, weights, target layer and preprocessing tied together in one row.

"torchvision:resnet50@IMAGENET1K_V2", "timm:tf_efficientnet_lite0" or "package.module:function", each with an optional
weights file. Fetching is not done here: a weights file arrives as its content.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camrobust.contract.defaults import RGB
from camrobust.contract.errors import UserError
from camrobust.contract.heads import parse_head
from camrobust.contract.quoting import first_line, shown
from camrobust.core.channels import spoken
from camrobust.core.explain.hooks import hooked
from camrobust.core.explain.network import Network, frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from camrobust.core.precision import arithmetic, fastest_layout
from camrobust.measure.built import IMAGENET_MEAN, IMAGENET_STD, ModelSpec, some
from camrobust.measure.networks import filled, plain
from camrobust.measure.remedies import unwatchable, what_it_takes
from camrobust.measure.trial_passes import REMARKS, readout_of, what_it_depends_on

PROBES = 2
LARGEST_NORMALISATION = 4
"""Means or deviations above this are taken to be on the 0-255 scale."""


@dataclass
class PassLimit:
    """How many images one pass holds on this device; None until a pass ran out of memory."""

    images: int | None = None


@dataclass(frozen=True)
class Model:
    """A model ready to be measured.

    Attributes:
        name: as it stands in the results.
        network: the module, its target layer and the tail behind it.
        mean: (C, 1, 1) on the model's device, one value for each channel of the images.
        std: (C, 1, 1) on the model's device.
        classes: number of classes or labels; of values, number of them.
        channels_last: whether it takes images whose channels are last in memory; a model that calls `view` on a feature
            map does not.
        fits: how many images one pass holds.
        prepared: what `measure.prepared` keeps from pass to pass.
        state_sha256: hash of the network as it was built (`measure.networks`); empty for a module of the caller's.
        class_names: those that the builder knows, in the order of the logits; empty where it knows none.
        size: shorter side after resizing and side of the crop that its builder names, px; None where they are those of
            the images here, or unknown.
    """

    name: str
    network: Network
    mean: Tensor
    std: Tensor
    classes: int
    channels_last: bool = True
    fits: PassLimit = field(default_factory=PassLimit)
    prepared: dict[Any, Any] = field(default_factory=dict)
    state_sha256: str = ""
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.mean.device

    @property
    def channels(self) -> int:
        """Number of channels of the images that it takes."""
        return len(self.mean)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences that the user should read before the numbers are made."""
        readout = self.network.readout
        remarks = REMARKS.get((readout.kind, readout.outputs), ())
        if self.size is not None:
            resize, crop = self.size
            remarks += (
                f"its weights are for images that are resized to {resize} px and cropped to {crop} px; set image: "
                f"{{resize: {resize}, crop: {crop}}}",
            )
        return tuple(f"model '{self.name}': {remark}" for remark in remarks)

    def pass_size(self, batch: int) -> int:
        """How many images a pass holds that should hold so many."""
        return min(batch, self.fits.images or batch)

    def remember(self, images: int) -> None:
        """Let no pass hold more images than this, because more of them ran out of memory."""
        self.fits.images = images
        # Graphs and code for the larger shape would keep memory that is short.
        self.prepared.clear()

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 or in [0, 1], to the model's input, float32 on its device."""
        images = images.to(self.device)
        scaled = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        return (scaled - self.mean) / self.std

    def inputs(self, images: Tensor, precision: str) -> Tensor:
        """Normalised images, in the memory order in which the model computes fastest."""
        ready = self.normalise(images)
        return fastest_layout(ready, precision) if self.channels_last else ready


def load_model(
    spec: ModelSpec,
    weights: bytes | None = None,
    image_size: int = 224,
    device: str | torch.device = "cpu",
    *,
    seed: int = 0,
) -> Model:
    """Build a model, fill it with its weights, and find or check its target layer.

    Args:
        spec: what to build.
        weights: content of the weights file that the spec names; None if it names none.
        image_size: side of the square crop, px; dummy images of that size pass through the model.
        device: where to put the model.
        seed: of torch's generators while it is built, for weights that stay random.

    Returns:
        The model in evaluation mode with frozen parameters.

    Raises:
        UserError: unknown builder, weights that do not fit, no such target layer, an output that is not logits.
    """
    built, state = filled(spec, weights, seed)
    model = wrap(
        built.module,
        name=spec.name,
        target_layer=spec.target_layer,
        mean=spec.mean or built.mean,
        std=spec.std or built.std,
        image_size=image_size,
        device=device,
        head=spec.head,
    )
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    size = None if built.size is None or (built.size[1], built.size[1]) == sides else built.size
    return replace(model, state_sha256=state, class_names=built.classes, size=size)


def wrap(
    module: nn.Module,
    *,
    name: str = "model",
    target_layer: str | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    image_size: int | tuple[int, int] = 224,
    device: str | torch.device | None = None,
    head: str | None = None,
) -> Model:
    """Make any classifier measurable. Its parameters stay frozen; `core.explain.evidence.frozen` restores them.

    Args:
        module: takes (B, C, H, W), returns logits (B, m), a tuple that begins with them, or an object with `.logits`.
        name: as it stands in the results.
        target_layer: dotted name of a submodule, None to discover it.
        mean: of the normalisation, one value for each of the C channels.
        std: of the normalisation.
        image_size: side of the square crop, or height and width, px.
        device: where to put it; None leaves it where it is.
        head: how its outputs are read, as in a configuration; None tells one logit from several.

    Raises:
        UserError: no such target layer, an output that is not logits or depends on more than the image, an unfit head,
            or a normalisation on the 0-255 scale or of other channels.
    """
    asked = None if head is None else parse_head(head)
    mean, std = _numbers(mean, f"model '{name}': mean"), _numbers(std, f"model '{name}': std")
    if len(mean) != len(std):
        raise UserError(
            f"model '{name}': mean and std must have one value for each channel, got {_shown(mean)} and {_shown(std)}; "
            "name both"
        )
    if not (
        all(abs(value) <= LARGEST_NORMALISATION for value in mean)
        and all(0 < value <= LARGEST_NORMALISATION for value in std)
    ):
        raise UserError(
            f"model '{name}': mean and std must be those of pixels in [0, 1], got {_shown(mean)} and {_shown(std)}; "
            "divide them by 255"
        )
    if device is None:
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module = plain(module).to(device)
    module.eval()  # a `train` that is overridden may return nothing
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    sample = _probe(image_size, len(mean)).to(device)
    side = image_size if isinstance(image_size, int) else f"{image_size[0]}x{image_size[1]}"
    before_it_ran = {key for key, _ in module.named_parameters()}
    with _as_user_error(
        f"model '{name}': cannot take float32 images of {side} px{_of_channels(len(mean))}",
        lambda _: _remedy(module, len(mean), sample.device),
    ):
        # In full precision: on a GPU, TF32 rounds passes of other sizes in other ways.
        with torch.no_grad(), frozen(module), arithmetic("fp32", sample.device):
            signed = 2 * sample - 1
            before = signed.clone()
            outputs = logits_of(module(signed))
            fault = what_it_depends_on(module, before)
            readout = readout_of(module, before, name, asked)
            channels_last = _takes(module, before.contiguous(memory_format=torch.channels_last))
        made = [key for key, _ in module.named_parameters() if key not in before_it_ran]
        if made:
            raise UserError(
                f"model '{name}': its first pass makes layers ({some(made)}), whose weights no file fills; pass an "
                "image through the network before"
            )
        if not torch.equal(signed, before):
            raise UserError(
                f"model '{name}': its forward changes its input in place, which other passes need; write x = x - mean "
                "instead of x.sub_(mean)"
            )
        if fault is not None:
            raise UserError(f"model '{name}': its logits for an image {fault}")
    with _as_user_error(f"model '{name}': its layers cannot be watched", unwatchable):
        network = build_network(module, sample, target_layer, readout)
    return Model(
        name=name,
        network=network,
        mean=torch.tensor([*mean], dtype=torch.float32, device=device).reshape(-1, 1, 1),
        std=torch.tensor([*std], dtype=torch.float32, device=device).reshape(-1, 1, 1),
        classes=readout.scores(outputs).shape[1],
        channels_last=channels_last,
    )


def _numbers(values: Sequence[float], where: str) -> tuple[float, ...]:
    try:
        if not isinstance(values, str):
            return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"{where} must be a list of numbers, one for each channel, got {shown(values)}; write (0.5, 0.5, 0.5)"
    )


def _of_channels(channels: int) -> str:
    return "" if channels == RGB else f" and {spoken(channels)}"


def _remedy(module: nn.Module, channels: int, device: torch.device) -> str:
    """What to do about a module that does not take images of so many channels."""
    convolution = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    taken = channels if convolution is None else convolution.in_channels
    if taken == channels:
        return what_it_takes(module, partial(_probe, channels=channels), device)
    return f"its first convolution takes {spoken(taken)}, so name mean and std of the normalisation for each of them"


@contextmanager
def _as_user_error(what: str, remedy: Callable[[BaseException], str]) -> Iterator[None]:
    """A model's forward is the user's code and may raise anything; it becomes one sentence."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} ({type(error).__name__}: {first_line(error)}); {remedy(error)}") from error


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        module(images)
    except Exception:  # noqa: BLE001 - a model may refuse them with any error
        return False
    return True


def bytes_per_image(model: Model, image_size: int) -> int:
    """Bytes that all layers put out for one image: about what a pass takes, without re-runs of the tail.

    It passes the same images as `load_model`, because the model is known to take them.
    """
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    leaves = [module for module in model.network.module.modules() if not any(module.children())]
    with hooked(leaves, count), torch.no_grad():
        model.network.module(_probe(image_size, model.channels).to(model.device))
    return total // PROBES


def _probe(image_size: int | tuple[int, int], channels: int) -> Tensor:
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return torch.rand(PROBES, channels, height, width, generator=torch.Generator().manual_seed(0))


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
