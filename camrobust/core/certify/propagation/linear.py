"""Bounds on every layer of a chain, and on any linear function of its output, for all images within a ball."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.certify.propagation.steps import Bounds, Step

NORMS = ("linf", "l2")
METHODS = ("interval", "linear")
CHUNK_BYTES = 64 * 2**20
"""Largest size of the coefficients of one layer that are propagated at once."""


@dataclass(frozen=True)
class Ball:
    """The images within a distance of an image, as far as they are images.

    Attributes:
        image: (C, H, W) float64 in [0, 1].
        radius: ε, share of the pixel range.
        norm: one of `NORMS`.
    """

    image: Tensor
    radius: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        """Check the norm and the radius."""
        if self.norm not in NORMS:
            raise UserError(f"certified_top: norm must be one of {', '.join(NORMS)}, got '{self.norm}'")
        if not 0 <= self.radius < float("inf"):
            raise UserError(
                "certified_top: a radius must be finite and not negative (share of the pixel range), "
                f"got {self.radius:g}; try 0.005"
            )

    @property
    def box(self) -> Bounds:
        """The smallest and the largest value of every pixel; no change of length ε moves a pixel by more than ε."""
        return (self.image - self.radius).clamp(min=0), (self.image + self.radius).clamp(max=1)

    def least(self, rows: Tensor) -> Tensor:
        """The least values of linear functions (R, C, H, W) in the ball, (R,); for l2 a lower bound of them."""
        lower, upper = self.box
        flat = rows.flatten(1)
        in_box = flat @ (lower + upper).flatten() / 2 - flat.abs() @ (upper - lower).flatten() / 2
        if self.norm == "linf":
            return in_box
        return torch.maximum(in_box, flat @ self.image.flatten() - self.radius * torch.linalg.vector_norm(flat, dim=1))


def interval_bounds(steps: Sequence[Step], ball: Ball) -> list[Bounds]:
    """Bounds of the input of every step and of the last output, from those of the layer before alone."""
    found = [ball.box]
    for step in steps:
        found.append(step.interval(found[-1]))
    return found


def least(steps: Sequence[Step], inputs: Sequence[Bounds], ball: Ball, rows: Tensor) -> Tensor:
    """Lower bounds of linear functions of a chain's output, by substituting one layer after the other.

    Args:
        steps: the chain.
        inputs: bounds of the input of each step.
        ball: the images.
        rows: (R, …), the coefficients of R functions of the output.

    Returns:
        (R,) float64.
    """
    widest = max((low.numel() for low, _ in inputs[: len(steps)]), default=1)
    found = []
    for part in rows.split(max(1, CHUNK_BYTES // (8 * widest))):
        at, constant = part, torch.zeros(len(part), dtype=part.dtype)
        for step, bounds in zip(reversed(steps), reversed(inputs[: len(steps)]), strict=True):
            at, more = step.below(at, bounds)
            constant = constant + more
        found.append(ball.least(at) + constant)
    return torch.cat(found)


def linear_bounds(steps: Sequence[Step], ball: Ball) -> list[Bounds]:
    """Bounds of the input of every step and of the last output by linear bounds, nowhere wider than intervals.

    Only what a ReLU or a maximum needs is computed: its inputs, without the numbers whose sign is certain at a ReLU.
    """
    found = [ball.box]
    for number, step in enumerate(steps):
        found.append(step.interval(found[-1]))
        if number + 1 == len(steps) or not steps[number + 1].relaxed or step.relaxed:
            continue
        lower, upper = found[-1]
        uncertain = (lower < 0) & (upper > 0) if steps[number + 1].by_sign else lower < upper
        places = uncertain.flatten().nonzero()[:, 0]
        if len(places):
            found[-1] = _tightened(steps[: number + 1], found, ball, places)
    return found


def _tightened(steps: Sequence[Step], found: Sequence[Bounds], ball: Ball, places: Tensor) -> Bounds:
    """The bounds of the last output, with those at some places from linear bounds if they are narrower."""
    lower, upper = (bound.flatten().clone() for bound in found[-1])
    shape, size = found[-1][0].shape, lower.numel()
    for part in places.split(max(1, CHUNK_BYTES // (8 * size))):
        rows = torch.zeros(len(part), size, dtype=lower.dtype)
        rows[torch.arange(len(part)), part] = 1
        rows = rows.reshape(len(part), *shape)
        lower[part] = torch.maximum(lower[part], least(steps, found, ball, rows))
        upper[part] = torch.minimum(upper[part], -least(steps, found, ball, -rows))
    return lower.reshape(shape), upper.reshape(shape)


def bounds_of(steps: Sequence[Step], ball: Ball, method: str = "linear") -> list[Bounds]:
    """Bounds of the input of every step and of the last output.

    Raises:
        UserError: method is none of `METHODS`.
    """
    if method not in METHODS:
        raise UserError(f"certified_top: method must be one of {', '.join(METHODS)}, got '{method}'")
    return interval_bounds(steps, ball) if method == "interval" else linear_bounds(steps, ball)
