"""Attacks on the explanation: the predicted class stays, the map moves (Ghorbani et al. 2019).

Projected ascent within an ℓ∞ ball by double backward: once for the gradients that the CAM is made of, once more for
the pixels. A Grad-CAM moves with the activations as well as with their gradients, so it has a derivative where a ReLU
network's second one is zero, and no softplus needs to stand in for its ReLUs. Every iterate lies on the grid of 256
levels; among those that keep the class the one that moved the map furthest counts.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import Choose, collect, predicted
from camrobust.core.perturb.attacks.on_prediction import LEVELS, Ball, Victim, ball_around, column, epsilon_in
from camrobust.core.perturb.registry import each, perturbation, whole, within
from camrobust.core.precision import repeatable
from camrobust.core.similarity import SIMILARITIES

DIFFERENTIABLE = ("cam", "gradcam", "gradcam++", "gradcam-elementwise", "hirescam", "layercam", "xgradcam")
"""CAMs that are smooth functions of activations and their gradients; the others rank, cluster, decompose or re-run."""
TOP = 0.1
"""Share of a map's positions that are its most important ones."""
Objective = Callable[[Tensor, Tensor], Tensor]
"""(map, clean map), both (B, h, w) and each of sum 1, to how far it moved, (B,), to be made large."""


def _top(clean: Tensor) -> Tensor:
    """(B, h·w) bool: the most important positions of each clean map."""
    flat = clean.flatten(1)
    count = max(1, round(TOP * flat.shape[1]))
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, flat.topk(count, dim=1).indices, value=True)


def top_mass(moved: Tensor, clean: Tensor) -> Tensor:
    """Minus the mass that is left where the clean map had its most important positions."""
    return -(moved.flatten(1) * _top(clean)).sum(dim=1)


def mass_centre(moved: Tensor, clean: Tensor) -> Tensor:
    """Squared distance of the map's centre of mass from the clean one's, in cells."""
    return ((_centre(moved) - _centre(clean)) ** 2).sum(dim=1)


