"""`camrobust bench certificates`: whether certificates hold, by simulation, by attack and against all orders."""

from typing import Any

from camrobust.bench.certificates.attack import attacks
from camrobust.bench.certificates.balls import in_balls
from camrobust.bench.certificates.coverage import covered
from camrobust.bench.certificates.orders import against_orders

CONTRADICTIONS = ("scores", "rbo", "overlaps", "memberships")
"""Columns of the attacks' table that must be 0."""


def check(
    simulations: int, tries: int, boxes: int, images: int, seed: int = 0
) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """All four tables by title, and whether every certificate held.

    Args:
        simulations: simulated images of each kind.
        tries: attacks, at least so many.
        boxes: random bounds for each number of items that are compared with all orders.
        images: for each of two small networks, certified without chance and attacked in the ball.
        seed: of every random draw.
    """
    simulated, attacked, ordered = covered(simulations, seed), attacks(tries, seed), against_orders(boxes, seed)
    inside = in_balls(images, seed)
    held = [row[name] for row in simulated for name in ("bounds_hold", "order_holds") if row[name] is not None]
    sound = (
        min(held) >= simulated[0]["promised"]
        and not any(row[name] for row in attacked for name in CONTRADICTIONS)
        and not any(row["violations"] for row in ordered)
        and not any(row["top_broken"] or row["bounds_broken"] for row in inside)
    )
    tables = {
        "share of simulated images for which all that is certified holds": simulated,
        f"{sum(row['tries'] for row in attacked):,} attacks within the certified radii": attacked,
        "every order that the bounds allow": ordered,
        "certificates without chance, attacked in the ball": inside,
    }
    return tables, sound
