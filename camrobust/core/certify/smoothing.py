"""From bounds at an image to bounds at every image within a distance of it."""

import torch
from torch import Tensor

SLACK = 1e-12
"""Every bound is moved outwards by so much, which is more than the rounding errors of Φ and its inverse."""


def check_shares(shares: Tensor) -> None:
    """Raise ValueError unless all radii are finite and not negative."""
    if not bool(((shares >= 0) & shares.isfinite()).all()):
        raise ValueError(
            f"certify: radii must be finite and not negative (shares of sigma), got {shares.tolist()}; try 0.1"
        )


def smoothed_bounds(lower: Tensor, upper: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds on the smoothed scores of all images within ρ: Φ(Φ⁻¹(l) - ρ/σ) and Φ(Φ⁻¹(u) + ρ/σ).

    They hold for the mean over Gaussian noise of deviation σ of any function with values in [0, 1], and for every
    change of the image with an l2 norm of at most ρ, before the noise is added.

    Args:
        lower: (…, M) float64, bounds at the image itself, in [0, 1].
        upper: (…, M).
        shares: (R,), the radii ρ/σ; finite and not negative.

    Returns:
        L and U, (…, R, M) float64 each.

    References:
        Levine et al. 2019, arXiv 1905.12105, theorem 1; Salman et al. 2019, arXiv 1906.04584, lemma 2.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.smoothing import smoothed_bounds
        >>> half = torch.tensor([0.5]).double()
        >>> L, U = smoothed_bounds(half, half, torch.tensor([0.0, 1.0]))
        >>> [round(value, 4) for value in L.flatten().tolist()], [round(value, 4) for value in U.flatten().tolist()]
        ([0.5, 0.1587], [0.5, 0.8413])
    """
    distance = shares.to(lower)[:, None]
    low, high = (torch.special.ndtri(bound.double())[..., None, :] for bound in (lower, upper))
    L, U = torch.special.ndtr(low - distance), torch.special.ndtr(high + distance)
    return (L - SLACK).clamp(min=0), (U + SLACK).clamp(max=1)
