"""The layers whose bounds can be propagated: affine ones, ReLU and max pooling.

Each knows its output for an interval of inputs, and how a linear function of its output is bounded from below by a
linear function of its input. Everything is float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad, unfold

Map = Callable[[Tensor], Tensor]
Bounds = tuple[Tensor, Tensor]
"""The least and the largest value of each number of a layer's input, (…) each, without a batch dimension."""


class Step(ABC):
    """One layer of a chain."""

    relaxed = True
    """Whether its linear bounds depend on bounds of its input."""
    by_sign = False
    """Whether it is linear where the sign of its input is certain."""

    @abstractmethod
    def __call__(self, values: Tensor) -> Tensor:
        """The layer's output for inputs (B, …)."""

    @abstractmethod
    def interval(self, bounds: Bounds) -> Bounds:
        """Bounds of the output for all inputs within bounds."""

    @abstractmethod
    def below(self, rows: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """A linear function of the input that is nowhere above a linear function of the output.

        Args:
            rows: (R, …), the coefficients of R functions of the output.
            bounds: of the input.

        Returns:
            The coefficients (R, …) of the input and the constants (R,).
        """


@dataclass(frozen=True)
class Affine(Step):
    """A convolution, a linear layer, batch norm in evaluation mode, average pooling, flattening.

    Attributes:
        function: the layer.
        magnitude: the layer with the absolute values of its weights and without constants.
        shape: of one input, without the batch.
    """

    function: Map
    magnitude: Map
    shape: tuple[int, ...]
    relaxed = False

    def __call__(self, values: Tensor) -> Tensor:
        """The layer's output for inputs (B, …)."""
        return self.function(values)

    def interval(self, bounds: Bounds) -> Bounds:
        """Exact: the output for the middle, and the output of the magnitudes for half the width."""
        lower, upper = bounds
        middle = self.function((lower + upper)[None] / 2)[0]
        half = self.magnitude((upper - lower)[None] / 2)[0]
        return middle - half, middle + half

    def below(self, rows: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """Exact: the transposed layer, and the rows times its constants."""
        del bounds
        nothing = torch.zeros(1, *self.shape, dtype=rows.dtype, device=rows.device)
        constant = (rows * self.function(nothing)).flatten(1).sum(dim=1)
        with torch.enable_grad():
            point = nothing.expand(len(rows), *self.shape).clone().requires_grad_()
            (found,) = torch.autograd.grad(self.function(point), point, rows)
        return found, constant


class Relu(Step):
    """max(0, x)."""

    by_sign = True

    def __call__(self, values: Tensor) -> Tensor:
        """The layer's output for inputs (B, …)."""
        return values.relu()

    def interval(self, bounds: Bounds) -> Bounds:
        """Exact."""
        return bounds[0].relu(), bounds[1].relu()

    def below(self, rows: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """Between l < 0 < u: x·u/(u-l) - l·u/(u-l) from above, and from below x or 0, whichever leaves less room."""
        lower, upper = bounds
        crossing = (lower < 0) & (upper > 0)
        width = torch.where(crossing, upper - lower, 1.0)
        on = (lower >= 0).to(lower)
        slope = torch.where(crossing, upper / width, on)
        constant = torch.where(crossing, -lower * upper / width, 0.0)
        least = torch.where(crossing, (upper > -lower).to(lower), on)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        return positive * least + negative * slope, (negative * constant).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class MaxPool(Step):
    """The largest value of every window.

    Attributes:
        size: of the windows, rows and columns.
        stride: of the windows.
        padding: on every side; it holds -∞.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, values: Tensor) -> Tensor:
        """The layer's output for inputs (B, C, H, W)."""
        return max_pool2d(values, self.size, self.stride, self.padding)

    def interval(self, bounds: Bounds) -> Bounds:
        """Exact."""
        lower, upper = (self(bound[None])[0] for bound in bounds)
        return lower, upper

    def below(self, rows: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """At least the element of highest l, equal to it if no other u exceeds that l, and at most the highest u."""
        lower, upper = bounds
        C, H, W = lower.shape
        _, chosen = max_pool2d(lower[None], self.size, self.stride, self.padding, return_indices=True)
        chosen = chosen[0].flatten(1)
        windows = unfold(self._padded(upper), self.size, stride=self.stride).reshape(C, -1, chosen.shape[1])
        numbers = torch.arange(H * W, dtype=upper.dtype).reshape(1, H, W)
        places = unfold(self._padded(numbers), self.size, stride=self.stride)
        others = windows.masked_fill(places == chosen[:, None].to(places), -torch.inf).amax(dim=1)
        alone = others <= lower.flatten(1).gather(1, chosen)
        most = windows.amax(dim=1)
        rows = rows.flatten(2)
        negative = rows.clamp(max=0)
        selected = torch.where(alone, rows, rows.clamp(min=0))
        found = torch.zeros(len(rows), C, H * W, dtype=rows.dtype).scatter_add_(2, chosen.expand_as(selected), selected)
        constant = torch.where(alone, 0.0, negative * most).flatten(1).sum(dim=1)
        return found.unflatten(2, (H, W)), constant

    def _padded(self, values: Tensor) -> Tensor:
        """(1, C, H + 2·p, W + 2·p) with -∞ around."""
        down, across = self.padding
        return pad(values[None], (across, across, down, down), value=-torch.inf)
