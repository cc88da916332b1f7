"""The smallest radius at which an attack that keeps the class separates a map from the clean one.

What is climbed, and by what iterates are chosen, is the measure that decides about success. All radii are tried from 1
upwards, so the answer does not depend on how far the search would have gone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.contract.registry import unknown
from camrobust.core.draws import Draws
from camrobust.core.perturb.attacked_cams import check_differentiable
from camrobust.core.perturb.attacks.on_map import LAST, MOMENTUM, OBJECTIVES, Goal, Pace, clean_map, climb
from camrobust.core.perturb.attacks.on_prediction import ATTACKED_TOGETHER_ON_GPU, LEVELS, Victim, ball_around
from camrobust.core.precision import repeatable
from camrobust.core.similarity import SIMILARITIES, Similarity
from camrobust.core.similarity.mass import TOP_SHARE


@dataclass(frozen=True)
class Search:
    """What a search for the smallest radius looks for.

    Attributes:
        cam: a differentiable one.
        similarity: name of a measure that takes positions.
        below: the map differs when its similarity falls below this; for a distance, when it rises above.
        most: largest radius to try, levels.
        steps: of each ascent; the first step is a quarter of the radius.
        objective: one of `on_map.OBJECTIVES` to climb that instead of the measure; None for the measure.
        seed: of the random starts.

    Raises:
        UserError: an unknown or unfit CAM, objective or similarity, or a number out of its range.
    """

    cam: str = "gradcam"
    similarity: str = "topk_iou"
    below: float = 0.5
    most: int = 16
    steps: int = 20
    objective: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        measure = SIMILARITIES[self.similarity]
        if measure.takes != "positions":
            fit = ", ".join(other.name for other in SIMILARITIES if other.takes == "positions")
            raise UserError(
                f"minimal_eps: similarity must compare positions, got '{self.similarity}'; choose one of {fit}"
            )
        if not measure.low < self.below < measure.high:
            raise UserError(
                f"minimal_eps: below must lie between {measure.low:g} and {measure.high:g}, the bounds of "
                f"{measure.name}, got {self.below:g}; at a bound every map or none would differ"
            )
        if not 1 <= self.most <= LEVELS or self.steps < 1 or self.most % 1 or self.steps % 1:
            raise UserError(
                f"minimal_eps: most must be 1 to 255 and steps at least 1, both whole, got {self.most} and "
                f"{self.steps}; radii are whole levels"
            )
        check_differentiable("minimal_eps", self.cam)
        if self.objective is not None and self.objective not in OBJECTIVES:
            raise unknown("objective of minimal_eps", self.objective, OBJECTIVES)

    @property
    def measure(self) -> Similarity:
        """The measure of the maps' similarity."""
        return SIMILARITIES[self.similarity]

    @property
    def enough(self) -> float:
        """What `goal` must exceed for a success."""
        return -self.below if self.measure.same == self.measure.high else self.below

    def goals(self, clean: Tensor) -> list[Goal]:
        """What is climbed, one after the other; iterates are chosen by the dissimilarity from the clean maps (B, h, w).

        The dissimilarity is minus a similarity, or a distance.
        """
        sign = -1 if self.measure.same == self.measure.high else 1

        def reached(maps: Tensor) -> Tensor:
            return sign * self.measure(clean.flatten(1), maps.flatten(1)).double()

        if self.objective is not None:
            objective = OBJECTIVES[self.objective]
            return [Goal(lambda maps: objective(maps, clean), reached)]

        def goal(form: Form) -> Goal:
            return Goal(lambda maps: form(maps.flatten(1), clean.flatten(1)), reached)

        return [goal(form) for form in FORMS.get(self.similarity, (uncorrelated, top_left))]


