"""A clean and a noisy map side by side, and what several measures need of them, computed once."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from camrobust.core.similarity.registry import nearly_equal
from camrobust.core.ties import tie_groups

GREY_LEVELS = 255
"""Relative changes are divided by at least one grey level: 1/255 of the pixel range or of a map's largest magnitude.

Otherwise they would be infinite where the clean value is 0 (black pixels, maps and activations behind a ReLU).
"""


def root_mean_square(values: Tensor) -> Tensor:
    """Root mean square over positions, (…, n) to (…): ‖·‖₂ at the image's size, over √(H·W)."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norm.div_(values.shape[-1] ** 0.5)


@dataclass
class MapPair:
    """Clean and noisy maps of equal shape; every step is made for both at once.

    Attributes:
        maps: (2, …, n) float32, the clean maps and the noisy ones, positions flattened.
    """

    maps: Tensor

    @classmethod
    def of(cls, clean: Tensor, noisy: Tensor) -> "MapPair":
        """The pair of maps (…, n) and (…, n), whose leading dimensions broadcast."""
        return cls(torch.stack(torch.broadcast_tensors(clean, noisy)))

    @property
    def n(self) -> int:
        """Number of positions."""
        return self.maps.shape[-1]

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each map, (2, …, 1) twice."""
        low, high = self.maps.aminmax(dim=-1, keepdim=True)
        return low, high

    @cached_property
    def flat(self) -> Tensor:
        """Whether one of the two maps is constant, (…) bool; see `registry.flat`."""
        return nearly_equal(*self.bounds).any(dim=0)[..., 0]

    @cached_property
    def finite(self) -> Tensor:
        """Whether all values of both maps are numbers, (…) bool."""
        low, high = self.bounds
        return ((low > -torch.inf) & (high < torch.inf)).all(dim=0)[..., 0]

    @cached_property
    def values(self) -> Tensor:
        """The maps in float64."""
        return self.maps.double()

    @cached_property
    def sides(self) -> tuple[Tensor, ...]:
        """The clean and the noisy maps, (…, n) float64 each."""
        return self.values.unbind()

    @cached_property
    def moved(self) -> Tensor:
        """Noisy minus clean map, (…, n) float64."""
        return self.sides[1] - self.sides[0]

    @cached_property
    def largest(self) -> Tensor:
        """Largest magnitude of each map, (2, …, 1) float64."""
        low, high = self.bounds
        return torch.maximum(high, -low).double()

    @cached_property
    def moved_scaled(self) -> Tensor:
        """Noisy minus clean map, each divided by its largest magnitude, (…, n) float64."""
        clean, noisy = (self.values / self.largest).unbind()
        return noisy.sub_(clean)

    @cached_property
    def relative(self) -> Tensor:
        """‖(φ' - φ)/φ‖₂ at the image's size, over √(H·W), (…) float64, φ the clean map."""
        divisor = torch.maximum(self.sides[0].abs(), self.largest[0] / GREY_LEVELS)
        return root_mean_square(self.moved / divisor)

    @cached_property
    def shares(self) -> Tensor:
        """The maps minus their minima, divided by their sums, (2, …, n) float64."""
        shifted = self.values - self.bounds[0]
        return shifted.div_(shifted.sum(dim=-1, keepdim=True))

    @cached_property
    def moved_shares(self) -> Tensor:
        """Clean minus noisy `shares`, (…, n)."""
        clean, noisy = self.shares.unbind()
        return clean - noisy

    @cached_property
    def groups(self) -> tuple[Tensor, Tensor]:
        """The first and the last rank, from 0 for the highest value, of every value's tie group; (2, …, n) int64 twice.

        Which values are tied, `core.ties` says.
        """
        falling, order = self.values.neg().sort(dim=-1)
        first, last = (torch.empty_like(order).scatter_(-1, order, side) for side in tie_groups(falling, self.largest))
        return first, last
