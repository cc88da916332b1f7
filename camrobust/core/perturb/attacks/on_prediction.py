"""Attacks on the prediction: pixels moved along the model's own gradient, within a ball around the clean image.

The class that is attacked is the one that the model predicts on the clean image, since that is what a perturbed
prediction is compared with. What comes out is an image of 256 levels, as a file would hold it, and lies in the ball
exactly. Whoever wants other norms, classes or steps calls `ascend`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from camrobust.core.draws import Draws
from camrobust.core.explain.evidence import predicted
from camrobust.core.explain.network import Network
from camrobust.core.perturb.registry import Check, each, perturbation, whole, within
from camrobust.core.precision import repeatable

LEVELS = 255.0
LEAST_LIKELY = -1
INFINITY = float("inf")
HALVINGS = 24
FILL = 4.0
"""How far a rounded ℓ2 step may be stretched to use its ball up."""
Direction = Callable[[Tensor], Tensor]
"""Levels (B, 3, H, W) to the direction in which they are moved."""


class Victim(Protocol):
    """A classifier with its normalisation; `models.Model` is one."""

    @property
    def network(self) -> Network:
        """The module and its target layer."""

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to the module's input, differentiable."""


@dataclass(frozen=True)
class Ball:
    """All images within a distance of clean ones, in levels: 0 to 255.

    Attributes:
        clean: (B, 3, H, W) float32, whole numbers.
        radius: (B, 1, 1, 1) float32, in levels.
        norm: 2 or infinity, over all pixels and channels.
    """

    clean: Tensor
    radius: Tensor
    norm: float = INFINITY

    def step(self, at: Tensor, direction: Tensor, size: Tensor) -> Tensor:
        """The point of the ball nearest to where a step of steepest ascent of that size (B, 1, 1, 1) leads."""
        length = direction.sign() if self.norm == INFINITY else direction / _length(direction)
        moved = at + size * length - self.clean
        if self.norm == INFINITY:
            moved = moved.clamp(-self.radius, self.radius)
        else:
            moved = moved * (self.radius / _length(moved)).clamp(max=1)
        return (self.clean + moved).clamp(0, LEVELS)

    def on_grid(self, at: Tensor) -> Tensor:
        """Whole levels near `at` that lie in the ball."""
        moved = at - self.clean
        if self.norm == INFINITY:
            return self.clean + moved.round().clamp(-self.radius.floor(), self.radius.floor())
        # The largest multiple of the step whose rounded form still lies in the ball.
        low, high = torch.zeros_like(self.radius), torch.full_like(self.radius, FILL)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = _length(self._rounded(moved * middle)) <= self.radius
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return self.clean + self._rounded(moved * low)

    def _rounded(self, moved: Tensor) -> Tensor:
        return (self.clean + moved.round()).clamp(0, LEVELS) - self.clean

    def start(self, draws: Draws) -> Tensor:
        """Uniform in the cube of that radius; in an ℓ2 ball a uniform direction at a uniform distance."""
        shape = self.clean.shape[1:]
        if self.norm == INFINITY:
            moved = (2 * draws.uniform(shape) - 1) * self.radius
        else:
            share, normal = draws.uniform((1, 1, 1)), draws.normal(shape)
            moved = normal / _length(normal) * self.radius * share
        return (self.clean + moved).clamp(0, LEVELS)


def _length(values: Tensor) -> Tensor:
    """ℓ2 norm of each image, (B, 1, 1, 1), never 0."""
    return column(torch.linalg.vector_norm(values.flatten(1).double(), dim=1).clamp(min=1e-30).float())


def ascend(ball: Ball, direction: Direction, steps: Tensor, size: Tensor, draws: Draws | None = None) -> Tensor:
    """Projected gradient ascent.

    Args:
        ball: within which.
        direction: gradient of what is to grow, at some levels.
        steps: (B,) how many each image takes.
        size: (B, 1, 1, 1) of one step, levels.
        draws: of the random start, None to start at the clean image.

    Returns:
        (B, 3, H, W) float32 levels in the ball, not yet on the grid.

    References:
        Madry et al. 2018, arXiv 1706.06083.
    """
    at = ball.clean if draws is None else ball.start(draws)
    for number in range(int(steps.max())):
        moved = ball.step(at, direction(at), size)
        at = torch.where(column(number < steps), moved, at)
    return at


def logits_at(victim: Victim, levels: Tensor) -> Tensor:
    """Logits (B, n) of images given in levels; differentiable where autograd records."""
    return victim.network.logits(victim.normalise(levels / LEVELS))


