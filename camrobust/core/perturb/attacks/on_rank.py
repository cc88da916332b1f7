"""An attack on the ranking of the segments: what a score row measures is what is climbed and what is chosen by.

Rank-biased overlap is piecewise constant. Its differentiable form (`soft_overlap`) counts the segments above a segment
by a logistic function of the difference of scores, and the share of a segment within the top d by a logistic function
of d minus the rank that results. Of the iterates that keep the class, the one of least rank-biased overlap itself is
the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.core.channels import held
from camrobust.core.draws import Draws
from camrobust.core.perturb.attacked_cams import check_differentiable
from camrobust.core.perturb.attacks.on_map import LAST, MOMENTUM, Goal, Pace, clean_map, climb
from camrobust.core.perturb.attacks.on_prediction import LEVELS, Epsilon, Step, Steps, Victim, ball_around
from camrobust.core.perturb.registry import perturbation
from camrobust.core.precision import repeatable
from camrobust.core.ranks import depth_weights, ranked
from camrobust.core.segments import quickshift, segment_matrices, segment_scores
from camrobust.core.similarity import Together

CLOSE = 0.3
"""Difference of two scores, in standard deviations of the scores, at which the count of the segments above is soft."""
SOFT = 1.0
"""Difference of a rank and a depth, in ranks, at which the share within the top is soft."""


@dataclass(frozen=True)
class Ranking:
    """How the segments of B images are ranked in the score rows.

    Attributes:
        segments: (B, H, W) integers, each image 0 … m-1.
        sizes: the m of each image.
        p: persistence of rank-biased overlap.
        ties: its tie rule.
    """

    segments: Tensor
    sizes: Sequence[int]
    p: float = 0.9
    ties: str = "b"

    @classmethod
    def of(cls, images: Tensor) -> "Ranking":
        """By Quickshift and ranked with all defaults, for images (B, 3, H, W) in [0, 1] at 256 levels."""
        segments = quickshift(held(images).cpu()).to(images.device)
        return cls(segments, (segments.flatten(1).amax(dim=1) + 1).tolist())

    def rows(self, chosen: Sequence[int]) -> "Ranking":
        """Those of some images."""
        return Ranking(self.segments[list(chosen)], [self.sizes[row] for row in chosen], self.p, self.ties)


class SegmentRanks:
    """The segments' ranks under maps of one size, beside those under the clean maps.

    Args:
        ranking: of the B images.
        clean: (B, h, w), the clean maps.
    """

    def __init__(self, ranking: Ranking, clean: Tensor) -> None:
        height, width = clean.shape[1:]
        self.ranking, self.maps = ranking, clean
        self.matrices = segment_matrices(ranking.segments.to(clean.device).long(), height, width, ranking.sizes)
        self.sizes = torch.tensor([*ranking.sizes], device=clean.device)
        self.clean = self.scores(clean)

    def scores(self, maps: Tensor) -> Tensor:
        """The scores (B, M) float64 of the segments under maps (B, h, w); differentiable."""
        places = torch.arange(len(maps), device=maps.device)
        return segment_scores(maps.flatten(1)[:, None], self.matrices, places)[:, 0]

    def rbo(self, maps: Tensor) -> Tensor:
        """Rank-biased overlap (B,) float64 with the clean maps, as in a score row; NaN for a map without a ranking."""
        together = Together(
            positions=(self.maps.flatten(1)[:, None], maps.flatten(1)[:, None]),
            segments=(self.clean[:, None], self.scores(maps)[:, None], self.sizes),
        )
        found, _ = together.rbo(self.ranking.p, self.ranking.ties)
        return found.masked_fill(together.flat, torch.nan)[:, 0]

    def soft_rbo(self, maps: Tensor) -> Tensor:
        """Its differentiable form (B,), see `soft_overlap`."""
        return soft_overlap(self.clean, self.scores(maps), self.sizes, self.ranking.p)


def soft_overlap(clean: Tensor, scores: Tensor, sizes: Tensor, p: float = 0.9) -> Tensor:
    """A differentiable form of rank-biased overlap.

    With s the standard deviation of the scores v and σ the logistic function, item i has the rank
    r_i = 1/2 + Σ_j σ((v_j - v_i)/(0.3·s)), and c'_i(d) = σ(d + 1/2 - r_i) of it lies within the top d. With c_i(d) of
    the clean list and the weights of rank-biased overlap, the form is Σ_d weight_d · Σ_i c·c' / √(Σc² · Σc'²), the tie
    rule "b".

    Args:
        clean: (B, M) float64, scores of the first list; they are ranked exactly.
        scores: (B, M) float64, of the second list.
        sizes: (B,) int64, how many of the M items each pair of lists has.
        p: persistence.

    Returns:
        (B,) float64 in [0, 1].
    """
    pair = ranked(clean, clean, sizes)
    (first, last), depths = pair.of_items[:, 0].double().unbind(), pair.depths
    inside = torch.arange(pair.m, device=clean.device) < sizes[:, None]
    exact = ((depths - first[..., None]) / (last - first + 1)[..., None]).clamp(0, 1) * inside[..., None]
    mean = (scores * inside).sum(dim=1, keepdim=True) / sizes[:, None]
    spread = (((scores - mean) * inside).square().sum(dim=1) / sizes).sqrt().detach().clamp(min=1e-30)
    above = torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / (CLOSE * spread)[:, None, None])
    ranks = 0.5 + (above * inside[:, None, :]).sum(dim=2)
    soft = torch.sigmoid((depths + 0.5 - ranks[..., None]) / SOFT) * inside[..., None]
    norms = (exact.square().sum(dim=1) * soft.square().sum(dim=1)).clamp(min=1e-30).sqrt()
    return ((exact * soft).sum(dim=1) / norms * depth_weights(depths, pair.sizes, p)).sum(dim=-1)


@perturbation(
    family="adversarial",
    severities=((1, 60, 0.25), (2, 60, 0.5), (4, 60, 1), (8, 60, 2), (16, 60, 4)),
    source="camrobust",
    channels=None,
)
def cam_attack_rank(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws, ranking: Ranking,
    cam: str = "gradcam",
) -> Tensor:  # fmt: skip
    """Move the ranking of the segments itself: least rank-biased overlap with the clean map among the iterates.

    Ascent on minus a differentiable form of rank-biased overlap with momentum, in steps that shrink to a tenth.
    """
    check_differentiable("cam_attack_rank", cam)
    ball, pace = ball_around(images, epsilon), Pace(steps, step, MOMENTUM, LAST)
    with repeatable(images.device):
        clean = clean_map(victim, ball, cam)
        ranks = SegmentRanks(ranking, clean.maps)
        goal = Goal(lambda maps: -ranks.soft_rbo(maps), lambda maps: -ranks.rbo(maps))
        least = -torch.ones_like(ranks.clean[:, 0])
        found, _ = climb(victim, ball, ball.start(draws), pace, cam, goal, clean, least)
    return found / LEVELS
