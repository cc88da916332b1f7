"""How often certificates hold where the truth is known, for the image itself and for images at the certified radii.

A simulated map changes with the noise t along one direction only: where t falls between two thresholds, the items have
one fixed list of scores. So the probability of each list is a difference of Φ, at the image and at every distance from
it along that direction. A half-space is the function for which the smoothing bound is exact, so these simulations try
the bound where it is tight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camrobust.bench.certificates.contradictions import contradicted
from camrobust.core.certify.bounds import item_bounds
from camrobust.core.certify.certificate import map_certificate
from camrobust.core.certify.items import ItemSums, item_sums

SHARES = (0.0, 0.1, 0.5, 1.0)
"""Radii, shares of σ."""
ITEMS, SAMPLES, ALPHA, TOP = 12, 200, 0.05, 0.25
CHUNK = 2000
"""Simulations at once."""


@dataclass(frozen=True)
class Steps:
    """Lists of scores and the noise at which one follows the other.

    Attributes:
        scores: (R, m), the lists.
        cuts: (R-1,) ascending, in units of σ.
        ordered: all scores are known and without ties, so the true order is known, too.
    """

    scores: Tensor
    cuts: Tensor
    ordered: bool = True

    def chances(self, distance: float) -> Tensor:
        """The probability of each list at this distance from the image, in units of σ: (R,) float64."""
        below = torch.special.ndtr(self.cuts - distance)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        chances: Tensor = torch.cat([ends[:1], below, ends[1:]]).diff()
        return chances


def _rows(m: int, count: int, generator: torch.Generator) -> Tensor:
    """Lists that turn slowly from one order into another, (count, m)."""
    ends, turn = torch.randn(2, m, generator=generator), torch.linspace(0, 1, count)[:, None]
    return torch.lerp(ends[0], ends[1], turn) + 0.3 * torch.randn(count, m, generator=generator)


def _drifting(m: int, generator: torch.Generator) -> Steps:
    scores = _rows(m, 40, generator)
    return Steps(scores, torch.special.ndtri(torch.arange(1, 40, dtype=torch.float64) / 40))


def _rare(m: int, generator: torch.Generator) -> Steps:
    """One list, and the reverse of it in about two samples of all: the variance is often estimated as 0."""
    scores = torch.randn(m, generator=generator).sort(descending=True).values
    return Steps(torch.stack([scores, -scores]), torch.special.ndtri(torch.tensor([1 - 2 / SAMPLES]).double()))


def _halves(m: int, generator: torch.Generator) -> Steps:
    scores = torch.randn(m, generator=generator)
    return Steps(torch.stack([scores, scores.roll(1)]), torch.tensor([0.25], dtype=torch.float64))


def _tied(m: int, generator: torch.Generator) -> Steps:
    steps = _drifting(m, generator)
    return replace(steps, scores=steps.scores.round(), ordered=False)


def _flat(m: int, generator: torch.Generator) -> Steps:
    steps = _drifting(m, generator)
    scores = steps.scores.clone()
    scores[::5], scores[3] = 0.0, torch.nan
    return replace(steps, scores=scores, ordered=False)


MAPS: dict[str, Callable[[int, torch.Generator], Steps]] = {
    "drifting": _drifting, "halves": _halves, "rare": _rare, "tied": _tied, "flat": _flat,
}  # fmt: skip


def sums_of(steps: Steps, kind: str, counts: Tensor) -> ItemSums:
    """The sums of samples of which so many have each list, (S, R) to (S, m)."""
    each = item_sums(steps.scores[None], kind, top=TOP)

    def total(values: Tensor) -> Tensor:
        # Whole numbers far below 2^53, so the product is exact.
        return (counts.double() @ values.double()).long()

    return ItemSums(
        kind, int(counts[0].sum()), each.sizes[:1].expand(len(counts)), total(each.lower), total(each.upper),
        total(each.lower_squares), total(each.upper_squares), total(each.flat[:, None])[:, 0],
    )  # fmt: skip


def _truth(steps: Steps, kind: str, distance: float) -> tuple[Tensor, Tensor]:
    """The smoothed scores at a distance, with what is unknown counted as 0 and as 1: (m,) each."""
    each = item_sums(steps.scores[None], kind, top=TOP)
    lower, upper = (steps.chances(distance) @ (side.double() / each.scale) for side in (each.lower, each.upper))
    return lower, upper


def _held(steps: Steps, kind: str, bound: str, counts: Tensor) -> dict[str, Tensor]:
    """What held in each simulation, (S,) bool by column."""
    sums = sums_of(steps, kind, counts)
    certified = map_certificate(sums, torch.tensor(SHARES).double(), ALPHA, TOP, bound=bound)
    bounds = order = unshifted = torch.ones(len(counts), dtype=torch.bool)
    at_image = item_bounds(sums, ALPHA, bound)
    for place, share in enumerate(SHARES):
        for distance in {share, -share}:
            lower, upper = _truth(steps, kind, distance)
            L, U = certified.lower[:, place], certified.upper[:, place]
            bounds = bounds & ((lower >= L) & (upper <= U)).all(dim=-1)
            unshifted = unshifted & ((lower >= at_image[0]) & (upper <= at_image[1])).all(dim=-1)
            if steps.ordered and kind == "rank":
                true_order = lower.argsort(descending=True).expand(certified.order.shape)
                order = order & ~torch.stack([*contradicted(certified, place, true_order, TOP).values()]).any(dim=0)
    return {"bounds_hold": bounds, "order_holds": order, "without_the_shift": unshifted}


def covered(simulations: int, seed: int = 0) -> list[dict[str, Any]]:
    """Simulate images with known smoothed scores, and count those for which everything certified holds.

    Returns:
        One row per bound and kind of map: the share of simulations in which all bounds hold together, at the image and
        at all radii `SHARES` in both directions; the share in which all certified overlaps, rank-biased overlaps and
        memberships hold; for comparison, the share in which the bounds at the image would hold at all radii, which is
        wrong to claim.
    """
    cases = [("rank", "empirical_bernstein"), ("rank", "hoeffding"), ("top", "clopper_pearson")]
    rows = []
    for kind, bound in cases:
        for name, make in MAPS.items():
            steps = make(ITEMS, torch.Generator().manual_seed(seed))
            draws = np.random.default_rng(seed)
            counts = torch.from_numpy(draws.multinomial(SAMPLES, steps.chances(0).numpy(), simulations))
            rule = bound if kind == "rank" else "hoeffding"
            parts = [_held(steps, kind, rule, part) for part in counts.split(CHUNK)]
            held: dict[str, float | None] = {
                column: torch.cat([part[column] for part in parts]).double().mean().item() for column in parts[0]
            }
            if not steps.ordered or kind == "top":
                held["order_holds"] = None
            rows.append({"bound": bound, "map": name, "simulations": simulations, "promised": 1 - ALPHA} | held)
    return rows
