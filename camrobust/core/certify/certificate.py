"""From the sums of an image's samples to everything that is certain about its map."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.core.certify.bounds import item_bounds
from camrobust.core.certify.items import ItemSums, top_places
from camrobust.core.certify.membership import IN, OUT, UNDECIDED, certified_membership
from camrobust.core.certify.overlap import certified_overlaps, certified_rbo
from camrobust.core.certify.smoothing import check_shares, smoothed_bounds


@dataclass(frozen=True)
class MapCertificate:
    """What is certain about the smoothed map of images … within R radii, all of it together with probability 1 - α.

    A map that is flat in all samples (or has a single segment) certifies nothing: its values are NaN, and all of its
    items are undecided. Where the top K are all items, being among them says nothing: `overlap` is NaN, and all
    items are undecided.

    Attributes:
        order: (…, M) int64, the items by their estimated smoothed score, highest first; equal ones by number.
        lower: (…, R, M) float64, L of every item, not in the order's places.
        upper: (…, R, M) float64, U.
        overlaps: (…, R, M) int64, t_d: the certified overlap of the first d items with those of the true order.
        overlap: (…, R) float64, t_K/K, the certified overlap share of the top K; NaN where flat or K = m.
        rbo: (…, R) float64, certified rank-biased overlap of the estimated and the true order; NaN where flat.
        rbo_adjusted: (…, R) float64, the same adjusted for chance; NaN where flat.
        membership: (…, R, M) int8: 1 certainly in the top K, -1 certainly not, 0 undecided.
        flat: (…) bool.
        flat_share: (…) float64, the share of samples that were flat or not finite.
        sizes: (…) int64, the number of items m.
    """

    order: Tensor
    lower: Tensor
    upper: Tensor
    overlaps: Tensor
    overlap: Tensor
    rbo: Tensor
    rbo_adjusted: Tensor
    membership: Tensor
    flat: Tensor
    flat_share: Tensor
    sizes: Tensor

    def share(self, value: int) -> Tensor:
        """The share of items with this membership (`membership.IN`, `OUT` or `UNDECIDED`), (…, R) float64."""
        M = self.membership.shape[-1]
        inside = torch.arange(M, device=self.sizes.device) < self.sizes[..., None, None]
        return ((self.membership == value) & inside).sum(dim=-1) / self.sizes[..., None].double()


def estimated_order(sums: ItemSums) -> Tensor:
    """The items by their estimated smoothed score, highest first, equal ones by number; padding last: (…, M) int64."""
    twice = (sums.lower + sums.upper).masked_fill(~sums.inside, -1)
    return twice.argsort(dim=-1, descending=True, stable=True)


def map_certificate(
    sums: ItemSums, shares: Tensor, alpha: float, top: float = 0.2, p: float = 0.9, bound: str = "empirical_bernstein"
) -> MapCertificate:
    """Everything that is certain about a map, from the sums over its samples.

    Args:
        sums: of n samples, (…, M).
        shares: (R,), the radii ρ/σ.
        alpha: probability of an error anywhere in an image's certificate, at all items, depths and radii, (0, 1).
        top: K as a share of the items.
        p: persistence of rank-biased overlap.
        bound: one of `bounds.RANK_BOUNDS`; only for items of the kind rank.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.certificate import map_certificate
        >>> from camrobust.core.certify.items import item_sums
        >>> noise = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))
        >>> sums = item_sums(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]) + 0.3 * noise)
        >>> certified = map_certificate(sums, torch.tensor([0.0, 0.2, 2.0]), alpha=0.01)
        >>> certified.overlaps[:, 0].tolist(), [round(value, 2) for value in certified.rbo_adjusted.tolist()]
        ([1, 1, 0], [1.0, 1.0, -0.45])
    """
    check_shares(shares)
    lower, upper = smoothed_bounds(*item_bounds(sums, alpha, bound), shares)
    order, sizes = estimated_order(sums), sums.sizes
    places = order[..., None, :].expand(lower.shape)
    by_radius = sizes[..., None]
    overlaps = certified_overlaps(lower.gather(-1, places), upper.gather(-1, places), by_radius)
    K = top_places(sizes, top)[..., None]
    rbo, adjusted = certified_rbo(overlaps, p, by_radius)
    first = overlaps.gather(-1, (K - 1).expand(rbo.shape)[..., None])[..., 0]
    flat = (sums.flat == sums.samples) | (sizes < 2)
    nothing = flat[..., None]
    empty = nothing | (by_radius <= K)
    return MapCertificate(
        order=order, lower=lower, upper=upper, overlaps=overlaps,
        overlap=(first / K.double()).masked_fill(empty, torch.nan),
        rbo=rbo.masked_fill(nothing, torch.nan),
        rbo_adjusted=adjusted.masked_fill(nothing, torch.nan),
        membership=certified_membership(lower, upper, K, by_radius).masked_fill(empty[..., None], UNDECIDED),
        flat=flat, flat_share=sums.flat.double() / sums.samples, sizes=sizes,
    )  # fmt: skip


__all__ = ["IN", "OUT", "UNDECIDED", "MapCertificate", "estimated_order", "map_certificate"]
