"""The order of positions and channels in a layer's output: a feature map, channels last, or a row of tokens.

Users of transformers need not write a reshape. The grid of patches is one that the model's own convolutions put out,
or such a grid halved (by patch merging). Further tokens in a row are class and register tokens in front of the patches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from camrobust.contract.errors import UserError

MOST_PREFIX = 16
"""Largest number of tokens in front of the patches: class, distillation and register tokens."""
Grid = tuple[int, int]
"""Height and width in positions."""


@dataclass(frozen=True)
class Layout:
    """The order of positions and channels in a layer's output.

    Attributes:
        order: "map" (B, C, h, w), "last" (B, h, w, C) or "tokens" (B, P + h·w, C).
        prefix: P, the number of tokens without a position in front of the others.
        grid: h and w of the positions in a row of tokens.
        places: for every position of the picture, row by row, the number of its token, counted behind the prefix; empty
            if tokens follow the picture.
    """

    order: str = "map"
    prefix: int = 0
    grid: Grid = (0, 0)
    places: tuple[int, ...] = ()

    def to_map(self, values: Tensor) -> Tensor:
        """A layer's output as a feature map (B, C, h, w), without the tokens that have no position.

        Raises:
            UserError: the number of tokens is not that of this layout.
        """
        if self.order == "map":
            return values
        if self.order == "last":
            return values.permute(0, 3, 1, 2)
        h, w = self.grid
        if values.shape[1] != self.prefix + h * w:
            raise UserError(
                f"target_layer: must put out {self.prefix} + {h}·{w} tokens, got {values.shape[1]}; "
                "load the model for images of this size"
            )
        tokens = values[:, self.prefix :]
        if self.places:
            tokens = tokens.index_select(1, _index(self.places, tokens.device))
        return tokens.transpose(1, 2).reshape(len(values), -1, h, w)

    def from_map(self, maps: Tensor, values: Tensor) -> Tensor:
        """A feature map (N, C, h, w) in the layer's own order; `values` (N, …) give the tokens without a position."""
        if self.order == "map":
            return maps
        if self.order == "last":
            return maps.permute(0, 2, 3, 1)
        tokens = maps.flatten(2).transpose(1, 2).to(values.dtype)
        if self.places:
            tokens = tokens.index_select(1, _index(self.places, tokens.device).argsort())
        return torch.cat((values[:, : self.prefix], tokens), dim=1)


@lru_cache(maxsize=8)
def _index(places: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers of tokens as a tensor, put on a device once."""
    return torch.tensor(places, device=device)


FEATURE_MAP = Layout()


def with_halved_grids(shapes: Iterable[Grid]) -> set[Grid]:
    """Grids and their repeated halves (rounded up), without those of a single position."""
    grids: set[Grid] = set()
    for shape in shapes:
        grid = shape
        while grid[0] * grid[1] > 1 and grid not in grids:
            grids.add(grid)
            grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
    return grids


def layouts_of(shape: tuple[int, ...], grids: set[Grid], image: Grid) -> list[Layout]:
    """The layouts that an output of a given shape can have, likeliest first; none if the output has no positions.

    Args:
        shape: the output's shape.
        grids: the grids that the model's convolutions put out; empty if it has no convolutions.
        image: height and width of the input, px.
    """
    if len(shape) == 4:
        orders = (("map", shape[2], shape[3]), ("last", shape[1], shape[2]))
        return [Layout(order) for order, h, w in orders if h * w > 1 and _fits((h, w), grids, image)]
    if len(shape) == 3:
        known = grids or {(side * image[0] // min(image), side * image[1] // min(image)) for side in range(2, 65)}
        return [
            Layout("tokens", prefix, (h, w))
            for prefix in range(MOST_PREFIX + 1)
            for h, w in known
            if h * w == shape[1] - prefix and h * w > max(1, prefix)
        ]
    return []


def _fits(grid: Grid, grids: set[Grid], image: Grid) -> bool:
    """Whether a grid is a known one; if none is known, whether it has the aspect of the image."""
    return grid in grids if grids else abs(grid[0] * image[1] - grid[1] * image[0]) < max(image)


def tensor_in(output: object) -> Tensor | None:
    """The tensor in a layer's output: the output itself (dequantised), or the first entry of a tuple or mapping."""
    if isinstance(output, Tensor):
        return output.dequantize() if output.is_quantized else output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_tensor(output: object, tensor: Tensor) -> Any:
    """The same output with that tensor replaced.

    Raises:
        TypeError: the output is of another kind than `tensor_in` reads.
    """
    if isinstance(output, Tensor):
        if output.is_quantized:
            return torch.quantize_per_tensor(tensor, output.q_scale(), output.q_zero_point(), output.dtype)
        return tensor
    if isinstance(output, Mapping):
        first = next(iter(output))
        return type(output)(**{**output, first: tensor}) if hasattr(output, first) else {**output, first: tensor}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(tensor, *output[1:])
    if isinstance(output, (tuple, list)):
        return type(output)((tensor, *output[1:]))
    raise TypeError(f"target_layer: cannot replace the tensor inside {type(output).__name__}; wrap the model")
