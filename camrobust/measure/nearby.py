"""How well the order of an image's samples agrees with that of samples drawn again at other images within the radius.

A certificate is a lower limit for every image within the radius. What was seen at single images, random ones and one
that was attacked, is an upper limit, up to the error of the samples. What lies between the two is not known.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camrobust.contract.certify_config import ATTACK_COPIES, ATTACK_STEPS
from camrobust.core.certify.items import ItemSums
from camrobust.core.channels import held, unit
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.shared_pass import NoGradientError
from camrobust.core.memory import halving_on_oom
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


def agreements(
    copies: Copies, ranking: SegmentRanking, explained: Tensor, sums: Sequence[ItemSums], asked: CertifySettings,
    again: Again,
) -> Tensor:  # fmt: skip
    """The least agreement seen at every radius, for all CAMs.

    Of `asked.tries` images at a radius the first one is attacked, if that is possible (`_climbed`), and the others lie
    in random directions. At radius 0 the samples are drawn again once, which shows their own error.

    Args:
        copies: of the image.
        ranking: of its segments.
        explained: (S,), the class whose map is made at each sigma.
        sums: over the samples at the image itself, at each sigma.
        asked: the radii R, and how many images are tried.
        again: draws samples at another image.

    Returns:
        (S, R, 2, K) float64: adjusted rank-biased overlap of the two orders, first at random images, then at the
        attacked one; 0 where a map is flat, NaN where nothing was tried.
    """
    S, K = len(sums), len(copies.settings.cams)
    found = torch.full((S, len(asked.radii), 2, K), torch.nan, dtype=torch.float64)
    climbed = _climbed(copies, ranking, explained, sums) if asked.tries and any(asked.radii) else []
    for radius, share in enumerate(asked.radii):
        for number in range(asked.tries if share else min(asked.tries, 1)):
            kind = ATTACKED if share and not number and climbed else RANDOM
            if kind == ATTACKED:
                moved = _attacked(copies, ranking, explained, sums, climbed, share)
            else:
                moved = _random(copies, share, number)
            seen = again(f"certify at {share!r}, {number}", moved)
            for sigma in range(S):
                value = _agreement(sums[sigma], seen[sigma], copies.settings.rbo_p)
                found[sigma, radius, kind] = found[sigma, radius, kind].fmin(value)
    return found


def _climbed(copies: Copies, ranking: SegmentRanking, explained: Tensor, sums: Sequence[ItemSums]) -> list[int]:
    """Places of the CAMs that an attack climbs: the differentiable ones.

    There are none where no gradient of the maps reaches the pixels, because layers let no gradient through or have no
    second derivative. That is found by trying.
    """
    climbed = [place for place, name in enumerate(copies.settings.cams) if CAMS[name].differentiable]
    if not climbed or not copies.model.network.differentiable:
        return []
    clean, here = _rank_sums(sums[0], climbed, copies), torch.zeros_like(copies.clean[0])
    try:
        next(_gradients(copies, ranking, explained[0], clean, climbed, here, 0, range(1)))
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, NoGradientError):
        return []
    return climbed


def _rank_sums(sums: ItemSums, climbed: Sequence[int], copies: Copies) -> Tensor:
    """The order of the samples under some CAMs as scores (K, M) float64, on the model's device."""
    chosen: Tensor = (sums.lower + sums.upper)[climbed]
    return chosen.to(copies.clean.device).double()


def _agreement(here: ItemSums, there: ItemSums, p: float) -> Tensor:
    """Adjusted rank-biased overlap of the orders of two sums, (K,) float64; 0 where one has none.

    Segments with equal sums, as most are that are never in the top, count as in random order. In the order of their
    numbers they would agree although nothing was seen of them.
    """
    _, adjusted = agreement(here.lower + here.upper, there.lower + there.upper, p, "a", here.sizes)
    flat = (here.flat == here.samples) | (there.flat == there.samples)
    found: Tensor = adjusted.nan_to_num(0).masked_fill(flat, 0)
    return found


