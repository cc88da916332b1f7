"""Attacks on the explanation: the predicted class stays, the map moves (Ghorbani et al. 2019).

Projected ascent within an ℓ∞ ball by double backward: one pass for the gradients in the CAM, one for the pixels. A
Grad-CAM depends on the activations as well as on their gradients. So it has a derivative even where the second
derivative of a ReLU network is zero, and no softplus has to replace the ReLUs. Every iterate lies on the grid of the
image's levels. Of those that keep the class, the one that moved the map furthest is the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camrobust.contract.registry import unknown
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import Choose, collect
from camrobust.core.perturb.attacked_cams import check_differentiable
from camrobust.core.perturb.attacks.on_prediction import (
    LEVELS,
    Ball,
    Epsilon,
    Step,
    Steps,
    Victim,
    ball_around,
    column,
)
from camrobust.core.perturb.registry import perturbation
from camrobust.core.precision import repeatable

TOP = 0.1
"""Share of a map's positions that count as its most important ones."""
Objective = Callable[[Tensor, Tensor], Tensor]
"""(map, clean map), both (B, h, w) of sum 1, to the distance (B,) that the attack increases."""


def _top(clean: Tensor) -> Tensor:
    """(B, h·w) bool: the most important positions of each clean map."""
    flat = clean.flatten(1)
    count = max(1, round(TOP * flat.shape[1]))
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, flat.topk(count, dim=1).indices, value=True)


def top_mass(moved: Tensor, clean: Tensor) -> Tensor:
    """Minus the mass left at the clean map's most important positions."""
    return -(moved.flatten(1) * _top(clean)).sum(dim=1)


def mass_centre(moved: Tensor, clean: Tensor) -> Tensor:
    """Squared distance between the maps' centres of mass, in cells."""
    return ((_centre(moved) - _centre(clean)) ** 2).sum(dim=1)


