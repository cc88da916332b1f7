"""The change of a map per change of the image or the model: one ratio per variant and CAM.

The maxima and means of these ratios over an image's variants are max-sensitivity, avg-sensitivity, the local Lipschitz
estimate, continuity and the relative stabilities (`camrobust.summary.stability`). The neighbours of an image are the
variants of the run, so there are no further draws or passes. Norms of maps are those at the image's size: each cell of
a low-resolution map counts once for every pixel that it covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from camrobust.core.similarity.pair import GREY_LEVELS, MapPair, root_mean_square
from camrobust.core.similarity.registry import similarity


@dataclass(frozen=True)
class InputChange:
    """The distances of V variants from their clean image; each (V, 1) float64, to broadcast over the CAMs.

    Attributes:
        pixels: ‖x' - x‖₂ of pixels in [0, 1], over √(H·W).
        relative_pixels: ‖(x' - x)/x‖₂, over √(H·W).
        logits: ‖y' - y‖₂.
        representation: ‖(A' - A)/A‖₂ of the target layer's activations.
        area_px: H·W, equal for all variants.
    """

    pixels: Tensor
    relative_pixels: Tensor
    logits: Tensor
    representation: Tensor
    area_px: Tensor

    @staticmethod
    def cat(parts: Sequence["InputChange"]) -> "InputChange":
        """Join several groups of variants."""
        names = [field.name for field in fields(InputChange)]
        return InputChange(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def rows(self, chosen: slice) -> "InputChange":
        """Some of the variants."""
        return InputChange(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def defined(self) -> "InputChange":
        """The same with NaN for every distance that is 0 or not finite: a ratio to it is undefined."""
        distances = torch.stack([self.pixels, self.relative_pixels, self.logits, self.representation])
        distances.masked_fill_((distances == 0) | (distances == torch.inf), torch.nan)
        pixels, relative_pixels, logits, representation = distances.unbind()
        return InputChange(pixels, relative_pixels, logits, representation, self.area_px)


@dataclass(frozen=True)
class PassOutput:
    """Input and output of one pass over some variants.

    Attributes:
        pixels: (V, C, H, W), uint8 or in [0, 1].
        logits: (V, n).
        activations: (V, C, h, w), those of the target layer.
    """

    pixels: Tensor
    logits: Tensor
    activations: Tensor


def _norm(values: Tensor) -> Tensor:
    """‖·‖₂ over all dimensions except the first, (V, 1) float64.

    The last dimension is summed in float32, which is fast and exact enough.
    """
    rows = torch.linalg.vector_norm(values, dim=-1).double()
    norms: Tensor = torch.linalg.vector_norm(rows.reshape(len(values), -1), dim=1, keepdim=True)
    return norms


def _levels(pixels: Tensor) -> Tensor:
    """Pixels in levels from 0 to 255, float32; a new tensor."""
    return pixels.float() if pixels.dtype == torch.uint8 else pixels * GREY_LEVELS


def _at_least(clean: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The divisor of a relative change: |clean|, but at least 1/255 of its largest magnitude over `dims`."""
    magnitude = clean.abs()
    return torch.maximum(magnitude, magnitude.amax(dim=dims, keepdim=True) / GREY_LEVELS)


def change_between(clean: PassOutput, noisy: PassOutput) -> InputChange:
    """The distances of V variants from their clean image.

    Args:
        clean: the pass output of the clean image, or that of every variant's own clean image.
        noisy: the pass output of the V variants.
    """
    before = _levels(clean.pixels)
    difference = _levels(noisy.pixels).sub_(before)
    moved = (noisy.activations - clean.activations).flatten(2)
    area = difference.shape[-2] * difference.shape[-1]
    pixels = _norm(difference) / (area**0.5 * GREY_LEVELS)
    return InputChange(
        pixels=pixels,
        relative_pixels=_norm(difference.mul_(before.clamp_(min=1).reciprocal_())) / area**0.5,
        logits=_norm(noisy.logits - clean.logits),
        representation=_norm(moved.mul_(_at_least(clean.activations, (1, 2, 3)).reciprocal().flatten(2))),
        area_px=torch.full_like(pixels, area),
    )


def _sensitivity_of(pair: MapPair) -> Tensor:
    moved: Tensor = torch.linalg.vector_norm(pair.moved, dim=-1)
    return moved.div_(torch.linalg.vector_norm(pair.sides[0], dim=-1))


@similarity(
    "sensitivity", takes="positions", low=0, high=float("inf"), same=0, unit="share of the clean map's norm",
    source="Yeh et al. 2019", shared=_sensitivity_of,
)  # fmt: skip
def sensitivity(clean: Tensor, noisy: Tensor) -> Tensor:
    """‖φ' - φ‖₂/‖φ‖₂ of the raw maps, [0, ∞); max- and avg-sensitivity are its maximum and mean over variants.

    Deviation: the neighbours are the run's variants instead of draws from a ball.
    """
    return _sensitivity_of(MapPair.of(clean, noisy))


def _lipschitz_of(pair: MapPair, change: InputChange) -> Tensor:
    return root_mean_square(pair.moved_scaled) / change.pixels


@similarity(
    "lipschitz", takes="change", low=0, high=float("inf"), same=0,
    unit="change of the map (its largest magnitude = 1) per change of the pixels",
    source="Alvarez-Melis & Jaakkola 2018", shared=_lipschitz_of,
)  # fmt: skip
def lipschitz(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """‖φ' - φ‖₂/‖x' - x‖₂, each map divided by its largest magnitude, pixels in [0, 1]; [0, ∞)."""
    return _lipschitz_of(MapPair.of(clean, noisy), change.defined())


def _continuity_of(pair: MapPair, change: InputChange) -> Tensor:
    return pair.moved_scaled.abs().mean(dim=-1) * change.area_px.sqrt() / change.pixels


@similarity(
    "continuity", takes="change", low=0, high=float("inf"), same=0,
    unit="summed change of the map (its largest magnitude = 1) per change of the pixels",
    source="Montavon et al. 2018", shared=_continuity_of,
)  # fmt: skip
def continuity(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """‖φ' - φ‖₁/‖x' - x‖₂, each map divided by its largest magnitude, pixels in [0, 1]; [0, ∞)."""
    return _continuity_of(MapPair.of(clean, noisy), change.defined())


def _ris_of(pair: MapPair, change: InputChange) -> Tensor:
    return pair.relative / change.relative_pixels


@similarity(
    "ris", takes="change", low=0, high=float("inf"), same=0, unit="relative change of the map per that of the pixels",
    source="Agarwal et al. 2022", shared=_ris_of,
)  # fmt: skip
def ris(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative input stability: ‖(φ' - φ)/φ‖₂/‖(x' - x)/x‖₂, [0, ∞).

    Deviation: the divisors |φ| and |x| are at least 1/255 of the largest |φ| and one grey level, because φ is 0 behind
    a ReLU and x is 0 in black pixels.
    """
    return _ris_of(MapPair.of(clean, noisy), change.defined())


def _ros_of(pair: MapPair, change: InputChange) -> Tensor:
    return pair.relative * change.area_px.sqrt() / change.logits


@similarity(
    "ros", takes="change", low=0, high=float("inf"), same=0, unit="relative change of the map per change of the logits",
    source="Agarwal et al. 2022", shared=_ros_of,
)  # fmt: skip
def ros(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative output stability: ‖(φ' - φ)/φ‖₂/‖y' - y‖₂, y the logits; [0, ∞). Same deviation as `ris`."""
    return _ros_of(MapPair.of(clean, noisy), change.defined())


def _rrs_of(pair: MapPair, change: InputChange) -> Tensor:
    return pair.relative * change.area_px.sqrt() / change.representation


@similarity(
    "rrs", takes="change", low=0, high=float("inf"), same=0,
    unit="relative change of the map per that of the target layer's activations", source="Agarwal et al. 2022",
    shared=_rrs_of,
)  # fmt: skip
def rrs(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative representation stability: ‖(φ' - φ)/φ‖₂/‖(A' - A)/A‖₂, A the target layer's activations; [0, ∞).

    The same deviation as in `ris`, for φ and A.
    """
    return _rrs_of(MapPair.of(clean, noisy), change.defined())
