"""How well the order of an image's samples agrees with that of samples drawn again at other images within the radius.

A certificate is a lower limit for every image within the radius. What was seen at single images, random ones and one
that was attacked, is an upper limit, up to the error of the samples. What lies between the two is not known.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.contract.certify_config import ATTACK_COPIES, ATTACK_STEPS, tried_at
from camrobust.core.certify.items import ItemSums
from camrobust.core.channels import held, unit
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.shared_pass import NoGradientError
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb.attacks.on_map import cam_maps
from camrobust.core.perturb.attacks.on_rank import soft_overlap
from camrobust.core.precision import repeatable
from camrobust.core.ranks import agreement
from camrobust.measure.noisy_copies import Copies, SegmentRanking
from camrobust.measure.settings import CertifySettings

RANDOM, ATTACKED = 0, 1
"""Places of what was seen at random images, and at one that was attacked."""
LAST = 0.1
"""Length of the last step of the attack, as a share of the first one's, which is the radius."""
LISTS_BYTES = 64 * 2**20
"""Largest size of a comparison of every segment with every other one, of the lists that are compared together."""
Again = Callable[[str, Tensor], list[ItemSums]]
"""Draws the samples again: the noise's purpose and (S, C, H, W), what is added to the image; the sums at each sigma."""


@dataclass(frozen=True)
class Centre:
    """An image around which others are tried.

    Attributes:
        copies: of the image.
        ranking: of its segments.
        explained: (S,), the class whose map is made at each sigma.
        sums: over the samples at the image itself, at each sigma.
    """

    copies: Copies
    ranking: SegmentRanking
    explained: Tensor
    sums: Sequence[ItemSums]

    def agreements(self, asked: CertifySettings, again: Again) -> Tensor:
        """The least agreement seen at every radius, for all CAMs.

        Of `asked.tries` images at a radius the first one is attacked, if that is possible (`_climbed`), and the others
        lie in random directions. At radius 0 the samples are drawn again once, which shows their own error.

        Args:
            asked: the radii R, and how many images are tried.
            again: draws samples at another image.

        Returns:
            (S, R, 2, K) float64: adjusted rank-biased overlap of the two orders, first at random images, then at the
            attacked one; 0 where a map is flat, NaN where nothing was tried.
        """
        S, K = len(self.sums), len(self.copies.settings.cams)
        found = torch.full((S, len(asked.radii), 2, K), torch.nan, dtype=torch.float64)
        climbed = self._climbed() if asked.tries and any(asked.radii) else []
        for radius, share in enumerate(asked.radii):
            for number in range(tried_at(share, asked.tries)):
                kind = ATTACKED if share and not number and climbed else RANDOM
                moved = self.attacked(climbed, share) if kind == ATTACKED else self._random(share, number)
                seen = again(f"certify at {share!r}, {number}", moved)
                for sigma in range(S):
                    value = agreement_of(self.sums[sigma], seen[sigma], self.copies.settings.rbo_p)
                    found[sigma, radius, kind] = found[sigma, radius, kind].fmin(value)
        return found

    def _climbed(self) -> list[int]:
        """Places of the CAMs that an attack climbs: the differentiable ones.

        There are none where no gradient of the maps reaches the pixels, because layers let no gradient through or have
        no second derivative. That is found by trying.
        """
        climbed = [place for place, name in enumerate(self.copies.settings.cams) if CAMS[name].differentiable]
        if not climbed or not self.copies.model.network.differentiable:
            return []
        try:
            next(self._gradients(0, climbed, torch.zeros_like(self.copies.clean[0]), range(1)))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, NoGradientError):
            return []
        return climbed

    def _random(self, share: float, number: int) -> Tensor:
        """A random direction, as long as the radius at each sigma, (S, C, H, W)."""
        direction = self.copies.draws("certify direction", repr(share), [number]).normal(self.copies.clean.shape[1:])
        moved: Tensor = direction / direction.norm().clamp(min=1e-30) * self._radii(share)
        return moved

    def _radii(self, share: float) -> Tensor:
        return (self.copies.sigmas * share)[:, None, None, None]

    def attacked(self, climbed: Sequence[int], share: float) -> Tensor:
        """Where an ascent within the radius ends, at each sigma, (S, C, H, W).

        It climbs minus the differentiable rank-biased overlap (`soft_overlap`) of the maps of noisy copies with the
        order of the samples, averaged over copies and over all CAMs that can be climbed, with new noise in every step.
        Gradients pass the clipping and rounding of the copies as if there were none. Without any gradient, as of maps
        that are always flat, it ends in a random direction and not at the image itself.

        Args:
            climbed: places of the CAMs.
            share: the radius as a share of sigma.
        """
        radii, start = self._radii(share), self.copies.clean[0]
        ends = torch.zeros((len(self.sums), *start.shape), device=start.device)
        for sigma, radius in enumerate(radii):
            for step in range(ATTACK_STEPS):
                gradient = torch.zeros_like(start)
                numbers = range(step * ATTACK_COPIES, (step + 1) * ATTACK_COPIES)
                for part in self._gradients(sigma, climbed, ends[sigma], numbers):
                    gradient += part
                length = radius * (1 - (1 - LAST) * step / (ATTACK_STEPS - 1))
                moved = ends[sigma] + gradient / gradient.norm().clamp(min=1e-30) * length
                ends[sigma] = moved * (radius / moved.norm().clamp(min=1e-30)).clamp(max=1)
        away = ends.flatten(1).norm(dim=1)[:, None, None, None] > 0
        return torch.where(away, ends, self._random(share, 0))

    def _gradients(self, sigma: int, climbed: Sequence[int], moved: Tensor, numbers: range) -> Iterator[Tensor]:
        """The sums of the pixels' gradients over some noisy copies, pass by pass, (C, H, W) each."""
        copies, sums = self.copies, self.sums[sigma]
        clean = (sums.lower + sums.upper)[climbed].to(copies.clean.device).double()
        cams = [copies.settings.cams[place] for place in climbed]

        def one_pass(chosen: Sequence[int]) -> Tensor:
            copies.renew()
            noise = copies.draws("certify attack", "", chosen).normal(copies.clean.shape[1:])
            noisy = unit(held(copies.clean + moved + noise * copies.sigmas[sigma])).requires_grad_()
            classes = self.explained[sigma].expand(len(chosen))
            with repeatable(noisy.device), torch.enable_grad():
                maps, _ = cam_maps(copies.model, noisy, lambda _: classes, cams)
                scores = self.ranking.scores(torch.stack(maps, dim=1)).flatten(0, 1)
                orders = clean.repeat(len(chosen), 1)
                apart = pulled_apart(orders, scores.detach(), self.ranking.count, copies.settings.rbo_p)
                (gradient,) = torch.autograd.grad(scores, noisy, apart)
            return gradient.nan_to_num(0, 0, 0).sum(dim=0)

        return halving_on_oom(numbers, copies.model.pass_size(ATTACK_COPIES), one_pass)


def agreement_of(here: ItemSums, there: ItemSums, p: float) -> Tensor:
    """Adjusted rank-biased overlap of the orders of two sums, (K,) float64; 0 where one has none.

    Segments with equal sums, as most are that are never in the top, count as in random order. In the order of their
    numbers they would agree although nothing was seen of them.
    """
    _, adjusted = agreement(here.lower + here.upper, there.lower + there.upper, p, "a", here.sizes)
    flat = (here.flat == here.samples) | (there.flat == there.samples)
    found: Tensor = adjusted.nan_to_num(0).masked_fill(flat, 0)
    return found


def pulled_apart(clean: Tensor, scores: Tensor, count: Tensor, p: float) -> Tensor:
    """The scores' gradient (N, M) of minus the soft overlap of N pairs of lists, (N, M) each, a few pairs at a time."""
    parts: list[Tensor] = []
    each = max(1, LISTS_BYTES // (8 * scores.shape[1] ** 2))
    for first, second in zip(clean.split(each), scores.split(each), strict=True):
        at = second.clone().requires_grad_()
        parts += torch.autograd.grad(-soft_overlap(first, at, count.expand(len(at)), p).sum(), at)
    return torch.cat(parts).nan_to_num(0, 0, 0)