def _centre(maps: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    down = torch.arange(height, dtype=maps.dtype, device=maps.device)
    across = torch.arange(width, dtype=maps.dtype, device=maps.device)
    return torch.stack([(maps.sum(dim=2) * down).sum(dim=1), (maps.sum(dim=1) * across).sum(dim=1)], dim=1)


def target_region(moved: Tensor, clean: Tensor) -> Tensor:
    """Mass in the quarter of the image that had least of it."""
    height, width = (side // 2 for side in clean.shape[1:])
    quarters = [(rows, columns) for rows in (slice(height), slice(height, None))
                for columns in (slice(width), slice(width, None))]  # fmt: skip
    before, after = (torch.stack([one[:, r, c].sum(dim=(1, 2)) for r, c in quarters], dim=1) for one in (clean, moved))
    return after.gather(1, before.argmin(dim=1, keepdim=True))[:, 0]


OBJECTIVES: dict[str, Objective] = {"top": top_mass, "centre": mass_centre, "region": target_region}
"""Ghorbani et al. 2019, section 3: top-k, mass-centre and targeted attack."""


def attack_map(
    victim: Victim, images: Tensor, epsilon: Tensor, steps: Tensor, step: Tensor, draws: Draws, *,
    cam: str = "gradcam", objective: str = "top",
) -> Tensor:  # fmt: skip
    """Images within ℓ∞ balls that keep their class and move their map as far as projected ascent gets it.

    Args:
        victim: the model.
        images: (B, 3, H, W) in [0, 1], at 256 levels.
        epsilon: (B,) radii, levels.
        steps: (B,) of the ascent.
        step: (B,) size of one, levels.
        draws: of the random start.
        cam: of `DIFFERENTIABLE`.
        objective: of `OBJECTIVES`.

    Returns:
        (B, 3, H, W) in [0, 1], at 256 levels; the image itself where no iterate kept the class and moved the map.

    Raises:
        UserError: a CAM without a derivative, or no such objective.

    References:
        Ghorbani, Abid, Zou 2019, arXiv 1710.10547.
    """
    _check_climb(cam, objective)
    with repeatable(images.device):
        return _climbed(victim, ball_around(images, epsilon), steps, step, draws, cam, OBJECTIVES[objective])


def _check_climb(cam: str, objective: str) -> None:
    if cam not in DIFFERENTIABLE:
        raise UserError(f"cam_attack: '{cam}' has no derivative to climb; choose one of {', '.join(DIFFERENTIABLE)}")
    if objective not in OBJECTIVES:
        raise UserError(f"cam_attack: objective must be one of {', '.join(OBJECTIVES)}, got '{objective}'")


def _climbed(
    victim: Victim, ball: Ball, steps: Tensor, step: Tensor, draws: Draws, cam: str, moved_by: Objective
) -> Tensor:
    """Images in [0, 1] at 256 levels: of every ascent the iterate that keeps the class and moved its map furthest."""
    clean, logits = _map(victim, ball.clean, predicted, cam)
    classes = predicted(logits)
    best, far = ball.clean, moved_by(clean, clean)
    at, last = ball.start(draws), int(steps.max())
    for number in range(last + 1):
        point = ball.on_grid(at).requires_grad_()
        maps, logits = _map(victim, point, lambda _: classes, cam)
        distance, kept = moved_by(maps, clean), predicted(logits) == classes
        better = kept & (distance > far) & (number <= steps)
        far = torch.where(better, distance.detach(), far)
        best = torch.where(column(better), point.detach(), best)
        if number < last:
            # Where the class was lost, the way back to it.
            climb = torch.where(kept, distance, _margin(logits, classes))
            (gradient,) = torch.autograd.grad(climb.sum(), point)
            at = ball.step(at, gradient, column(step))
    return best / LEVELS


def minimal_eps(
    victim: Victim, images: Tensor, image_ids: Sequence[str], *, below: float = 0.5, most: int = 16, steps: int = 20,
    cam: str = "gradcam", objective: str = "top", similarity: str = "topk_iou", seed: int = 0,
) -> list[int | None]:  # fmt: skip
    """The smallest ε/255 at which an attack makes two maps of the same class unlike, by bisection.

    Bisection takes for granted that what succeeds at one radius succeeds at a larger one, which is true of the best
    attack and nearly always of this one.

    Args:
        victim: the model.
        images: (B, 3, H, W) in [0, 1], at 256 levels.
        image_ids: B names, of the random starts.
        below: how alike the maps must be no longer; of a measure of distance, how far apart they must be.
        most: largest radius to try, levels.
        steps: of each ascent, each of a quarter of its radius.
        cam: of `DIFFERENTIABLE`.
        objective: of `OBJECTIVES`.
        similarity: a measure that takes positions, from `camrobust list similarities`.
        seed: of the random starts.

    Returns:
        For each image the radius in levels, None where none up to `most` will do.

    Raises:
        UserError: an unknown or unfit CAM, objective or similarity, or a radius or count that is not positive.
    """
    measure = SIMILARITIES[similarity]
    if measure.takes != "positions":
        fit = ", ".join(one.name for one in SIMILARITIES if one.takes == "positions")
        raise UserError(f"minimal_eps: similarity must compare positions, got '{similarity}'; choose one of {fit}")
    if not 1 <= most <= LEVELS or steps < 1 or most != int(most) or steps != int(steps):
        raise UserError(f"minimal_eps: most must be 1 to 255 and steps at least 1, both whole, got {most} and {steps}")
    _check_climb(cam, objective)
    clean, logits = _map(victim, (images * LEVELS).round(), predicted, cam)
    classes, count = predicted(logits), torch.full((len(images),), float(steps), device=images.device)

    def succeeds(radius: Tensor) -> Tensor:
        streams = [Draws.of(seed, "minimal_eps", [name], cam, f"epsilon={int(one)}", 0, images.device)
                   for name, one in zip(image_ids, radius, strict=True)]  # fmt: skip
        made = attack_map(victim, images, radius, count, radius / 4, Draws.join(streams), cam=cam, objective=objective)
        moved, _ = _map(victim, made * LEVELS, lambda _: classes, cam)
        found = measure(clean.flatten(1), moved.flatten(1))
        return found < below if measure.same == 1 else found > below

    fails, works = torch.zeros_like(count), torch.full_like(count, most + 1)
    while bool((works - fails > 1).any()):
        middle = ((fails + works) / 2).floor().clamp(min=1, max=most)
        good = succeeds(middle)
        works, fails = torch.where(good, middle, works), torch.where(good, fails, torch.maximum(fails, middle))
    return [int(one) if one <= most else None for one in works.tolist()]


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    """By how much a class's logit exceeds the best of the others, (B,)."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, classes[:, None], value=True)
    return logits[own] - logits.masked_fill(own, -torch.inf).amax(dim=1)


def _map(victim: Victim, levels: Tensor, choose: Choose, cam: str) -> tuple[Tensor, Tensor]:
    """A CAM (B, h, w) of sum 1 and the logits (B, n), with the graph back to the pixels where these record one."""
    recorded = levels.requires_grad
    with torch.set_grad_enabled(recorded), sdpa_kernel(SDPBackend.MATH):  # the fused one has no second derivative
        evidence = collect(victim.network, victim.normalise(levels / LEVELS), choose, graph=recorded)
        maps = CAMS[cam].function(evidence)
        return maps / maps.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12), evidence.logits


def _registered(name: str, objective: str) -> None:
    perturbation(
        name,
        parameter=("epsilon", "steps", "step"),
        unit="1/255, count, 1/255",
        severities=((1, 20, 0.5), (2, 20, 0.5), (4, 20, 1), (8, 20, 2), (16, 20, 4)),
        family="adversarial",
        check=each(epsilon_in(name), whole(name, "steps", 1, 1000), within(name, "step", 1e-3, 255, "1/255")),
        random=True,
        source="Ghorbani et al., arXiv 1710.10547",
        needs_model=True,
    )(partial(attack_map, objective=objective))


_registered("cam_attack", "top")
_registered("cam_attack_centre", "centre")
_registered("cam_attack_region", "region")
