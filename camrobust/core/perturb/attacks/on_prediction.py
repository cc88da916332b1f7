"""Attacks on the prediction: pixels move along the model's own gradient, within a ball around the clean image.

The attacked class is the one predicted on the clean image, since a perturbed prediction is compared with that one. The
result has the levels of its image, 256 or 65,536, as in a file, and lies exactly in the ball. For other norms, classes
or steps call `ascend`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Annotated, Protocol

import torch
from torch import Tensor

from camrobust.contract.defaults import RGB
from camrobust.contract.parameters import Parameter
from camrobust.core.channels import DEEP
from camrobust.core.draws import Draws
from camrobust.core.explain.network import Network
from camrobust.core.perturb.registry import perturbation
from camrobust.core.precision import repeatable

LEVELS = 255.0
ATTACKED_TOGETHER_ON_GPU = 8
"""Images in each pass of an attack on a GPU; elsewhere one."""
LEAST_LIKELY = -1
HALVINGS = 24
FILL = 4.0
"""Factor by which an ℓ2 step is stretched at most before rounding, so that it fills its ball; more in a tiny ball."""
Direction = Callable[[Tensor], Tensor]
"""Levels (B, C, H, W) to the direction in which they move."""

Epsilon = Annotated[Tensor, Parameter(1, 255, "1/255", "largest change of a value", whole=True)]
"""Whole levels of 255, since photos have no others."""
Steps = Annotated[Tensor, Parameter(1, 1000, "count", "steps of the ascent", whole=True)]
Step = Annotated[Tensor, Parameter(1e-3, 255, "1/255", "size of a step")]


class Victim(Protocol):
    """A classifier with its normalisation, such as `measure.model.Model`."""

    @property
    def network(self) -> Network:
        """The module and its target layer."""

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to the module's input, differentiable."""


@dataclass(frozen=True)
class Ball:
    """All images within a distance of clean ones, in levels: 0 to 255.

    Attributes:
        clean: (B, C, H, W) float32, multiples of `grain`.
        radius: (B, 1, 1, 1) float32, in levels.
        norm: 2 or infinity, over all pixels and channels together.
        grain: distance between two values that an image may have, in levels: 1 for photos, 1/257 for images of 65,536
            levels.
    """

    clean: Tensor
    radius: Tensor
    norm: float = inf
    grain: float = 1.0

    def step(self, at: Tensor, direction: Tensor, size: Tensor) -> Tensor:
        """A step of steepest ascent of that size (B, 1, 1, 1), projected back into the ball."""
        length = direction.sign() if self.norm == inf else direction / _length(direction)
        moved = at + size * length - self.clean
        if self.norm == inf:
            moved = moved.clamp(-self.radius, self.radius)
        else:
            moved = moved * (self.radius / _length(moved)).clamp(max=1)
        return (self.clean + moved).clamp(0, LEVELS)

    def on_grid(self, at: Tensor) -> Tensor:
        """The nearest multiples of `grain` that lie in the ball."""
        moved = at - self.clean
        if self.norm == inf:
            return self.clean + self._whole(moved).clamp(-self.radius.floor(), self.radius.floor())
        # Bisect for the largest multiple of the step that still lies in the ball after rounding. In a small ball all
        # values round to nothing at FILL; there the few largest values of the step are left.
        largest = column(moved.flatten(1).abs().amax(dim=1).clamp(min=1e-30))
        empty = _length(self._rounded(moved * FILL)) <= self.radius
        low, high = torch.zeros_like(self.radius), torch.where(empty, (self.radius + 1) / largest, FILL)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            inside = _length(self._rounded(moved * middle)) <= self.radius
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return self.clean + self._rounded(moved * low)

    def _rounded(self, moved: Tensor) -> Tensor:
        return (self.clean + self._whole(moved)).clamp(0, LEVELS) - self.clean

    def _whole(self, moved: Tensor) -> Tensor:
        return (moved / self.grain).round() * self.grain

    def start(self, draws: Draws) -> Tensor:
        """A random point: uniform in an ℓ∞ ball; in an ℓ2 ball, a uniform direction at a uniform distance."""
        shape = self.clean.shape[1:]
        if self.norm == inf:
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
        ball: the images stay within it.
        direction: gradient of the quantity to increase.
        steps: (B,) number of steps for each image.
        size: (B, 1, 1, 1) size of one step, levels.
        draws: random streams of the start; None starts at the clean image.

    Returns:
        (B, C, H, W) float32 levels in the ball, not yet on the grid.

    References:
        Madry et al. 2018, arXiv 1706.06083.
    """
    at = ball.clean if draws is None else ball.start(draws)
    for number in range(int(steps.max())):
        moved = ball.step(at, direction(at), size)
        at = torch.where(column(number < steps), moved, at)
    return at


def logits_at(victim: Victim, levels: Tensor) -> Tensor:
    """Logits (B, n) of images given in levels; differentiable if autograd is on."""
    return victim.network.logits(victim.normalise(levels / LEVELS))


def gradient_of(victim: Victim, loss: Callable[[Tensor], Tensor]) -> Direction:
    """The direction in which a loss, summed over images, grows; it takes logits (B, n)."""

    def direction(levels: Tensor) -> Tensor:
        with torch.enable_grad(), repeatable(levels.device):
            leaf = levels.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(logits_at(victim, leaf)), leaf)
        return gradient

    return direction


def away_from(victim: Victim, clean: Tensor) -> Direction:
    """Direction away from the decision of clean logits (B, n): for a softmax, the gradient of the cross-entropy."""
    readout = victim.network.readout
    explained = readout.predicted(clean)
    return gradient_of(victim, lambda logits: readout.loss(logits, clean, explained))


def ball_around(images: Tensor, radius: Tensor, norm: float = inf) -> Ball:
    """The ball around images (B, C, H, W) in [0, 1] with radii (B,) in levels."""
    return Ball(levels_of(images), column(radius), norm, _grain(images))


def _grain(images: Tensor) -> float:
    return 1.0 if images.shape[1] == RGB else LEVELS / DEEP


def levels_of(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] in levels, rounded to values that they may have."""
    grain = _grain(images)
    return (images * (LEVELS / grain)).round() * grain


