"""How an order of the items contradicts what was certified about it."""

import torch
from torch import Tensor

from camrobust.core.certify.certificate import IN, OUT, MapCertificate
from camrobust.core.certify.items import top_places
from camrobust.core.certify.overlap import certified_rbo

ROUNDING = 1e-9


def contradicted(certified: MapCertificate, place: int, order: Tensor, top: float) -> dict[str, Tensor]:
    """Which images have an order that their certificate excludes, (B,) bool for rank-biased overlap, overlaps, members.

    Args:
        certified: of B images with S items each.
        place: number of the radius.
        order: (B, S) int64, the items by their smoothed scores at an image within the radius, highest first.
        top: K as a share of the items.
    """
    shared = shared_overlaps(certified.order, order)
    inside = order.argsort(dim=-1) < int(top_places(torch.tensor(order.shape[-1]), top))
    members = certified.membership[:, place]
    return {
        "rbo": certified.rbo[:, place] > certified_rbo(shared)[0] + ROUNDING,
        "overlaps": (certified.overlaps[:, place] > shared).any(dim=-1),
        "memberships": (((members == IN) & ~inside) | ((members == OUT) & inside)).any(dim=-1),
    }


def shared_overlaps(order: Tensor, other: Tensor) -> Tensor:
    """How many items the first d of two orders have in common, for every depth d.

    Args:
        order: (…, M) int64, the items, first ones first.
        other: (…, M), the same items in another order. Padding comes last in both, in the same order.

    Returns:
        (…, M) int64.

    Examples:
        >>> import torch
        >>> from camrobust.bench.certificates.contradictions import shared_overlaps
        >>> shared_overlaps(torch.tensor([2, 0, 1, 3]), torch.tensor([0, 2, 3, 1])).tolist()
        [0, 2, 2, 4]
    """
    places = other.argsort(dim=-1).gather(-1, order)
    depths = torch.arange(order.shape[-1], device=order.device)
    # The first d of both: the later of an item's two places decides.
    later = torch.maximum(places, depths.expand_as(places))
    return torch.zeros_like(later).scatter_add(-1, later, torch.ones_like(later)).cumsum(dim=-1)
