"""Which positions or segments cannot leave the top k of a map, and within which radius."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.certify.overlap import certified_overlaps, certified_rbo
from camrobust.core.certify.propagation.chain import Chain
from camrobust.core.certify.propagation.linear import Ball, bounds_of, least

ROUNDING = 1e-9
"""Scores count as separate if they are by this share of the largest bound, more than the rounding errors of float64."""


@dataclass(frozen=True)
class MapBounds:
    """Bounds on the scores of a map's items for all images within a ball.

    Attributes:
        ball: the images.
        target: the explained class.
        scores: (m,) float64, of the image itself.
        lower: (m,), of all images.
        upper: (m,).
        margin: a lower bound of the explained class's logit minus the largest other one; above 0, all images are given
            the class.
    """

    ball: Ball
    target: int
    scores: Tensor
    lower: Tensor
    upper: Tensor
    margin: float

    @property
    def order(self) -> Tensor:
        """The items by their scores, highest first, (m,) int64."""
        return self.scores.argsort(descending=True, stable=True)

    @property
    def _room(self) -> Tensor:
        """What rounding may have changed."""
        return ROUNDING * torch.maximum(self.lower.abs().max(), self.upper.abs().max())

    def holds(self, k: int) -> bool:
        """Whether no image in the ball has another item among its top k."""
        least_in, most_out = self.lower[self.order[:k]].min(), self.upper[self.order[k:]].max()
        return bool(least_in > most_out + self._room)

    def rbo(self, p: float = 0.9) -> tuple[float, float]:
        """The least rank-biased overlap with the map of any image in the ball, raw and adjusted; without chance."""
        lower, upper = self.lower[self.order], self.upper[self.order]
        raw, adjusted = certified_rbo(certified_overlaps(lower - self._room, upper), p)
        return raw.item(), adjusted.item()


def check_top(k: int, items: int) -> None:
    """Raise UserError unless 1 ≤ k < items."""
    if not 1 <= k < items:
        raise UserError(f"certified_top: k must be 1 to {items - 1} (items of the map: {items}), got {k}")


def map_bounds(
    chain: Chain, ball: Ball, target: int | None = None, matrix: Tensor | None = None, method: str = "linear"
) -> MapBounds:
    """Bounds on plain CAM, Σ_k w_k·A_k with the weights w of a class, for all images within a ball.

    Args:
        chain: the network.
        ball: the images.
        target: the explained class; None for that of the image itself.
        matrix: (m, h·w), weights that make scores of m segments of a map's positions; None for the positions.
        method: "interval", as CORGI: Σ_k (w_k⁺·l_k + w_k⁻·u_k) with intervals l, u of the activations; or "linear",
            linear bounds of what a ReLU or maximum takes, and of the scores themselves.

    Raises:
        UserError: method is unknown, or target is no class.
    """
    image = ball.image[None]
    n = len(chain.weight)
    target = int(chain.logits(image).argmax()) if target is None else target
    if not 0 <= target < n:
        raise UserError(f"certified_top: target must be 0 to {n - 1}, got {target}")
    inputs = bounds_of(chain.features, ball, method)
    activations = chain.activations(image)[0]
    h, w = activations.shape[1:]
    items = torch.eye(h * w, dtype=torch.float64) if matrix is None else matrix.double()
    rows = torch.einsum("mp,c->mcp", items, chain.weight[target]).unflatten(2, (h, w))
    others = torch.cat([chain.weight[:target], chain.weight[target + 1 :]])
    pooled = (chain.weight[target] - others)[..., None, None].expand(-1, -1, h, w) / (h * w)
    apart = chain.bias[target] - torch.cat([chain.bias[:target], chain.bias[target + 1 :]])

    def low(coefficients: Tensor) -> Tensor:
        below, above = inputs[-1]
        found = (coefficients.clamp(min=0) * below + coefficients.clamp(max=0) * above).flatten(1).sum(dim=1)
        if method == "interval":
            return found
        return torch.maximum(found, least(chain.features, inputs, ball, coefficients))

    return MapBounds(
        ball=ball, target=target, scores=(rows * activations).flatten(1).sum(dim=1), lower=low(rows), upper=-low(-rows),
        margin=(low(pooled) + apart).min().item(),
    )  # fmt: skip


def certified_radius(
    chain: Chain, image: Tensor, k: int, norm: str = "linf", method: str = "linear", target: int | None = None,
    matrix: Tensor | None = None, most: float = 0.005, steps: int = 15,
) -> MapBounds | None:  # fmt: skip
    """The bounds for the largest radius at which the top k is certified, found by halving.

    Args:
        chain: the network.
        image: (C, H, W) in [0, 1].
        k: number of items in the top.
        norm: of the ball.
        method: as for `map_bounds`.
        target: the explained class; None for that of the image.
        matrix: as for `map_bounds`.
        most: the largest radius to try.
        steps: number of halvings.

    Returns:
        The bounds for that radius; None if no radius that was tried is certified.

    Raises:
        UserError: an argument is out of range.
    """
    if type(steps) is not int or steps < 0:
        raise UserError(f"certified_top: steps must be a whole number from 0 (halvings of the radius), got {steps}")
    best = None
    low, high = 0.0, most
    tried = most
    for _ in range(steps + 1):
        found = map_bounds(chain, Ball(image.double(), tried, norm), target, matrix, method)
        check_top(k, len(found.scores))
        if found.holds(k):
            best, low = found, tried
            if tried == most:
                break
        else:
            high = tried
        tried = (low + high) / 2
    return best