def column(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]


def clean_logits(victim: Victim, ball: Ball) -> Tensor:
    """Logits (B, n) of the clean images, without a gradient."""
    with torch.no_grad():
        return logits_at(victim, ball.clean)


def _ascended(ball: Ball, direction: Direction, steps: Tensor, step: Tensor, draws: Draws | None) -> Tensor:
    """Images in [0, 1] at 256 levels, after an ascent with steps of (B,) levels."""
    return ball.on_grid(ascend(ball, direction, steps, column(step), draws)) / LEVELS


def _from_prediction(victim: Victim, ball: Ball, steps: Tensor, step: Tensor, draws: Draws | None = None) -> Tensor:
    """Images after an ascent away from the decision on the clean image."""
    return _ascended(ball, away_from(victim, clean_logits(victim, ball)), steps, step, draws)


def _ten_steps(radius: float) -> tuple[float, float, float]:
    """A radius, ten steps, and their size: a quarter of the radius, so 2.5 times what is needed to reach the border."""
    return radius, 10, radius / 4


LINF_SEVERITIES = (_ten_steps(1), _ten_steps(2), _ten_steps(4), _ten_steps(8), _ten_steps(16))
L2_SEVERITIES = (_ten_steps(1), _ten_steps(2), _ten_steps(3), _ten_steps(5), _ten_steps(8))
_attack = partial(perturbation, family="adversarial", channels=None)


@_attack(severities=(1, 2, 4, 8, 16), source="Goodfellow et al., arXiv 1412.6572")
def fgsm(victim: Victim, images: Tensor, epsilon: Epsilon) -> Tensor:
    """Fast gradient sign: x + ε·sign ∂CE/∂x at the clean prediction, ℓ∞."""
    return _from_prediction(victim, ball_around(images, epsilon), torch.ones_like(epsilon), epsilon)


@_attack(severities=LINF_SEVERITIES, source="Madry et al., arXiv 1706.06083")
def pgd(victim: Victim, images: Tensor, epsilon: Epsilon, steps: Steps, step: Step, draws: Draws) -> Tensor:
    """Projected gradient ascent on the cross-entropy of the clean prediction from a random start, ℓ∞."""
    return _from_prediction(victim, ball_around(images, epsilon), steps, step, draws)


@_attack(severities=L2_SEVERITIES, source="Madry et al., arXiv 1706.06083")
def pgd_l2(
    victim: Victim,
    images: Tensor,
    epsilon: Annotated[Tensor, Parameter(1e-2, 1e3, "ℓ2 norm of pixels in [0, 1]", "largest change of the image")],
    steps: Steps,
    step: Annotated[Tensor, Parameter(1e-3, 1e3, "the same norm", "size of a step")],
    draws: Draws,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy of the clean prediction from a random start, ℓ2."""
    return _from_prediction(victim, ball_around(images, epsilon * LEVELS, 2), steps, step * LEVELS, draws)


@_attack(
    severities=tuple((*strength, LEAST_LIKELY) for strength in LINF_SEVERITIES),
    source="Kurakin et al., arXiv 1611.01236",
)
def pgd_targeted(
    victim: Victim,
    images: Tensor,
    epsilon: Epsilon,
    steps: Steps,
    step: Step,
    target: Annotated[Tensor, Parameter(LEAST_LIKELY, 10**6, "class (-1: the least likely)", whole=True)],
    draws: Draws,
) -> Tensor:
    """Projected gradient descent on the cross-entropy of a target class from a random start, ℓ∞.

    The target is a given class, or the least likely one on the clean image.

    Raises:
        ValueError: the model has no such class.
    """
    ball = ball_around(images, epsilon)
    logits = clean_logits(victim, ball)
    readout = victim.network.readout
    strange = [number for number in target.int().tolist() if number != LEAST_LIKELY
               and not readout.has(number, logits.shape[1])]  # fmt: skip
    if strange:
        raise ValueError(
            f"pgd_targeted: target must be below {logits.shape[1]} (number of classes), got {strange[0]}; "
            "choose a class of the model"
        )
    classes = torch.where(target == LEAST_LIKELY, logits.argmin(dim=1), readout.positions(target.long()))
    towards = gradient_of(victim, lambda logits: victim.network.readout.towards(logits, classes))
    return _ascended(ball, towards, steps, step, draws)
