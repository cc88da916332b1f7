"""The class that cannot change within a distance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camrobust.core.certify.bounds import check_alpha, clopper_pearson


@dataclass(frozen=True)
class CertifiedClass:
    """What is certain about the class of an image.

    Attributes:
        probability: (…) float64, the lower bound on p_A, the share of noisy copies that are given the class.
        radius: (…) float64, R, in units of σ: within it, the class keeps the majority. 0 where it abstains.
        abstained: (…) bool: p_A is not certainly above 1/2.
    """

    probability: Tensor
    radius: Tensor
    abstained: Tensor


def certified_class(hits: Tensor, samples: int, alpha: float) -> CertifiedClass:
    """The certificate of a class that was chosen before the samples were drawn: R = σ·Φ⁻¹(p_A).

    Args:
        hits: (…) int64, the samples that were given the class.
        samples: n ≥ 1; none of them may have been used to choose the class.
        alpha: probability of an error, (0, 1).

    Returns:
        The certificate; it abstains where p_A ≤ 1/2.

    Raises:
        ValueError: alpha is out of range.

    References:
        Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918, theorem 1 with p_B = 1 - p_A.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.classes import certified_class
        >>> certified = certified_class(torch.tensor([1000, 510]), 1000, alpha=0.001)
        >>> [round(value, 3) for value in certified.radius.tolist()], certified.abstained.tolist()
        ([2.463, 0.0], [False, True])
    """
    check_alpha(alpha)
    lower = clopper_pearson(hits, samples, alpha)[0]
    abstained = lower <= 0.5
    return CertifiedClass(lower, torch.special.ndtri(lower).masked_fill(abstained, 0), abstained)
