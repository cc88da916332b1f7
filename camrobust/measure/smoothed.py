"""What noisy copies of an image say about its class and the order of its segments; of all copies only sums are kept.

The copies of a pilot choose the class, so that what is certified is fixed before the samples are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from camrobust.core.certify.items import ItemSums, item_sums
from camrobust.measure.model import Model
from camrobust.measure.nearby import Centre
from camrobust.measure.noisy_copies import Copies, CopiesPass, SegmentRanking
from camrobust.measure.settings import CertifySettings, MeasureSettings, Sample

PILOT, SAMPLES = "certify pilot", "certify"
"""Purposes of the random streams."""


@dataclass(frozen=True)
class Smoothed:
    """The sums over the samples of one image at one sigma, on the host.

    Attributes:
        explained: the class, label or value whose map was made of every sample, by its number in the network.
        hits: samples with the decision that is certified: the class; for a label or a value, that on the clean image.
        items: what the samples say of every segment under every CAM, (K, M).
        nearby: (R, 2, K) float64, see `Centre.agreements`; NaN where nothing was tried.
    """

    explained: int
    hits: int
    items: ItemSums
    nearby: Tensor


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
    copies = Copies(model, sample, clean, settings, asked.sigma, renew)
    readout = model.network.readout
    clean_scores = copies.clean_scores() if readout.is_fixed else None
    if clean_scores is None:
        explained = _votes(copies, asked.pilot, model.classes).argmax(dim=1)
    else:
        explained = readout.predicted(clean_scores).expand(len(asked.sigma))
    ranking = SegmentRanking(sample, model.device)
    samples = _Samples(copies, ranking, asked, explained, clean_scores)
    hits, sums = samples.drawn(SAMPLES)
    centre = Centre(copies, ranking, explained, sums)
    nearby = centre.agreements(asked, lambda purpose, moved: samples.drawn(purpose, moved)[1])
    numbers = zip(readout.numbers(explained).tolist(), hits.tolist(), strict=True)
    return [Smoothed(label, count, sums[sigma], nearby[sigma]) for sigma, (label, count) in enumerate(numbers)]


@dataclass(frozen=True)
class _Samples:
    """Draws samples of an image, or of one near it.

    Attributes:
        copies: of the image.
        ranking: of its segments.
        asked: how many samples, and what they say of each segment.
        explained: (S,), the class, label or value whose map is made at each sigma.
        clean_scores: (1, n), the model's scores of the image, if it explains a fixed label or value; else None.
    """

    copies: Copies
    ranking: SegmentRanking
    asked: CertifySettings
    explained: Tensor
    clean_scores: Tensor | None

    def drawn(self, purpose: str, moved: Tensor | None = None) -> tuple[Tensor, list[ItemSums]]:
        """Samples with the decision that is certified, (S,) int64, and the sums over all, at each sigma, on the host.

        Args:
            purpose: of the noise.
            moved: (S, C, H, W), what is added to the image at each sigma.
        """
        S, asked, ranking = len(self.asked.sigma), self.asked, self.ranking
        hits = torch.zeros(S, dtype=torch.int64, device=self.explained.device)
        sums: dict[int, ItemSums] = {}
        for one in self.copies.passes(purpose, asked.samples, self.explained, moved):
            kept, certain = self._decided(one)
            scores, unusable = ranking.of(one, certain)
            for sigma in range(S):
                rows = one.of(sigma, S)
                hits[sigma] += kept[rows].sum()
                if rows.start < rows.stop:
                    more = item_sums(scores[rows], asked.item, ranking.count, asked.top, unusable[rows])
                    sums[sigma] = sums[sigma] + more if sigma in sums else more
        return hits, [_on_host(sums[sigma]) for sigma in range(S)]

    def _decided(self, one: CopiesPass) -> tuple[Tensor, Tensor]:
        """Which copies have the decision, and which are explained by a finite number, (P,) bool each."""
        readout, logits = self.copies.model.network.readout, one.evidence.logits
        own = self.explained.index_select(0, one.sigmas)
        certain = (readout.confidence if readout.has_classes else readout.values)(logits, own).isfinite()
        if self.clean_scores is None:
            kept = readout.predicted(logits) == own
        else:
            kept = readout.kept(logits, self.clean_scores.expand_as(logits), own)
        return kept & certain, certain


def _votes(copies: Copies, pilot: int, classes: int) -> Tensor:
    """How many copies of the pilot are given each class at each sigma, (S, classes)."""
    S, readout = len(copies.sigmas), copies.model.network.readout
    votes = torch.zeros(S, classes, dtype=torch.int64, device=copies.model.device)
    for one in copies.passes(PILOT, pilot):
        given = readout.predicted(one.evidence.logits)
        for sigma in range(S):
            votes[sigma] += given[one.of(sigma, S)].bincount(minlength=classes)
    return votes


def _on_host(sums: ItemSums) -> ItemSums:
    values = {one.name: getattr(sums, one.name) for one in fields(sums)}
    on_host: dict[str, Any] = {name: one.cpu() for name, one in values.items() if isinstance(one, Tensor)}
    return replace(sums, **on_host)
