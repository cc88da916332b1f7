"""Noisy copies of an image through a model, in full passes; of all copies only sums are kept.

The noise of a copy depends on the names of the image, its purpose (pilot or sample) and its number alone. Each sigma
scales it, so all sigmas, CAMs and models of a run share it. A copy is clipped and rounded to whole levels, as every
variant of a run is. The copies of a pilot choose the class, so that what is certified is fixed before the samples are
drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camrobust.core.certify.items import ItemSums, item_sums
from camrobust.core.channels import held, unit
from camrobust.core.draws import Draws
from camrobust.core.explain.evidence import Evidence, collect
from camrobust.core.memory import halving_on_oom
from camrobust.core.segments import segment_matrices, segment_scores
from camrobust.core.similarity.registry import flat
from camrobust.measure.model import Model
from camrobust.measure.prepared import Prepared, prepare
from camrobust.measure.settings import CertifySettings, MeasureSettings, Sample
from camrobust.measure.transfer import to_device

PILOT, SAMPLES = "certify pilot", "certify"
"""Purposes of the random streams."""


@dataclass(frozen=True)
class Smoothed:
    """The sums over the samples of one image at one sigma, on the host.

    Attributes:
        explained: the class, label or value whose map was made of every sample, by its number in the network.
        hits: samples with the decision that is certified: the class; for a label or a value, that on the clean image.
        items: what the samples say of every segment under every CAM, (K, M).
    """

    explained: int
    hits: int
    items: ItemSums


@dataclass(frozen=True)
class _Pass:
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


class _Copies:
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

    def passes(self, purpose: str, copies: int, explained: Tensor | None = None) -> Iterator[_Pass]:
        """All passes: every copy under every sigma, copy by copy.

        Args:
            purpose: of the noise.
            copies: how many.
            explained: (S,), the class to explain at each sigma; None for the one that each copy is given.
        """

        def pixels(numbers: range, places: Tensor, sigmas: Tensor) -> Tensor:
            noise = self._draws(purpose, "", numbers).normal(self.clean.shape[1:])
            scale = self.sigmas.index_select(0, sigmas)[:, None, None, None]
            return self.clean + noise.index_select(0, places) * scale

        return self._run(range(copies * len(self.sigmas)), purpose, pixels, explained)

    def _draws(self, purpose: str, strength: str, copies: Sequence[int]) -> Draws:
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
    ) -> Iterator[_Pass]:
        """Passes of the size of all passes of the run, the last one filled up with copies of its last row.

        Args:
            rows: row r is the copy r // S at the sigma r modulo S.
            purpose: of the random numbers of CAMs that draw.
            pixels: takes the different copies of a pass, and of every row the place of its copy and its sigma.
            explained: as in `passes`.
        """
        model, settings, S = self.model, self.settings, len(self.sigmas)

        def one_pass(chosen: Sequence[int]) -> _Pass:
            self.renew()
            filled = np.array([*chosen, *[chosen[-1]] * (model.pass_size(settings.batch) - len(chosen))])
            copies, first = filled // S, chosen[0] // S
            places, sigmas = to_device([np.stack([copies - first, filled % S])], model.device).unbind()
            images = held(pixels(range(first, chosen[-1] // S + 1), places, sigmas))
            inputs = model.inputs(images.expand(len(filled), -1, -1, -1), settings.precision)
            ready = prepare(model, settings, inputs)
            wanted = None if explained is None else explained.index_select(0, sigmas)
            draws = self._draws("cam", purpose, copies.tolist())
            evidence = collect(ready.network, inputs, None if wanted is None else lambda _: wanted, draws)
            return _Pass(chosen[0], len(chosen), sigmas, evidence, ready)

        yield from halving_on_oom(rows, model.pass_size(settings.batch), one_pass, model.remember, filled=True)


def smoothed(
    model: Model,
    sample: Sample,
    clean: Tensor,
    settings: MeasureSettings,
    asked: CertifySettings,
    renew: Callable[[], None] = lambda: None,
) -> list[Smoothed]:
    """The sums of one image for every sigma, in their order.

    Args:
        model: the classifier.
        sample: names of the image, and its segments.
        clean: (1, C, H, W), the image as it is measured.
        settings: the CAMs, and how many images a pass holds.
        asked: sigmas, samples, pilot and items.
        renew: called before each pass.
    """
    copies = _Copies(model, sample, clean, settings, asked.sigma, renew)
    S, readout, device = len(asked.sigma), model.network.readout, model.device
    clean_scores = copies.clean_scores() if readout.is_fixed else None
    if clean_scores is None:
        explained = _votes(copies, asked.pilot, model.classes).argmax(dim=1)
    else:
        explained = readout.predicted(clean_scores).expand(S)
    hits = torch.zeros(S, dtype=torch.int64, device=device)
    sums: dict[int, ItemSums] = {}
    ranking = _Ranking(sample, device)
    for one in copies.passes(SAMPLES, asked.samples, explained):
        logits = one.evidence.logits
        own = explained.index_select(0, one.sigmas)
        sure = readout.confidence(logits, own) if readout.has_classes else readout.values(logits, own)
        if clean_scores is None:
            kept = readout.predicted(logits) == own
        else:
            kept = readout.kept(logits, clean_scores.expand_as(logits), own)
        kept &= sure.isfinite()
        scores, unusable = ranking.of(one, sure.isfinite())
        for sigma in range(S):
            rows = one.of(sigma, S)
            hits[sigma] += kept[rows].sum()
            if rows.start < rows.stop:
                more = item_sums(scores[rows], asked.item, ranking.count, asked.top, unusable[rows])
                sums[sigma] = sums[sigma] + more if sigma in sums else more
    return [
        Smoothed(label, count, _on_host(sums[sigma]))
        for sigma, (label, count) in enumerate(zip(readout.numbers(explained).tolist(), hits.tolist(), strict=True))
    ]


def _votes(copies: _Copies, pilot: int, classes: int) -> Tensor:
    """How many copies of the pilot are given each class at each sigma, (S, classes)."""
    S, readout = len(copies.sigmas), copies.model.network.readout
    votes = torch.zeros(S, classes, dtype=torch.int64, device=copies.model.device)
    for one in copies.passes(PILOT, pilot):
        given = readout.predicted(one.evidence.logits)
        for sigma in range(S):
            votes[sigma] += given[one.of(sigma, S)].bincount(minlength=classes)
    return votes


class _Ranking:
    """Turns the maps of a pass into scores of the image's segments."""

    def __init__(self, sample: Sample, device: torch.device) -> None:
        self._sample, self._matrices = sample, torch.empty(0, device=device)
        self.count = torch.tensor(sample.count, device=device)

    def of(self, one: _Pass, certain: Tensor) -> tuple[Tensor, Tensor]:
        """The scores (P, K, M), and which of them carry no ranking (P, K): flat, ambiguous or not finite ones."""
        maps, ambiguous = one.ready.maps.marked(one.evidence)
        height, width = maps.shape[-2:]
        if not len(self._matrices):
            labels = self._sample.segments[None].long().to(maps.device)
            self._matrices = segment_matrices(labels, height, width, [self._sample.count])
        cells = maps.flatten(2)
        scores = segment_scores(cells, self._matrices, torch.zeros(len(cells), dtype=torch.int64, device=maps.device))
        unusable = flat(cells) | ~cells.isfinite().all(dim=-1) | ~certain[:, None]
        return scores, unusable if ambiguous is None else unusable | ambiguous


def _on_host(sums: ItemSums) -> ItemSums:
    values = {one.name: getattr(sums, one.name) for one in fields(sums)}
    on_host: dict[str, Any] = {name: one.cpu() for name, one in values.items() if isinstance(one, Tensor)}
    return replace(sums, **on_host)