def cross_entropy_gradient(victim: Victim, classes: Tensor, *, targeted: bool = False) -> Direction:
    """Direction away from some classes, or (targeted) towards them: ± the gradient of the cross-entropy."""

    def direction(levels: Tensor) -> Tensor:
        with torch.enable_grad(), repeatable(levels.device):
            leaf = levels.detach().requires_grad_()
            loss = cross_entropy(logits_at(victim, leaf), classes, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
        return -gradient if targeted else gradient

    return direction


def ball_around(images: Tensor, radius: Tensor, norm: float = INFINITY) -> Ball:
    """The ball around images (B, 3, H, W) in [0, 1] with radii (B,) in levels."""
    return Ball((images * LEVELS).round(), column(radius), norm)


def column(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]


def clean_logits(victim: Victim, ball: Ball) -> Tensor:
    """Logits (B, n) of the clean images, without a gradient."""
    with torch.no_grad():
        return logits_at(victim, ball.clean)


def _reached(ball: Ball, direction: Direction, steps: Tensor, step: Tensor, draws: Draws | None) -> Tensor:
    """Images in [0, 1] at 256 levels after an ascent by steps of (B,) levels."""
    return ball.on_grid(ascend(ball, direction, steps, column(step), draws)) / LEVELS


def _from_prediction(victim: Victim, ball: Ball, steps: Tensor, step: Tensor, draws: Draws | None = None) -> Tensor:
    """Away from the class that is predicted on the clean image."""
    away = cross_entropy_gradient(victim, predicted(clean_logits(victim, ball)))
    return _reached(ball, away, steps, step, draws)


def epsilon_in(where: str) -> Check:
    """A check of an ℓ∞ radius: whole levels, since images have no others."""
    return whole(where, "epsilon", 1, 255, "1/255")


def _ten_steps(*radii: float, then: tuple[float, ...] = ()) -> Any:
    """Of each radius: itself, ten steps, each a quarter of it: 2.5 times what would just reach its border."""
    return tuple((radius, 10, radius / 4, *then) for radius in radii)


@perturbation(
    "fgsm",
    parameter="epsilon",
    unit="1/255",
    severities=(1, 2, 4, 8, 16),
    family="adversarial",
    check=epsilon_in("fgsm"),
    source="Goodfellow et al., arXiv 1412.6572",
    needs_model=True,
)
def fgsm(victim: Victim, images: Tensor, epsilon: Tensor) -> Tensor:
    """Fast gradient sign: x + ε·sign ∂CE/∂x at the clean prediction, ℓ∞.

    References:
        Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    return _from_prediction(victim, ball_around(images, epsilon), torch.ones_like(epsilon), epsilon)


@perturbation(
    "pgd",
    parameter=("epsilon", "steps", "step"),
    unit="1/255, count, 1/255",
    severities=_ten_steps(1, 2, 4, 8, 16),
    family="adversarial",
    check=each(epsilon_in("pgd"), whole("pgd", "steps", 1, 1000), within("pgd", "step", 1e-3, 255, "1/255")),
    random=True,
    source="Madry et al., arXiv 1706.06083",
    needs_model=True,
)
def pgd(victim: Victim, images: Tensor, epsilon: Tensor, steps: Tensor, step: Tensor, draws: Draws) -> Tensor:
    """Projected gradient ascent on the cross-entropy of the clean prediction from a random start, ℓ∞."""
    return _from_prediction(victim, ball_around(images, epsilon), steps, step, draws)


@perturbation(
    "pgd_l2",
    parameter=("epsilon", "steps", "step"),
    unit="ℓ2 norm of pixels in [0, 1], count, the same norm",
    severities=_ten_steps(1, 2, 3, 5, 8),
    family="adversarial",
    check=each(
        within("pgd_l2", "epsilon", 1e-2, 1e3), whole("pgd_l2", "steps", 1, 1000), within("pgd_l2", "step", 1e-3, 1e3)
    ),
    random=True,
    source="Madry et al., arXiv 1706.06083",
    needs_model=True,
)
def pgd_l2(victim: Victim, images: Tensor, epsilon: Tensor, steps: Tensor, step: Tensor, draws: Draws) -> Tensor:
    """Projected gradient ascent on the cross-entropy of the clean prediction from a random start, ℓ2."""
    return _from_prediction(victim, ball_around(images, epsilon * LEVELS, 2), steps, step * LEVELS, draws)


@perturbation(
    "pgd_targeted",
    parameter=("epsilon", "steps", "step", "target"),
    unit="1/255, count, 1/255, class (-1: the least likely)",
    severities=_ten_steps(1, 2, 4, 8, 16, then=(LEAST_LIKELY,)),
    family="adversarial",
    check=each(
        epsilon_in("pgd_targeted"),
        whole("pgd_targeted", "steps", 1, 1000),
        within("pgd_targeted", "step", 1e-3, 255, "1/255"),
        whole("pgd_targeted", "target", LEAST_LIKELY, 10**6),
    ),
    random=True,
    source="Kurakin et al., arXiv 1611.01236",
    needs_model=True,
)
def pgd_targeted(
    victim: Victim, images: Tensor, epsilon: Tensor, steps: Tensor, step: Tensor, target: Tensor, draws: Draws
) -> Tensor:
    """Projected gradient descent on the cross-entropy of a target class from a random start, ℓ∞.

    The target is a class, or the one that is least likely on the clean image.

    Raises:
        ValueError: the model has no such class.
    """
    ball = ball_around(images, epsilon)
    logits = clean_logits(victim, ball)
    if int(target.max()) >= logits.shape[1]:
        raise ValueError(
            f"pgd_targeted: target must be below {logits.shape[1]}, the model's classes, got {int(target.max())}"
        )
    classes = torch.where(target == LEAST_LIKELY, logits.argmin(dim=1), target.long())
    towards = cross_entropy_gradient(victim, classes, targeted=True)
    return _reached(ball, towards, steps, step, draws)
