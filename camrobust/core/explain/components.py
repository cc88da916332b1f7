"""The first principal component over channels, computed from a small Gram matrix instead of a full SVD."""

from collections.abc import Sequence

import torch
from torch import Tensor

SQUARINGS = 22
"""Number of squarings; an eigenvalue smaller by one millionth then has 1.5 % of the largest one's weight."""
RESCALE_EVERY = 6
"""Squarings between two divisions by the trace; the largest of n eigenvalues then stays above n**-64."""


def first_components(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """For each tensor, the projection of every position on the first principal component over channels.

    X is the (hw, C) matrix of one image with centred columns, and X = U·Σ·Vᵀ. The map is X·v_1 = σ_1·u_1. u_1 is the
    leading eigenvector of X·Xᵀ (hw, hw) and v_1 that of Xᵀ·X (C, C); the smaller matrix is used. The sign of a
    component is arbitrary and would flip under noise, so it is fixed: the map correlates positively with Σ_k of the
    values. All matrices are decomposed together.

    Args:
        values: M tensors (B, C, h, w) float32.

    Returns:
        M maps (B, h, w) float32; NaN for an image with values that are not finite.
    """
    stacked = torch.cat(tuple(values)) if len(values) > 1 else values[0]
    rows = stacked.flatten(2).double()
    component = with_canonical_sign(_projection(rows), rows.sum(dim=1))
    return component.float().reshape(len(values), -1, *stacked.shape[2:]).unbind()


def _projection(rows: Tensor) -> Tensor:
    """The projection of the n positions of rows (B, C, n) float64 on their first component, of either sign, (B, n)."""
    if rows.shape[2] <= rows.shape[1]:
        axis, eigenvalue = leading(centred(torch.bmm(rows.mT, rows)))
        return axis * eigenvalue.clamp(min=0).sqrt()
    rows = rows - rows.mean(dim=2, keepdim=True)
    axis, _ = leading(torch.bmm(rows, rows.mT))
    return torch.bmm(axis[:, None], rows)[:, 0]


def centred(matrix: Tensor) -> Tensor:
    """Square matrices (B, n, n) with the means of their columns, then of their rows subtracted.

    Of X·Xᵀ, this is the same as centring the columns of X. Float64 allows it without a relevant loss of digits.
    """
    matrix = matrix - matrix.mean(dim=1, keepdim=True)
    return matrix - matrix.mean(dim=2, keepdim=True)


def with_canonical_sign(component: Tensor, total: Tensor) -> Tensor:
    """The component (B, n), with the sign that correlates positively with the sum over channels (B, n)."""
    likeness = (component * (total - total.mean(dim=1, keepdim=True))).sum(dim=1, keepdim=True)
    return torch.where(likeness < 0, -component, component)


def leading(gram: Tensor, *, definite: bool = True) -> tuple[Tensor, Tensor]:
    """The leading eigenvector (B, n) of symmetric matrices (B, n, n) and its eigenvalue (B, 1); NaN if not finite."""
    total = gram.sum(dim=(1, 2))[:, None]
    # 0 or NaN. A decomposition would fail on values that are not finite.
    undefined = total - total
    gram = gram.nan_to_num(0.0, 0.0, 0.0)
    axis, eigenvalue = by_squaring(gram, definite=definite) if gram.is_cuda else by_eigh(gram)
    return axis + undefined, eigenvalue


def by_eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvector (B, n) of norm 1 of the largest eigenvalue (B, 1) of matrices (B, n, n) float64, by LAPACK."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    return vectors[:, :, -1], eigenvalues[:, -1:]


def by_squaring(gram: Tensor, *, definite: bool) -> tuple[Tensor, Tensor]:
    """The same by matrix products alone, for GPUs, which would decompose one matrix after the other.

    The matrix is squared until only the projector on the leading eigenvector is left: after k squarings the second
    eigenvalue has (λ_2/λ_1)**(2**k) of the first one's weight. The result is 0 for a matrix of zeros.

    Args:
        gram: (B, n, n) float64, symmetric.
        definite: the matrices are positive semidefinite; others are first shifted by their norm.
    """
    tiny = torch.finfo(gram.dtype).tiny
    power = gram
    if not definite:
        size = torch.linalg.matrix_norm(gram)[:, None, None]
        power = gram + size * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    for number in range(SQUARINGS):
        if number % RESCALE_EVERY == 0:
            power = power / power.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=tiny)[:, None, None]
        power = torch.bmm(power, power)
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column = power[torch.arange(len(power), device=power.device), longest]
    axis = column / column.norm(dim=1, keepdim=True).clamp(min=tiny)
    return axis, (axis * torch.bmm(gram, axis[:, :, None])[:, :, 0]).sum(dim=1, keepdim=True)
