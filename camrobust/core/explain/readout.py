"""What the outputs of a network mean: the decision, the score that a CAM explains, how sure the network is.

Nothing else takes an argmax, a softmax or a sign of a network's outputs. A network puts out (B, m) numbers. They become
scores (B, n), one for each class, label or value, and y_c, the score of the explained one, is what CAMs explain:

| head | n | scores | explained | decision |
|---|---|---|---|---|
| softmax | m | the outputs | the highest | which is the highest |
| binary | 2 | -z and z of the one output z | the higher: 1 if z > 0, else 0 | which is the higher |
| multilabel | m | the outputs | the highest of the clean image, or a given one | whether its score is above 0 |
| value | m | the outputs | the only one, or a given one | its value, within a tolerance |

Outputs that hold probabilities already are taken as such: binary scores are then 1 - p and p, and a label is decided at
one half.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.special import entr

from camrobust.contract.errors import UserError
from camrobust.contract.heads import Head


@dataclass(frozen=True)
class Readout:
    """How the outputs of a network are read.

    Attributes:
        kind: one of `contract.heads.HEADS`.
        outputs: what the network puts out, "logits", "probabilities" or "sigmoids" (between 0 and 1); all are called
            logits elsewhere.
        explained: the output that is always explained; None for the highest one.
        tolerance: largest change of a value that counts as kept.
        among: numbers of the classes between which a softmax chooses, rising; empty for all. Scores then have one
            column for each of them, and what is explained is a position among them.
        width: number of outputs of the network; 0 where it is that of the scores.
    """

    kind: str = "softmax"
    outputs: str = "logits"
    explained: int | None = None
    tolerance: float = 0.0
    among: tuple[int, ...] = ()
    width: int = 0

    @property
    def head(self) -> str:
        """The head as text, as a configuration names it."""
        tolerance = self.tolerance if self.kind == "value" else None
        return str(Head(self.kind, self.explained if self.is_fixed else None, tolerance))

    def is_of(self, head: Head) -> bool:
        """Whether outputs are read as a head says, with what it leaves out."""
        explained = 0 if head.kind == "value" and head.explained is None else head.explained
        return (
            (self.kind, self.explained) == (head.kind, explained)
            and head.tolerance in (None, self.tolerance)
            and (head.outputs is None or (head.outputs == "probabilities") == self.holds_probabilities)
        )

    @property
    def holds_probabilities(self) -> bool:
        """Whether the outputs are probabilities; those of a softmax head sum to 1."""
        return self.outputs == "probabilities" or (self.outputs == "sigmoids" and self.kind in ("binary", "multilabel"))

    @property
    def is_fixed(self) -> bool:
        """Whether the maps of all variants of an image explain the output that its clean image's map explains."""
        return self.kind in ("multilabel", "value")

    @property
    def has_classes(self) -> bool:
        """Whether there are classes or labels; else outputs are values, which have neither confidence nor entropy."""
        return self.kind != "value"

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs (B, m) as scores (B, n)."""
        if self.among:
            return outputs.index_select(1, _places(self.among, outputs.device))
        if self.kind != "binary":
            return outputs
        return torch.cat([1 - outputs if self.holds_probabilities else -outputs, outputs], dim=1)

    def outputs_of(self, scores: Tensor) -> Tensor:
        """The outputs (B, m) that have these scores (B, n); those of the classes in `among` where there are such."""
        return scores[:, 1:] if self.kind == "binary" else scores

    def numbers(self, explained: Tensor) -> Tensor:
        """The numbers of classes, labels or values that stand at some positions of the scores, (B,) to (B,)."""
        return _places(self.among, explained.device)[explained] if self.among else explained

    def positions(self, numbers: Tensor) -> Tensor:
        """The positions of some classes among the scores, (B,) to (B,); any for a class that `among` leaves out."""
        if not self.among:
            return numbers
        return torch.searchsorted(_places(self.among, numbers.device), numbers).clamp(max=len(self.among) - 1)

    def predicted(self, scores: Tensor) -> Tensor:
        """The class, label or value that a map explains, (B, n) to (B,)."""
        if self.explained is None:
            return scores.argmax(dim=1)
        return torch.full_like(scores[:, 0], self.explained, dtype=torch.int64)

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probability of every class or label, (B, n); values stay as they are."""
        if self.holds_probabilities or not self.has_classes:
            return scores
        return scores.softmax(dim=1) if self.kind == "softmax" else scores.sigmoid()

    def confidence(self, scores: Tensor, explained: Tensor) -> Tensor:
        """The probability (B,) of the class or label `explained` (B,); NaN for values."""
        if not self.has_classes:
            return torch.full_like(scores[:, 0], torch.nan)
        return own(self.probabilities(scores), explained)

    def entropy(self, scores: Tensor, explained: Tensor) -> Tensor:
        """Entropy (B,), nats, over the classes, or of whether the label `explained` (B,) is there; NaN for values."""
        if not self.has_classes:
            return torch.full_like(scores[:, 0], torch.nan)
        probabilities = self.probabilities(scores)
        if self.kind == "multilabel":
            there = own(probabilities, explained)
            absent = 1 - there if self.holds_probabilities else own(-scores, explained).sigmoid()
            probabilities = torch.stack([there, absent], dim=1)
        entropy: Tensor = entr(probabilities).sum(dim=1)
        return entropy

    def values(self, scores: Tensor, explained: Tensor) -> Tensor:
        """The explained value (B,); NaN where there are classes."""
        return torch.full_like(scores[:, 0], torch.nan) if self.has_classes else own(scores, explained)

    def kept(self, scores: Tensor, clean: Tensor, explained: Tensor) -> Tensor:
        """Whether the decision on each image is that on its clean image, (B,) bool.

        Args:
            scores: (B, n), of the images.
            clean: (B, n), of their clean images.
            explained: (B,), the class, label or value that is explained on the clean images.
        """
        if not self.is_fixed:
            return scores.argmax(dim=1) == clean.argmax(dim=1)
        now, then = own(scores, explained), own(clean, explained)
        if self.kind == "value":
            return (now - then).abs() <= self.tolerance
        return (now > self._threshold) == (then > self._threshold)

    def margin(self, scores: Tensor, clean: Tensor, explained: Tensor) -> Tensor:
        """How far each image is on the clean image's side of the decision, (B,); it falls as the decision is left.

        Of classes, the score of the clean image's minus the best other; of a label, its score's distance from the
        threshold; of a value, minus its distance from the clean one, which has a derivative at the clean image, too.
        The arguments are those of `kept`.
        """
        now, then = own(scores, explained), own(clean, explained)
        if self.kind == "value":
            return torch.where(now < then, now - then, then - now)
        if self.kind == "multilabel":
            return torch.where(then > self._threshold, now - self._threshold, self._threshold - now)
        mine = torch.zeros_like(scores, dtype=torch.bool).scatter(1, explained[:, None], value=True)
        return scores[mine] - scores.masked_fill(mine, -torch.inf).amax(dim=1)

    def loss(self, scores: Tensor, clean: Tensor, explained: Tensor) -> Tensor:
        """What an attack on the decision increases, summed over images; the arguments are those of `kept`.

        The cross-entropy of the clean image's class; where there is no softmax, minus the margin. For one logit, the
        gradient of the binary cross-entropy has the same direction, and steps use no more than that.
        """
        if self.kind == "softmax":
            return cross_entropy(scores, explained, reduction="sum")
        return -self.margin(scores, clean, explained).sum()

    def towards(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """What an attack increases that wants the classes or labels `wanted` (B,), summed over images.

        Raises:
            UserError: the outputs are values.
        """
        if not self.has_classes:
            raise UserError("pgd_targeted: values have no target class; leave it out for a model with head: value")
        return -cross_entropy(scores, wanted, reduction="sum") if self.kind == "softmax" else own(scores, wanted).sum()

    def has(self, number: int, classes: int) -> bool:
        """Whether a network with so many scores can choose the class of this number."""
        return number in self.among if self.among else 0 <= number < classes

    @property
    def _threshold(self) -> float:
        return 0.5 if self.holds_probabilities else 0.0


SOFTMAX = Readout()
"""Classes that exclude each other, from logits."""


@cache
def _places(among: tuple[int, ...], device: torch.device) -> Tensor:
    """(n,) int64. It stays on its device, because a CUDA graph can copy nothing to it."""
    return torch.tensor(among, dtype=torch.int64, device=device)


def own(scores: Tensor, explained: Tensor) -> Tensor:
    """The entry (N,) of each row of (N, n) that `explained` (N,) names."""
    return scores.gather(1, explained[:, None])[:, 0]
