"""Which items are certainly in the top K, and which are certainly not."""

import torch
from torch import Tensor

from camrobust.core.certify.bounds import check_alpha

IN, UNDECIDED, OUT = 1, 0, -1


def certified_membership(lower: Tensor, upper: Tensor, K: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Whether each item is in the top K of the true order, given bounds on every score.

    Certainly in (1): the U of fewer than K other items reach its L. Certainly out (-1): the L of at least K other items
    exceed its U. Otherwise undecided (0).

    Args:
        lower: (…, M) float64, L; at most U.
        upper: (…, M), U.
        K: (…) int64, the number of items in the top; must broadcast.
        sizes: (…), the number of items m; must broadcast. The rest is padding. None means M.

    Returns:
        (…, M) int8; 0 in the padding.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.membership import certified_membership
        >>> L, U = torch.tensor([0.8, 0.4, 0.3, 0.0]), torch.tensor([0.9, 0.6, 0.5, 0.2])
        >>> certified_membership(L, U, torch.tensor(2)).tolist()
        [1, 0, 0, -1]
    """
    M = lower.shape[-1]
    padding = torch.zeros(M, dtype=torch.bool, device=lower.device)
    if sizes is not None:
        padding = torch.arange(M, device=lower.device) >= sizes[..., None]
    # Padding has the score -∞, so it reaches and exceeds nobody.
    L, U = (torch.where(padding, -torch.inf, bound).contiguous() for bound in (lower, upper))
    reach = M - torch.searchsorted(U.sort(dim=-1).values, L, side="left") - 1
    exceed = M - torch.searchsorted(L.sort(dim=-1).values, U, side="right")
    within, out = reach < K[..., None], exceed >= K[..., None]
    return (within.to(torch.int8) - out.to(torch.int8)).masked_fill(padding, UNDECIDED)


def needed_hits(samples: int, tau: float, alpha: float, items: int) -> int:
    """The smallest number of hits k of n at which P(Bin(n, τ) ≥ k) ≤ α/items; n + 1 if there is none.

    Examples:
        >>> from camrobust.core.certify.membership import needed_hits
        >>> needed_hits(90, 0.75, 0.001, 50_176), needed_hits(90, 0.75, 0.001, 49)
        (88, 84)
    """
    from scipy.stats import binom

    check_alpha(alpha)
    if not 0.5 <= tau < 1:
        raise ValueError(f"certify: tau must be at least 0.5 and below 1 (share of the samples), got {tau:g}; try 0.75")
    # P(Bin ≥ k) is the survival function at k - 1.
    chances = binom.sf(range(-1, samples), samples, tau)
    return int((chances > alpha / items).sum())


def majority_membership(
    pilot: Tensor, inside: Tensor, outside: Tensor, samples: int, tau: float, alpha: float, sizes: Tensor | None = None
) -> Tensor:
    """Membership of the top K by the rule of Anani et al.: the mode of a pilot, tested with the other samples.

    The smoothed map says in or out of an item by the majority of its samples. Where the pilot's majority is certified,
    at least a share τ of the noisy copies says so, and the majority cannot change within R = σ·Φ⁻¹(τ). Compare
    `certified_membership`, which speaks of the K highest smoothed scores.

    Args:
        pilot: (…, M) bool, whether the item was in the top K in most of the pilot's samples.
        inside: (…, M) int64, the samples, without the pilot's, in which the item was certainly in the top K: `lower` of
            the sums of the kind top.
        outside: (…, M), those in which it was certainly not: n minus `upper`.
        samples: n, without the pilot.
        tau: τ, [0.5, 1).
        alpha: probability of an error in any item; each of m items has α/m.
        sizes: (…), the number of items m. None means M.

    Returns:
        (…, M) int8: 1 in, -1 out, 0 undecided.

    References:
        Anani et al. 2025, ICML; the test is that of Fischer et al. 2021, arXiv 2106.07286 (SegCertify).
    """
    M = inside.shape[-1]
    sizes = torch.full((1,), M, device=inside.device) if sizes is None else sizes[..., None]
    needed = {m: needed_hits(samples, tau, alpha, m) for m in sizes.unique().tolist()}
    least = sizes.clone().cpu().apply_(needed.__getitem__).to(inside.device)
    certain = torch.where(pilot, (inside >= least).to(torch.int8), -(outside >= least).to(torch.int8))
    return certain.masked_fill(torch.arange(M, device=inside.device) >= sizes, UNDECIDED)


def radius(tau: float, sigma: float) -> float:
    """R = σ·Φ⁻¹(τ): within this distance, what a share τ of the noisy copies says stays the majority.

    Examples:
        >>> from camrobust.core.certify.membership import radius
        >>> [round(radius(0.75, sigma), 2) for sigma in (0.15, 0.25, 0.33)]
        [0.1, 0.17, 0.22]
    """
    return sigma * float(torch.special.ndtri(torch.tensor(tau, dtype=torch.float64)))
