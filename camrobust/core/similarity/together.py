"""All measures of many pairs of maps at once: what several of them need is computed once."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from camrobust.core.ranks import RankedPair, agreement_of, check_rule, ranked
from camrobust.core.similarity.pair import MapPair
from camrobust.core.similarity.registry import SIMILARITIES, Similarity, nearly_equal
from camrobust.core.similarity.sensitivity import InputChange

Grid = tuple[Tensor, Tensor, tuple[int, int]]
Segments = tuple[Tensor, Tensor, Tensor | None]
Change = tuple[Tensor, Tensor, InputChange]


@dataclass
class Together:
    """R pairs of K maps, of any number of images, and the scores of their segments.

    Attributes:
        positions: clean and noisy maps, (R, K, n) float32 each.
        grid: the same maps (R, K, h, w), and (H, W) of the image in px.
        segments: clean and noisy scores (R, K, M) float64, and the number of segments of each row, (R,) or (R, 1)
            int64; None where no row is padded. The padding may hold any values.
        change: the same maps (R, K, n), and the change of image and model, each of its fields (R, 1) float64.
    """

    positions: tuple[Tensor, Tensor]
    grid: Grid | None = None
    segments: Segments | None = None
    change: Change | None = None

    @cached_property
    def maps(self) -> MapPair:
        """The maps of both sides."""
        return MapPair.of(*self.positions)

    @cached_property
    def ranks(self) -> RankedPair:
        """The rankings of the segments of both sides."""
        if self.segments is None:
            raise ValueError("together: segments must hold the scores of both sides, got None; pass segments=")
        clean, noisy, sizes = self.segments
        return ranked(clean, noisy, sizes if sizes is None else sizes.to(clean.device).reshape(-1, 1))

    @cached_property
    def flat(self) -> Tensor:
        """Whether a map, or its scores, is constant on one of the two sides, (R, K) bool."""
        if self.segments is None:
            return self.maps.flat
        low, high = self.ranks.bounds
        return self.maps.flat | nearly_equal(low, high).any(dim=0)

    @property
    def finite(self) -> Tensor:
        """Whether all values of both maps are numbers, (R, K) bool."""
        return self.maps.finite

    def rbo(self, p: float = 0.9, ties: str = "b") -> tuple[Tensor, Tensor]:
        """Rank-biased overlap of the segments, raw and adjusted, (R, K) float64 each; see `ranks.agreement`."""
        check_rule(p, ties)
        return agreement_of(self.ranks, p, ties)

    @cached_property
    def _shared(self) -> dict[str, tuple[Any, ...]]:
        """The arguments of `Similarity.shared` for every kind of input that is there."""
        arguments: dict[str, tuple[Any, ...]] = {"positions": (self.maps,)}
        if self.grid is not None:
            arguments["grid"] = (self.maps, self.grid[0].shape[-2:], self.grid[2])
        if self.segments is not None:
            arguments["segments"] = (self.ranks,)
        if self.change is not None:
            arguments["change"] = (self.maps, self.change[2].defined())
        return arguments

    def measure(self, similarity: Similarity) -> Tensor | None:
        """One measure of all pairs, (R, K); undefined where `flat` or not `finite`. None where its input is missing."""
        if similarity.shared is not None:
            arguments = self._shared.get(similarity.takes)
            return None if arguments is None else similarity.shared(*arguments)
        if similarity.takes == "segments":
            return None if self.segments is None else _of_segments(similarity, *self.segments)
        arguments = {"positions": self.positions, "grid": self.grid, "change": self.change}[similarity.takes]
        return None if arguments is None else similarity.function(*arguments)


def _of_segments(similarity: Similarity, clean: Tensor, noisy: Tensor, sizes: Tensor | None) -> Tensor:
    """A measure of segments that shares nothing with others, (R, K)."""
    if sizes is None:
        return similarity.function(clean, noisy)
    if similarity.takes_sizes:
        return similarity.function(clean, noisy, sizes.to(clean.device).reshape(-1, 1))
    return _by_size(similarity, clean, noisy, sizes)


def _by_size(similarity: Similarity, clean: Tensor, noisy: Tensor, sizes: Tensor) -> Tensor:
    """A measure that knows no padding, called once for the rows of each number of segments."""
    groups: dict[int, list[int]] = {}
    for row, m in enumerate(sizes.flatten().tolist()):
        groups.setdefault(m, []).append(row)
    parts = [similarity.function(clean[rows, :, :m], noisy[rows, :, :m]) for m, rows in groups.items()]
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
    return torch.cat(parts)[order.to(clean.device)]


def measured(
    similarities: Iterable[str | Similarity],
    positions: tuple[Tensor, Tensor],
    grid: Grid | None = None,
    segments: Segments | None = None,
    change: Change | None = None,
) -> dict[str, Tensor]:
    """Several measures of R pairs of K maps by name, (R, K) each; see `Together`.

    Measures whose input is not given are left out. Values are undefined where a map or its scores are constant.
    """
    together = Together(positions, grid, segments, change)
    asked = [SIMILARITIES[one] if isinstance(one, str) else one for one in similarities]
    values = {one.name: together.measure(one) for one in asked}
    return {name: value for name, value in values.items() if value is not None}
