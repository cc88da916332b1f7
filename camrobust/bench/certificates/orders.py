"""Certified overlap, rank-biased overlap and membership against every order that the bounds allow."""

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from camrobust.core.certify.certificate import IN, OUT
from camrobust.core.certify.membership import certified_membership
from camrobust.core.certify.overlap import certified_overlaps, certified_rbo

MOST = 6
"""Largest number of items; it has 720 orders."""
EQUAL = 1e-9


def possible(lower: Tensor, upper: Tensor, orders: Tensor) -> Tensor:
    """Which orders scores within [L, U] can have, equal ones in any order: (N, m) and (O, m) to (N, O) bool."""
    ceiling = upper[:, orders].cummin(dim=-1).values
    return (ceiling >= lower[:, orders]).all(dim=-1)


def boxes(count: int, m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random L ≤ U in the order of their middles, from narrow to wide, (count, m) float64 each."""
    middles, halves = torch.rand(2, count, m, generator=generator, dtype=torch.float64)
    middles = middles.sort(dim=-1, descending=True).values
    halves = halves * torch.rand(count, 1, generator=generator, dtype=torch.float64).square() / 2
    return middles - halves, middles + halves


def against_orders(count: int, seed: int = 0, p: float = 0.9) -> list[dict[str, Any]]:
    """Compare `count` random boxes for each m from 2 to `MOST` with all orders.

    Returns:
        One row per m. `violations` counts certificates that some order breaks; `exact` is the share of certified
        rank-biased overlaps that equal the worst case, `slack` their mean distance from it, and `membership_exact` the
        share of boxes whose certified membership is exactly what all orders have in common, at every K.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    for m in range(2, MOST + 1):
        orders = torch.tensor(list(permutations(range(m))))
        lower, upper = boxes(count, m, generator)
        can = possible(lower, upper, orders)
        depths = torch.arange(m)
        # The number of the first d items that the first d places of each order hold.
        shared = torch.stack([(orders[:, : d + 1] <= d).sum(dim=1) for d in depths], dim=1)
        least = torch.where(can[..., None], shared, m).amin(dim=1)
        found = certified_overlaps(lower, upper)
        certified = certified_rbo(found, p)[0]
        worst = torch.where(can, certified_rbo(shared, p)[0], torch.inf).amin(dim=1)
        wrong = (found > least).any(dim=1) | (certified > worst + EQUAL)
        ranks = orders.argsort(dim=1)
        same = torch.ones(count, dtype=torch.bool)
        for K in range(1, m + 1):
            inside = torch.where(can[..., None], ranks < K, torch.ones(())).all(dim=1)
            outside = torch.where(can[..., None], ranks >= K, torch.ones(())).all(dim=1)
            members = certified_membership(lower, upper, torch.tensor(K))
            wrong |= (((members == IN) & ~inside) | ((members == OUT) & ~outside)).any(dim=1)
            same &= ((members == IN) == inside).all(dim=1) & ((members == OUT) == outside).all(dim=1)
        rows.append(
            {
                "m": m,
                "boxes": count,
                "orders": len(orders),
                "violations": int(wrong.sum()),
                "exact": (certified >= worst - EQUAL).double().mean().item(),
                "slack": (worst - certified).mean().item(),
                "membership_exact": same.double().mean().item(),
            }
        )
    return rows