def _centre(maps: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    down = torch.arange(height, dtype=maps.dtype, device=maps.device)
    across = torch.arange(width, dtype=maps.dtype, device=maps.device)
    return torch.stack([(maps.sum(dim=2) * down).sum(dim=1), (maps.sum(dim=1) * across).sum(dim=1)], dim=1)


def target_region(moved: Tensor, clean: Tensor) -> Tensor:
    """Mass in the quarter of the image where the clean map has the least."""
    height, width = (side // 2 for side in clean.shape[1:])
    halves = product((slice(height), slice(height, None)), (slice(width), slice(width, None)))
    pairs = [(clean[:, rows, columns], moved[:, rows, columns]) for rows, columns in halves]
    before, after = (torch.stack([part.sum(dim=(1, 2)) for part in side], dim=1) for side in zip(*pairs, strict=True))
    return after.gather(1, before.argmin(dim=1, keepdim=True))[:, 0]


OBJECTIVES: dict[str, Objective] = {"top": top_mass, "centre": mass_centre, "region": target_region}
"""The top-k, mass-centre and targeted attack of Ghorbani et al. 2019, section 3."""


@dataclass(frozen=True)
class Goal:
    """What an attack on maps climbs, and by what it chooses among the iterates.

    Attributes:
        climbed: maps (B, h, w) of sum 1 to what the ascent increases, (B,), differentiable.
        reached: the same maps to what the result has most of, (B,); NaN where an iterate is out of the question.
    """

    climbed: Callable[[Tensor], Tensor]
    reached: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pace:
    """How an ascent moves.

    Attributes:
        steps: (B,) number of steps.
        size: (B,) size of the first step, levels.
        momentum: share of the direction of one step that the next one keeps; gradients then have mean magnitude 1.
        last: size of the last step, as a share of the first one's.
    """

    steps: Tensor
    size: Tensor
    momentum: float = 0
    last: float = 1

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        """The direction of the next step, (B, 3, H, W)."""
        if not self.momentum:
            return gradient
        gradient = gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        return gradient if before is None else self.momentum * before + gradient

    def size_at(self, number: int) -> Tensor:
        """The size of a step, (B, 1, 1, 1) levels."""
        return column(self.size * (1 - (1 - self.last) * number / self.steps))


MOMENTUM, LAST = 0.75, 0.1
"""The `Pace` of ascents that search longest: on the ranking, and for the smallest radius."""


def attack_map(
    victim: Victim, images: Tensor, epsilon: Tensor, steps: Tensor, step: Tensor, draws: Draws, *,
    cam: str = "gradcam", objective: str = "top",
) -> Tensor:  # fmt: skip
    """Move the map of each image by projected ascent within an ℓ∞ ball, while the class stays.

    Args:
        victim: the model.
        images: (B, C, H, W) in [0, 1], at 256 levels.
        epsilon: (B,) radius of the ball, levels.
        steps: (B,) number of steps.
        step: (B,) size of one step, levels.
        draws: one random stream per image, for the start.
        cam: a differentiable one.
        objective: one of `OBJECTIVES`.

    Returns:
        (B, C, H, W) in [0, 1], at 256 levels; the clean image if no iterate both kept the class and moved the map.

    Raises:
        UserError: a CAM without a derivative, or an unknown objective.

    References:
        Ghorbani, Abid, Zou 2019, arXiv 1710.10547.
    """
    check_differentiable("cam_attack", cam)
    if objective not in OBJECTIVES:
        raise unknown("objective of cam_attack", objective, OBJECTIVES)
    ball = ball_around(images, epsilon)
    with repeatable(images.device):
        clean = clean_map(victim, ball, cam)

        def moved(maps: Tensor) -> Tensor:
            return OBJECTIVES[objective](maps, clean.maps)

        start, pace = ball.start(draws), Pace(steps, step)
        found, _ = climb(victim, ball, start, pace, cam, Goal(moved, moved), clean, moved(clean.maps))
    return found / LEVELS


@dataclass(frozen=True)
class CleanMap:
    """What an attack on maps starts from.

    Attributes:
        maps: (B, h, w) of sum 1, of the clean images.
        logits: (B, n) theirs.
        explained: (B,) the outputs that they explain; iterates are explained at the same ones.
    """

    maps: Tensor
    logits: Tensor
    explained: Tensor


def clean_map(victim: Victim, ball: Ball, cam: str) -> CleanMap:
    """The maps of the clean images, and the decision to keep."""
    predicted = victim.network.readout.predicted
    maps, logits = cam_map(victim, ball.clean, predicted, cam)
    return CleanMap(maps, logits, predicted(logits))


def climb(
    victim: Victim, ball: Ball, start: Tensor, pace: Pace, cam: str, goal: Goal, clean: CleanMap, least: Tensor,
    enough: float = inf,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Projected ascent: per image, the iterate on the grid that kept the decision and reached most.

    Args:
        victim: the model.
        ball: the images stay within it.
        start: (B, 3, H, W) levels in the ball.
        pace: how the ascent moves.
        cam: name of the CAM.
        goal: what is climbed, and what is kept.
        clean: the clean images' maps, and the decision to keep.
        least: (B,) what an iterate must exceed to be chosen.
        enough: the ascent ends when every image has exceeded this.

    Returns:
        The iterates (B, 3, H, W), whole levels, the clean image where none exceeded `least`; what they reached, (B,).
    """
    readout, explained = victim.network.readout, clean.explained
    best, far = ball.clean, least
    at, before, last = start, None, int(pace.steps.max())
    for number in range(last + 1):
        point = ball.on_grid(at).requires_grad_()
        maps, logits = cam_map(victim, point, lambda _: explained, cam)
        reached, kept = goal.reached(maps.detach()), readout.kept(logits, clean.logits, explained)
        better = kept & (reached > far) & (number <= pace.steps)
        far, best = torch.where(better, reached, far), torch.where(column(better), point.detach(), best)
        if number == last or (enough < inf and bool((far > enough).all())):
            break
        # If the decision is lost, climb back to it.
        climbed = torch.where(kept, goal.climbed(maps), readout.margin(logits, clean.logits, explained))
        (gradient,) = torch.autograd.grad(climbed.sum(), point)
        before = pace.direction(gradient, before)
        at = ball.step(at, before, pace.size_at(number))
    return best, far


def cam_map(victim: Victim, levels: Tensor, choose: Choose, cam: str) -> tuple[Tensor, Tensor]:
    """A CAM (B, h, w) of sum 1 and the logits (B, n); with a graph to the pixels if `levels` requires gradients."""
    with torch.set_grad_enabled(levels.requires_grad):
        (maps,), logits = cam_maps(victim, levels / LEVELS, choose, [cam])
        return maps / maps.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12), logits


def cam_maps(victim: Victim, images: Tensor, choose: Choose, cams: Sequence[str]) -> tuple[list[Tensor], Tensor]:
    """Some CAMs, (B, h, w) each, of images in [0, 1], and the logits (B, n); with a graph if `images` have one."""
    recorded = images.requires_grad
    # Fused attention has no second derivative.
    with torch.set_grad_enabled(recorded), sdpa_kernel(SDPBackend.MATH):
        evidence = collect(victim.network, victim.normalise(images), choose, graph=recorded)
        return [CAMS[cam].function(evidence) for cam in cams], evidence.logits


_attack = partial(
    perturbation,
    family="adversarial",
    channels=None,
    severities=((1, 20, 0.5), (2, 20, 0.5), (4, 20, 1), (8, 20, 2), (16, 20, 4)),
    source="Ghorbani et al., arXiv 1710.10547",
)


@_attack()
def cam_attack(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws, cam: str = "gradcam"
) -> Tensor:
    """Take mass away from the most important positions of the map."""
    return attack_map(victim, images, epsilon, steps, step, draws, cam=cam, objective="top")


@_attack()
def cam_attack_centre(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws, cam: str = "gradcam"
) -> Tensor:
    """Move the centre of mass of the map."""
    return attack_map(victim, images, epsilon, steps, step, draws, cam=cam, objective="centre")


@_attack()
def cam_attack_region(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws, cam: str = "gradcam"
) -> Tensor:
    """Move the map into the quarter of the image where it has the least mass."""
    return attack_map(victim, images, epsilon, steps, step, draws, cam=cam, objective="region")
