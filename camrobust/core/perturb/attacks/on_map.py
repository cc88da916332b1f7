"""Attacks on the explanation: the predicted class stays, the map moves (Ghorbani et al. 2019).

Projected ascent within an ℓ∞ ball by double backward: one pass for the gradients in the CAM, one for the pixels. A
Grad-CAM depends on the activations as well as on their gradients. So it has a derivative even where the second
derivative of a ReLU network is zero, and no softplus has to replace the ReLUs. Every iterate lies on the grid of the
image's levels. Of those that keep the class, the one that moved the map furthest is the result.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camrobust.contract.errors import UserError
from camrobust.contract.registry import unknown
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import Choose, collect
from camrobust.core.perturb.attacks.on_prediction import (
    LEVELS,
    Ball,
    Epsilon,
    Step,
    Steps,
    Victim,
    ball_around,
    column,
    levels_of,
)
from camrobust.core.perturb.registry import perturbation
from camrobust.core.precision import repeatable
from camrobust.core.similarity import SIMILARITIES

DIFFERENTIABLE = ("cam", "gradcam", "gradcam++", "gradcam-elementwise", "hirescam", "layercam", "xgradcam")
"""CAMs that are smooth functions of activations and gradients; others rank, cluster, decompose or run again."""
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
        cam: one of `DIFFERENTIABLE`.
        objective: one of `OBJECTIVES`.

    Returns:
        (B, C, H, W) in [0, 1], at 256 levels; the clean image if no iterate both kept the class and moved the map.

    Raises:
        UserError: a CAM without a derivative, or an unknown objective.

    References:
        Ghorbani, Abid, Zou 2019, arXiv 1710.10547.
    """
    _check_climb(cam, objective)
    with repeatable(images.device):
        return _climbed(victim, ball_around(images, epsilon), steps, step, draws, cam, OBJECTIVES[objective])


def _check_climb(cam: str, objective: str) -> None:
    if cam not in DIFFERENTIABLE:
        raise UserError(
            f"cam_attack: cam must be differentiable, got '{cam}'; choose one of {', '.join(DIFFERENTIABLE)}"
        )
    if objective not in OBJECTIVES:
        raise unknown("objective of cam_attack", objective, OBJECTIVES)


def _climbed(
    victim: Victim, ball: Ball, steps: Tensor, step: Tensor, draws: Draws, cam: str, moved_by: Objective
) -> Tensor:
    """Images in [0, 1] at 256 levels: per image, the iterate that kept the class and moved the map furthest."""
    readout = victim.network.readout
    clean, clean_logits = _map(victim, ball.clean, readout.predicted, cam)
    classes = readout.predicted(clean_logits)
    best, far = ball.clean, moved_by(clean, clean)
    at, last = ball.start(draws), int(steps.max())
    for number in range(last + 1):
        point = ball.on_grid(at).requires_grad_()
        maps, logits = _map(victim, point, lambda _: classes, cam)
        distance, kept = moved_by(maps, clean), readout.kept(logits, clean_logits, classes)
        better = kept & (distance > far) & (number <= steps)
        far = torch.where(better, distance.detach(), far)
        best = torch.where(column(better), point.detach(), best)
        if number < last:
            # If the class is lost, climb back to it.
            climb = torch.where(kept, distance, readout.margin(logits, clean_logits, classes))
            (gradient,) = torch.autograd.grad(climb.sum(), point)
            at = ball.step(at, gradient, column(step))
    return best / LEVELS


