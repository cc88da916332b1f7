"""Noisy copies of an image, or of images near it, through a model, in full passes.

The noise of a copy depends on the names of the image, its purpose and its number alone. Each sigma scales it, so all
sigmas, CAMs and models of a run share it. A copy is clipped and rounded to whole levels, as every variant of a run is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camrobust.core.channels import held, unit
from camrobust.core.draws import Draws
from camrobust.core.explain.evidence import Evidence, collect
from camrobust.core.memory import halving_on_oom
from camrobust.core.segments import segment_matrices, segment_scores
from camrobust.core.similarity.registry import flat
from camrobust.measure.model import Model
from camrobust.measure.prepared import Prepared, prepare
from camrobust.measure.settings import MeasureSettings, Sample
from camrobust.measure.transfer import to_device


@dataclass(frozen=True)
class CopiesPass:
    """One pass over copies; rows after the first `count` only fill it up.

    Row r, which is row first + r of all, has the sigma (first + r) modulo S; `sigmas` holds these numbers, (P,) int64.
    """

    first: int
    count: int
    sigmas: Tensor
    evidence: Evidence
    ready: Prepared

    def of(self, sigma: int, sigmas: int) -> slice:
        """The rows of one of S sigmas."""
        return slice((sigma - self.first) % sigmas, self.count, sigmas)


class Copies:
    """The noisy copies of one image, pass after pass.

    Args:
        model: the classifier.
        sample: names of the image, and its segments.
        clean: (1, C, H, W), the image as it is measured.
        settings: the CAMs, and how many images a pass holds.
        sigmas: S deviations of the noise.
        renew: called before each pass.
    """

    def __init__(
        self, model: Model, sample: Sample, clean: Tensor, settings: MeasureSettings, sigmas: Sequence[float],
        renew: Callable[[], None],
    ) -> None:  # fmt: skip
        self.model, self.sample, self.settings, self.renew = model, sample, settings, renew
        self.clean = unit(clean.to(model.device))
        self.sigmas = torch.tensor(sigmas, device=model.device)

    def clean_scores(self) -> Tensor:
        """The model's scores of the image itself, (1, n)."""
        (one,) = self._run(range(1), "certify clean", lambda *_: self.clean, None)
        return one.evidence.logits[:1]

    def passes(
        self, purpose: str, copies: int, explained: Tensor | None = None, moved: Tensor | None = None
    ) -> Iterator[CopiesPass]:
        """All passes: every copy under every sigma, copy by copy.

        Args:
            purpose: of the noise.
            copies: how many.
            explained: (S,), the class to explain at each sigma; None for the one that each copy is given.
            moved: (S, C, H, W), what is added to the image at each sigma; None for the image itself.
        """

        def pixels(numbers: range, places: Tensor, sigmas: Tensor) -> Tensor:
            noise = self.draws(purpose, "", numbers).normal(self.clean.shape[1:])
            scale = self.sigmas.index_select(0, sigmas)[:, None, None, None]
            at = self.clean if moved is None else self.clean + moved.index_select(0, sigmas)
            return at + noise.index_select(0, places) * scale

        return self._run(range(copies * len(self.sigmas)), purpose, pixels, explained)

    def draws(self, purpose: str, strength: str, copies: Sequence[int]) -> Draws:
        """A random stream for each copy."""
        sample, seed = self.sample, self.settings.seed
        return Draws.join(
            [
                Draws.of(seed, sample.dataset, [sample.image_id], purpose, strength, copy, self.model.device)
                for copy in copies
            ]
        )

    def _run(
        self, rows: range, purpose: str, pixels: Callable[[range, Tensor, Tensor], Tensor], explained: Tensor | None
    ) -> Iterator[CopiesPass]:
        """Passes of the size of all passes of the run, the last one filled up with copies of its last row.

        Args:
            rows: row r is the copy r // S at the sigma r modulo S.
            purpose: of the random numbers of CAMs that draw.
            pixels: takes the different copies of a pass, and of every row the place of its copy and its sigma.
            explained: as in `passes`.
        """
        model, settings, S = self.model, self.settings, len(self.sigmas)

        def one_pass(chosen: Sequence[int]) -> CopiesPass:
            self.renew()
            filled = np.array([*chosen, *[chosen[-1]] * (model.pass_size(settings.batch) - len(chosen))])
            copies, first = filled // S, chosen[0] // S
            places, sigmas = to_device([np.stack([copies - first, filled % S])], model.device).unbind()
            images = held(pixels(range(first, chosen[-1] // S + 1), places, sigmas))
            inputs = model.inputs(images.expand(len(filled), -1, -1, -1), settings.precision)
            ready = prepare(model, settings, inputs)
            wanted = None if explained is None else explained.index_select(0, sigmas)
            draws = self.draws("cam", purpose, copies.tolist())
            evidence = collect(ready.network, inputs, None if wanted is None else lambda _: wanted, draws)
            return CopiesPass(chosen[0], len(chosen), sigmas, evidence, ready)

        yield from halving_on_oom(rows, model.pass_size(settings.batch), one_pass, model.remember, filled=True)


class SegmentRanking:
    """Turns the maps of a pass into scores of the image's segments.

    Args:
        sample: has the segments.
        device: of the maps.
    """

    def __init__(self, sample: Sample, device: torch.device) -> None:
        self._sample, self._matrices = sample, torch.empty(0, device=device)
        self.count = torch.tensor(sample.count, device=device)

    def scores(self, maps: Tensor) -> Tensor:
        """The scores (P, K, M) float64 of the segments under maps (P, K, h, w); differentiable."""
        height, width = maps.shape[-2:]
        if not len(self._matrices):
            labels = self._sample.segments[None].long().to(maps.device)
            self._matrices = segment_matrices(labels, height, width, [self._sample.count])
        return segment_scores(
            maps.flatten(2), self._matrices, torch.zeros(len(maps), dtype=torch.int64, device=maps.device)
        )

    def of(self, one: CopiesPass, certain: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (P, K, M) in a pass, and which of them carry no ranking (P, K): flat, ambiguous, not finite."""
        maps, ambiguous = one.ready.maps.marked(one.evidence)
        scores, cells = self.scores(maps), maps.flatten(2)
        unusable = flat(cells) | ~cells.isfinite().all(dim=-1) | ~certain[:, None]
        return scores, unusable if ambiguous is None else unusable | ambiguous
