"""How much a map changes for how much the image, or the model, changed: one ratio per variant and CAM.

The largest and the mean of these ratios over an image's variants are max-sensitivity, avg-sensitivity, the local
Lipschitz estimate, continuity and the relative stabilities (`camrobust.summary.stability`); the neighbourhood is the
variants of the run, so nothing is drawn here and no pass is added. Norms of maps are taken at the image's size: each
cell of a low-resolution map counts as often as the pixels it covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from camrobust.core.similarity.registry import similarity

GREY_LEVELS = 255
"""A relative change is taken of at least one grey level: 1/255 of the pixel range, or of a map's largest magnitude.

Where the clean value is 0 (black pixels, maps and activations behind a ReLU) a relative change would be infinite.
"""


@dataclass(frozen=True)
class InputChange:
    """How far variants are from their clean image; each (V, 1) float64, so that it broadcasts over the CAMs.

    Attributes:
        pixels: ‖x' - x‖₂ of pixels in [0, 1], over √(H·W).
        relative_pixels: ‖(x' - x)/x‖₂, over √(H·W).
        logits: ‖y' - y‖₂.
        representation: ‖(A' - A)/A‖₂ of the target layer's activations.
        area_px: H·W, the same for all.
    """

    pixels: Tensor
    relative_pixels: Tensor
    logits: Tensor
    representation: Tensor
    area_px: Tensor

    @staticmethod
    def cat(parts: Sequence["InputChange"]) -> "InputChange":
        """Several groups of variants as one."""
        names = [field.name for field in fields(InputChange)]
        return InputChange(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def without_first(self) -> "InputChange":
        """All variants but the first, which is the clean one."""
        return InputChange(**{field.name: getattr(self, field.name)[1:] for field in fields(self)})


@dataclass(frozen=True)
class PassOutput:
    """What a model saw and gave for some variants.

    Attributes:
        pixels: (V, 3, H, W) uint8.
        logits: (V, n).
        activations: (V, C, h, w) of the target layer.
    """

    pixels: Tensor
    logits: Tensor
    activations: Tensor

    def first(self) -> "PassOutput":
        """The first variant alone, a copy: the others' memory is not held."""
        return PassOutput(self.pixels[:1].clone(), self.logits[:1].clone(), self.activations[:1].clone())


def _norm(values: Tensor) -> Tensor:
    """‖·‖₂ of all but the first dimension, (V, 1) float64; row by row first, which is fast and exact enough."""
    rows = torch.linalg.vector_norm(values, dim=-1).double()
    norms: Tensor = torch.linalg.vector_norm(rows.reshape(len(values), -1), dim=1, keepdim=True)
    return norms


def _at_least(clean: Tensor, dims: tuple[int, ...]) -> Tensor:
    """What a relative change is taken of: |clean|, at least one grey level of its largest magnitude over `dims`."""
    magnitude = clean.abs()
    return torch.maximum(magnitude, magnitude.amax(dim=dims, keepdim=True) / GREY_LEVELS)


def change_between(clean: PassOutput, noisy: PassOutput) -> InputChange:
    """How far V variants are from their clean image.

    Args:
        clean: of the clean image, V = 1.
        noisy: of the V variants.
    """
    difference = noisy.pixels.float().sub_(clean.pixels.float())
    moved = (noisy.activations - clean.activations).flatten(2)
    area = difference.shape[-2] * difference.shape[-1]
    pixels = _norm(difference) / (area**0.5 * GREY_LEVELS)
    return InputChange(
        pixels=pixels,
        relative_pixels=_norm(difference.mul_(clean.pixels.float().clamp_(min=1).reciprocal_())) / area**0.5,
        logits=_norm(noisy.logits - clean.logits),
        representation=_norm(moved.mul_(_at_least(clean.activations, (1, 2, 3)).reciprocal().flatten(2))),
        area_px=torch.full_like(pixels, area),
    )


def _by(distance: Tensor, change: Tensor) -> Tensor:
    """distance/change; undefined where nothing changed."""
    moved = (change > 0) & change.isfinite()
    return torch.where(moved, distance / change, torch.nan)


def _by_largest(maps: Tensor) -> Tensor:
    return maps.double() / maps.abs().amax(dim=-1, keepdim=True)


def _root_mean_square(values: Tensor) -> Tensor:
    """Root mean square over positions: ‖·‖₂ at the image's size, over √(H·W)."""
    return values.double().square().mean(dim=-1).sqrt()


@similarity(
    "sensitivity", takes="positions", low=0, high=float("inf"), same=0, unit="share of the clean map's norm",
    source="Yeh et al. 2019",
)  # fmt: skip
def sensitivity(clean: Tensor, noisy: Tensor) -> Tensor:
    """‖φ' - φ‖₂/‖φ‖₂ of the raw maps: what max- and avg-sensitivity are the maximum and mean of, [0, ∞).

    Deviation: the neighbours are the run's variants instead of draws from a ball.
    """
    return _root_mean_square(noisy.double() - clean.double()) / _root_mean_square(clean)


@similarity(
    "lipschitz", takes="change", low=0, high=float("inf"), same=0,
    unit="change of the map (its largest magnitude = 1) per change of the pixels",
    source="Alvarez-Melis & Jaakkola 2018",
)  # fmt: skip
def lipschitz(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """‖φ' - φ‖₂/‖x' - x‖₂, each map divided by its largest magnitude, pixels in [0, 1]; [0, ∞)."""
    return _by(_root_mean_square(_by_largest(noisy) - _by_largest(clean)), change.pixels)


@similarity(
    "continuity", takes="change", low=0, high=float("inf"), same=0,
    unit="summed change of the map (its largest magnitude = 1) per change of the pixels",
    source="Montavon et al. 2018",
)  # fmt: skip
def continuity(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """‖φ' - φ‖₁/‖x' - x‖₂, each map divided by its largest magnitude, pixels in [0, 1]; [0, ∞)."""
    mean = (_by_largest(noisy) - _by_largest(clean)).abs().mean(dim=-1)
    return _by(mean * change.area_px.sqrt(), change.pixels)


def _relative_map(clean: Tensor, noisy: Tensor) -> Tensor:
    """‖(φ' - φ)/φ‖₂ at the image's size, over √(H·W)."""
    return _root_mean_square((noisy.double() - clean.double()) / _at_least(clean.double(), (-1,)))


@similarity(
    "ris", takes="change", low=0, high=float("inf"), same=0, unit="relative change of the map per that of the pixels",
    source="Agarwal et al. 2022",
)  # fmt: skip
def ris(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative input stability: ‖(φ' - φ)/φ‖₂/‖(x' - x)/x‖₂, [0, ∞).

    Deviation: |φ| counts as at least 1/255 of its largest value and a pixel as at least one grey level, for behind a
    ReLU and in the dark the fraction has no value.
    """
    return _by(_relative_map(clean, noisy), change.relative_pixels)


@similarity(
    "ros", takes="change", low=0, high=float("inf"), same=0, unit="relative change of the map per change of the logits",
    source="Agarwal et al. 2022",
)  # fmt: skip
def ros(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative output stability: ‖(φ' - φ)/φ‖₂/‖y' - y‖₂, y the logits; [0, ∞). Deviation as in `ris`."""
    return _by(_relative_map(clean, noisy) * change.area_px.sqrt(), change.logits)


@similarity(
    "rrs", takes="change", low=0, high=float("inf"), same=0,
    unit="relative change of the map per that of the target layer's activations", source="Agarwal et al. 2022",
)  # fmt: skip
def rrs(clean: Tensor, noisy: Tensor, change: InputChange) -> Tensor:
    """Relative representation stability: ‖(φ' - φ)/φ‖₂/‖(A' - A)/A‖₂, A the target layer's activations; [0, ∞).

    Deviation as in `ris`, for φ and A.
    """
    return _by(_relative_map(clean, noisy) * change.area_px.sqrt(), change.representation)