def minimal_eps(victim: Victim, images: Tensor, image_ids: Sequence[str], search: Search) -> list[int | None]:
    """The smallest ε/255 at which an attack was found that separates the map from the clean map of the same class.

    Radii are tried from 1 upwards: from the furthest iterate of the radius before, and where that fails from a random
    start along another form of the measure. The result for an image does not depend on the other images, and on `most`
    only in that no larger radius is tried.

    Args:
        victim: the model.
        images: (B, 3, H, W) in [0, 1], at 256 levels.
        image_ids: B names; the random starts depend on them.
        search: what to look for.

    Returns:
        For each image the radius in levels, None where no attack up to `most` was found.
    """
    # One by one, an image for which a radius was found costs nothing more.
    together = ATTACKED_TOGETHER_ON_GPU if images.is_cuda else 1
    radii: list[int | None] = []
    with repeatable(images.device):
        for start in range(0, len(images), together):
            some = slice(start, start + together)
            radii += _radii(victim, images[some], image_ids[some], search)
    return radii


def _radii(victim: Victim, images: Tensor, image_ids: Sequence[str], search: Search) -> list[int | None]:
    """The radii of the images of one pass."""
    device = images.device
    full = partial(torch.full, (len(images),), device=device)
    around = ball_around(images, full(1.0))
    clean = clean_map(victim, around, search.cam)
    goals, at = search.goals(clean.maps), around.clean
    far = full(-torch.inf, dtype=torch.float64)
    found: list[int | None] = [None] * len(images)
    for radius in range(1, int(search.most) + 1):
        ball = ball_around(images, full(float(radius)))
        pace = Pace(full(float(search.steps)), full(radius / 4), MOMENTUM, LAST)
        strength = f"epsilon={radius}"
        draws = Draws.join(
            [Draws.of(search.seed, "minimal_eps", [name], search.cam, strength, 0, device) for name in image_ids]
        )
        for goal in goals:
            begin = at if radius > 1 and goal is goals[0] else ball.start(draws)
            best, reached = climb(victim, ball, begin, pace, search.cam, goal, clean, far, search.enough)
            better = reached > far
            at, far = torch.where(better[:, None, None, None], best, at), torch.where(better, reached, far)
            if bool((far > search.enough).all()):
                break
        done = (far > search.enough).tolist()
        found = [radius if one is None and now else one for one, now in zip(found, done, strict=True)]
        if all(done):
            break
    return found


def _deviations(maps: Tensor) -> Tensor:
    centred = maps - maps.mean(dim=1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return centred / length.clamp(min=1e-30)


def uncorrelated(moved: Tensor, clean: Tensor) -> Tensor:
    """Minus the correlation of two maps, (B, n) twice to (B,)."""
    return -(_deviations(moved) * _deviations(clean)).sum(dim=1)


def apart(moved: Tensor, clean: Tensor) -> Tensor:
    """Minus the cosine of two maps, (B, n) twice to (B,)."""
    alike: Tensor = torch.cosine_similarity(moved, clean, dim=1)
    return -alike


def mass_moved(moved: Tensor, clean: Tensor) -> Tensor:
    """Half the summed difference of two maps minus their minima, each of sum 1, (B, n) twice to (B,)."""
    shares = [maps - maps.amin(dim=1, keepdim=True) for maps in (moved, clean)]
    first, second = (share / share.sum(dim=1, keepdim=True).clamp(min=1e-30) for share in shares)
    return (first - second).abs().sum(dim=1) / 2


def top_left(moved: Tensor, clean: Tensor) -> Tensor:
    """Minus the share of mass left in the clean map's top, (B, n) twice to (B,), of maps that are nowhere negative.

    The top is that of `topk_iou`, ⌈0.2·n⌉ positions. Forms with soft membership in the moved map's own top are nearer
    to the measure, but ascents along them end in poorer maxima.
    """
    places = clean.topk(math.ceil(TOP_SHARE * clean.shape[1]), dim=1).indices
    return -moved.gather(1, places).sum(dim=1) / moved.sum(dim=1).clamp(min=1e-30)


Form = Callable[[Tensor, Tensor], Tensor]
"""(moved, clean), maps (B, n), to a differentiable dissimilarity (B,)."""
FORMS: dict[str, tuple[Form, Form]] = {
    "topk_iou": (top_left, uncorrelated),
    "cosine": (apart, top_left),
    "l1": (mass_moved, top_left),
    "js": (mass_moved, top_left),
}
"""What is climbed for each measure, in this order; `uncorrelated`, then `top_left` for all other measures."""