def _random(copies: Copies, share: float, number: int) -> Tensor:
    """A random direction, as long as the radius at each sigma, (S, C, H, W)."""
    direction = copies.draws("certify direction", repr(share), [number]).normal(copies.clean.shape[1:])
    moved: Tensor = direction / direction.norm().clamp(min=1e-30) * _radii(copies, share)
    return moved


def _radii(copies: Copies, share: float) -> Tensor:
    return (copies.sigmas * share)[:, None, None, None]


def _attacked(
    copies: Copies, ranking: SegmentRanking, explained: Tensor, sums: Sequence[ItemSums], climbed: Sequence[int],
    share: float,
) -> Tensor:  # fmt: skip
    """Where an ascent within the radius ends, at each sigma, (S, C, H, W).

    It climbs minus the differentiable rank-biased overlap (`soft_overlap`) of the maps of noisy copies with the order
    of the samples, averaged over copies and over all CAMs that can be climbed, with new noise in every step. Gradients
    pass the clipping and rounding of the copies as if there were none. Without any gradient, as of maps that are always
    flat, it ends in a random direction and not at the image itself.
    """
    radii = _radii(copies, share)
    ends = torch.zeros((len(sums), *copies.clean.shape[1:]), device=copies.clean.device)
    for sigma, at_image in enumerate(sums):
        clean = _rank_sums(at_image, climbed, copies)
        for step in range(ATTACK_STEPS):
            gradient = torch.zeros_like(ends[sigma])
            numbers = range(step * ATTACK_COPIES, (step + 1) * ATTACK_COPIES)
            for part in _gradients(copies, ranking, explained[sigma], clean, climbed, ends[sigma], sigma, numbers):
                gradient += part
            length = radii[sigma] * (1 - (1 - LAST) * step / (ATTACK_STEPS - 1))
            moved = ends[sigma] + gradient / gradient.norm().clamp(min=1e-30) * length
            ends[sigma] = moved * (radii[sigma] / moved.norm().clamp(min=1e-30)).clamp(max=1)
    away = ends.flatten(1).norm(dim=1)[:, None, None, None] > 0
    return torch.where(away, ends, _random(copies, share, 0))


def _gradients(
    copies: Copies, ranking: SegmentRanking, explained: Tensor, clean: Tensor, climbed: Sequence[int], moved: Tensor,
    sigma: int, numbers: range,
) -> Iterator[Tensor]:  # fmt: skip
    """The sums of the pixels' gradients over some noisy copies, pass by pass, (C, H, W) each."""
    model, cams = copies.model, [copies.settings.cams[place] for place in climbed]

    def one_pass(chosen: Sequence[int]) -> Tensor:
        copies.renew()
        noise = copies.draws("certify attack", "", chosen).normal(copies.clean.shape[1:])
        noisy = unit(held(copies.clean + moved + noise * copies.sigmas[sigma])).requires_grad_()
        # Fused attention has no second derivative.
        with repeatable(noisy.device), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            classes = explained.expand(len(chosen))
            evidence = collect(model.network, model.normalise(noisy), lambda _: classes, graph=True)
            maps = torch.stack([CAMS[name].function(evidence) for name in cams], dim=1)
            scores = ranking.scores(maps).flatten(0, 1)
            apart = _apart(clean.repeat(len(chosen), 1), scores.detach(), ranking.count, copies.settings.rbo_p)
            (gradient,) = torch.autograd.grad(scores, noisy, apart)
        return gradient.nan_to_num(0, 0, 0).sum(dim=0)

    return halving_on_oom(numbers, model.pass_size(ATTACK_COPIES), one_pass)


def _apart(clean: Tensor, scores: Tensor, count: Tensor, p: float) -> Tensor:
    """The scores' gradient (N, M) of minus the soft overlap of N pairs of lists, (N, M) each, a few pairs at a time."""
    parts: list[Tensor] = []
    each = max(1, LISTS_BYTES // (8 * scores.shape[1] ** 2))
    for first, second in zip(clean.split(each), scores.split(each), strict=True):
        at = second.clone().requires_grad_()
        parts += torch.autograd.grad(-soft_overlap(first, at, count.expand(len(at)), p).sum(), at)
    return torch.cat(parts).nan_to_num(0, 0, 0)
