"""Agreement of maps with those of their clean images, for all rows of a pass at once."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from camrobust.contract.registry import from_camrobust
from camrobust.core.explain.captured import Function, captured
from camrobust.core.precision import arithmetic
from camrobust.core.segments import segment_scores
from camrobust.core.similarity import Together
from camrobust.core.similarity.sensitivity import InputChange
from camrobust.measure.settings import MeasureSettings


@dataclass(frozen=True)
class Pairs:
    """R pairs of maps, K CAMs each.

    Attributes:
        clean: (R, K, h, w), the maps of the clean images.
        noisy: (R, K, h, w), those of their variants.
        matrices: (R, M, h·w), from maps to scores of segments, from `core.segments.segment_matrices`.
        sizes: (R,) int64, how many of the M segments the image of every pair has.
        explained: (R,) bool, whether both maps explain a class; logits that are not numbers leave none.
        ambiguous: (R, K) bool, whether one of the two maps is ambiguous, see `core.explain.evidence.explain_marked`;
            None if no method says so.
        change: how far the images and the model's outputs are apart, (R, 1) each.
    """

    clean: Tensor
    noisy: Tensor
    matrices: Tensor
    sizes: Tensor
    explained: Tensor
    ambiguous: Tensor | None
    change: InputChange


class Comparison:
    """Compares the two maps of every pair; on a GPU as one CUDA graph.

    Args:
        settings: how to compare.
        image_size: H and W, px.
    """

    def __init__(self, settings: MeasureSettings, image_size: tuple[int, int]) -> None:
        self.settings, self.image_size = settings, image_size
        self.measures = settings.measures()
        self.names = ("rbo", "rbo_adjusted", *(one.name for one in self.measures), "flat", "finite")
        # A graph cannot hold what reads values on the host, as the costly measures and those of users' packages may.
        own = all(one.default and from_camrobust(one) for one in self.measures)
        self._replayed: Function = captured(self._compare) if own else self._compare

    def __call__(self, pairs: Pairs) -> dict[str, Tensor]:
        """Agreement of the two maps of every pair.

        Returns:
            One tensor (R, K) for rank-biased overlap, raw and adjusted, and for every measure of the settings, NaN
            where undefined; and the bool tensors `flat`, `finite` and, if a method marks maps, `ambiguous`.
        """
        change = [getattr(pairs.change, one.name) for one in fields(pairs.change)]
        with torch.no_grad(), arithmetic("fp32", pairs.clean.device):
            found = self._replayed(pairs.clean, pairs.noisy, pairs.matrices, pairs.sizes, pairs.explained, *change)
        compared = dict(zip(self.names, found, strict=True))
        if pairs.ambiguous is None:
            return compared
        numbers = {name: compared[name].masked_fill(pairs.ambiguous, torch.nan) for name in self.names[:-2]}
        return compared | numbers | {"ambiguous": pairs.ambiguous}

    def _compare(
        self, clean: Tensor, noisy: Tensor, matrices: Tensor, sizes: Tensor, explained: Tensor, *change: Tensor
    ) -> tuple[Tensor, ...]:
        """The same for the tensors of `Pairs`, in the order of `names`."""
        R = len(matrices)
        maps = torch.stack([clean, noisy]).flatten(3)
        places = torch.arange(R, device=maps.device).repeat(2)
        scores = segment_scores(maps.flatten(0, 1), matrices, places).unflatten(0, (2, R))
        together = Together(
            positions=(maps[0], maps[1]),
            grid=(clean, noisy, self.image_size),
            segments=(scores[0], scores[1], sizes),
            change=(maps[0], maps[1], InputChange(*change)),
        )
        values = [*together.rbo(self.settings.rbo_p, self.settings.ties), *map(together.measure, self.measures)]
        finite, constant = together.finite & explained[:, None], together.flat
        numbers = torch.stack([value.float() for value in values if value is not None])
        numbers = torch.where(finite & ~constant, numbers, torch.nan)
        return (*numbers.unbind(), constant, finite)
