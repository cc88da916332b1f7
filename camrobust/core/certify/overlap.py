"""How far the true order of smoothed scores can differ from an estimated one, given bounds on every score."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from camrobust.core.ranks import check_persistence, depth_weights


def certified_overlaps(lower: Tensor, upper: Tensor, sizes: Tensor | None = None) -> Tensor:
    """The least overlap t_d of the first d items of an order and of the true one, at every depth d.

    t_d is the largest t ≤ d with min over the places i ≤ t of L_i > max over the places j > 2d - t of U_j, and at least
    2d - m. Proof: let an item of the first t places be missing from the true top d. Its d members all have higher or
    equal scores, so none of them stands behind place 2d - t. Among the first 2d - t places, d - t stand behind place d,
    so at least t members stand among the first d. The rule holds for any order and however true ties are broken.

    The condition holds for all t up to the largest, which is found by halving; memory grows with m, not with m².

    Args:
        lower: (…, M) float64, L by places: bounds on the scores in the given order, its first item first.
        upper: (…, M), U.
        sizes: (…), the number of items m; must broadcast. Padding comes last, whatever its bounds. None means M.

    Returns:
        (…, M) int64. In the padding, at d > m, it is m.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.overlap import certified_overlaps
        >>> certified_overlaps(torch.tensor([0.8, 0.4, 0.3, 0.0]), torch.tensor([0.9, 0.6, 0.5, 0.2])).tolist()
        [1, 1, 3, 4]
    """
    M = lower.shape[-1]
    if sizes is not None:
        padding = torch.arange(M, device=lower.device) >= sizes[..., None]
        lower, upper = lower.masked_fill(padding, -torch.inf), upper.masked_fill(padding, -torch.inf)
    least = lower.cummin(dim=-1).values
    # At place k, the largest upper bound behind the first k items.
    most = pad(upper.flip(-1).cummax(dim=-1).values.flip(-1), (0, 1), value=-torch.inf)
    depths = torch.arange(1, M + 1, device=lower.device)
    found = torch.zeros_like(lower, dtype=torch.int64)
    for bit in reversed(range(M.bit_length())):
        tried = found + 2**bit
        place = (2 * depths - tried).clamp(0, M)
        holds = least.gather(-1, tried.clamp(max=M) - 1) > most.gather(-1, place)
        found = torch.where((tried <= depths) & holds, tried, found)
    return found


def certified_rbo(overlaps: Tensor, p: float = 0.9, sizes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The least rank-biased overlap of an order and the true one, raw and adjusted for chance.

    p^m + (1-p)/p · Σ_{d=1..m} p^d·t_d/d is at most the extrapolated RBO of two rankings of the same m items without
    ties. Adjusted: (x - E)/(1 - E), E the expectation of two random orders, as in `ranks.agreement`.

    Args:
        overlaps: (…, M) int64, t_d of `certified_overlaps`.
        p: persistence, (0, 1).
        sizes: (…), the number of items m; must broadcast. None means M.

    Returns:
        Raw in [0, 1] and adjusted in (-∞, 1], (…) float64 each. Adjusted is NaN for a single item. A negative value
        guarantees nothing beyond chance.

    Raises:
        ValueError: p is out of range.

    Examples:
        >>> import torch
        >>> from camrobust.core.certify.overlap import certified_rbo
        >>> raw, adjusted = certified_rbo(torch.tensor([1, 1, 3, 4]))
        >>> round(raw.item(), 4), round(adjusted.item(), 4)
        (0.955, 0.6791)
    """
    check_persistence("certify", p)
    M = overlaps.shape[-1]
    depths = torch.arange(1, M + 1, device=overlaps.device, dtype=torch.float64)
    sizes = torch.full((1,), M, device=overlaps.device) if sizes is None else sizes[..., None]
    weights = depth_weights(depths, sizes, p)
    raw, chance = (weights * overlaps / depths).sum(dim=-1), (weights * depths / sizes).sum(dim=-1)
    room = 1 - chance
    return raw.clamp(0, 1), ((raw - chance) / room).masked_fill(room <= 1e-12, torch.nan)
