"""Which scores count as tied: one rule for every rank in this package.

Plateaus are split by rounding: maps come from float32 layers, and equal cells are summed in different orders. So a
group of tied scores holds all that lie within `TIED` of the list's largest magnitude from the group's first, its
highest score. They are not compared with their neighbours, which would chain: a slope of small steps would be one
group.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

TIED = 4 * 2.0**-23
"""Largest distance from the first score of a group, as a share of the list's largest magnitude: 4 ulp of a float32."""


def tie_groups(falling: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The tie group at every rank of sorted lists, by a number of operations that depends on n alone.

    Args:
        falling: (…, n) float64, minus the scores, ascending, so that the highest score comes first.
        largest: (…, 1) float64, the largest magnitude of each list.

    Returns:
        The first and the last rank, from 0, of the group at every rank, (…, n) int64 each.

    Examples:
        >>> import torch
        >>> from camrobust.core.ties import tie_groups
        >>> first, last = tie_groups(-torch.tensor([[1.0, 1 - 1e-7, 0.5]]).double(), torch.ones(1, 1).double())
        >>> first.tolist(), last.tolist()
        ([[0, 0, 2]], [[1, 1, 2]])
    """
    n = falling.shape[-1]
    # The rank behind the group that would begin here. Groups begin at rank 0, behind the group that begins there, and
    # so on; with every step of the loop, twice as many of them are known.
    behind = torch.searchsorted(falling, torch.add(falling, largest, alpha=TIED), right=True)
    leap = pad(behind, (0, 1), value=n)
    begins = torch.zeros_like(leap, dtype=torch.int32)
    begins[..., 0] = 1
    for step in range((n - 1).bit_length()):
        if step:
            leap = leap.gather(-1, leap)
        begins = begins.scatter_add(-1, leap, begins)
    ranks = torch.arange(n + 1, device=falling.device)
    first = torch.where(begins > 0, ranks, 0).cummax(dim=-1).values[..., :n]
    return first, behind.gather(-1, first).sub_(1)