def minimal_eps(
    victim: Victim, images: Tensor, image_ids: Sequence[str], *, below: float = 0.5, most: int = 16, steps: int = 20,
    cam: str = "gradcam", objective: str = "top", similarity: str = "topk_iou", seed: int = 0,
) -> list[int | None]:  # fmt: skip
    """The smallest ε/255 at which an attack separates the map from the clean map of the same class, by bisection.

    Bisection assumes that an attack that succeeds at one radius succeeds at every larger one. This holds for the best
    attack, and nearly always for this one.

    Args:
        victim: the model.
        images: (B, C, H, W) in [0, 1], at 256 levels.
        image_ids: B names; the random starts depend on them.
        below: the attack succeeds when the similarity falls below this; for a distance, when it rises above.
        most: largest radius to try, levels.
        steps: of each ascent; each step is a quarter of the radius.
        cam: one of `DIFFERENTIABLE`.
        objective: one of `OBJECTIVES`.
        similarity: a measure that takes positions, from `camrobust list similarities`.
        seed: of the random starts.

    Returns:
        For each image the radius in levels, or None if no radius up to `most` succeeds.

    Raises:
        UserError: an unknown or unfit CAM, objective or similarity, or a radius or count out of bounds.
    """
    measure = SIMILARITIES[similarity]
    if measure.takes != "positions":
        fit = ", ".join(other.name for other in SIMILARITIES if other.takes == "positions")
        raise UserError(f"minimal_eps: similarity must compare positions, got '{similarity}'; choose one of {fit}")
    if not 1 <= most <= LEVELS or steps < 1 or most != int(most) or steps != int(steps):
        raise UserError(f"minimal_eps: most must be 1 to 255 and steps at least 1, both whole, got {most} and {steps}")
    _check_climb(cam, objective)
    predicted = victim.network.readout.predicted
    clean, logits = _map(victim, levels_of(images), predicted, cam)
    classes, count = predicted(logits), torch.full((len(images),), float(steps), device=images.device)

    def succeeds(radius: Tensor) -> Tensor:
        streams = [
            Draws.of(seed, "minimal_eps", [name], cam, f"epsilon={int(level)}", 0, images.device)
            for name, level in zip(image_ids, radius, strict=True)
        ]
        made = attack_map(victim, images, radius, count, radius / 4, Draws.join(streams), cam=cam, objective=objective)
        moved, _ = _map(victim, made * LEVELS, lambda _: classes, cam)
        score = measure(clean.flatten(1), moved.flatten(1))
        return score < below if measure.same == 1 else score > below

    fails, works = torch.zeros_like(count), torch.full_like(count, most + 1)
    while bool((works - fails > 1).any()):
        middle = ((fails + works) / 2).floor().clamp(min=1, max=most)
        good = succeeds(middle)
        works, fails = torch.where(good, middle, works), torch.where(good, fails, torch.maximum(fails, middle))
    return [int(radius) if radius <= most else None for radius in works.tolist()]


def _map(victim: Victim, levels: Tensor, choose: Choose, cam: str) -> tuple[Tensor, Tensor]:
    """A CAM (B, h, w) of sum 1 and the logits (B, n); with a graph to the pixels if `levels` requires gradients."""
    recorded = levels.requires_grad
    # Fused attention has no second derivative.
    with torch.set_grad_enabled(recorded), sdpa_kernel(SDPBackend.MATH):
        evidence = collect(victim.network, victim.normalise(levels / LEVELS), choose, graph=recorded)
        maps = CAMS[cam].function(evidence)
        return maps / maps.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12), evidence.logits


_attack = partial(
    perturbation,
    family="adversarial",
    channels=None,
    severities=((1, 20, 0.5), (2, 20, 0.5), (4, 20, 1), (8, 20, 2), (16, 20, 4)),
    source="Ghorbani et al., arXiv 1710.10547",
)


@_attack()
def cam_attack(victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws) -> Tensor:
    """Take mass away from the most important positions of the Grad-CAM."""
    return attack_map(victim, images, epsilon, steps, step, draws, objective="top")


@_attack()
def cam_attack_centre(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws
) -> Tensor:
    """Move the centre of mass of the Grad-CAM."""
    return attack_map(victim, images, epsilon, steps, step, draws, objective="centre")


@_attack()
def cam_attack_region(
    victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws
) -> Tensor:
    """Move the Grad-CAM into the quarter of the image where it has the least mass."""
    return attack_map(victim, images, epsilon, steps, step, draws, objective="region")
