"""The first principal component over channels, computed from a small Gram matrix instead of a full SVD."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SQUARINGS = 22
"""Number of squarings; an eigenvalue smaller by one millionth then has 1.5 % of the largest one's weight."""
RESCALE_EVERY = 6
"""Squarings between two divisions by the trace; the largest of n eigenvalues then stays above n**-64."""
SECOND_SQUARINGS = 6
"""The same for the second eigenvalue, of which 2 % are enough."""
LEAST_CORRELATION = 0.05
"""A component's sign is ambiguous below this correlation with what fixes it (docs/benchmark.md, Signs)."""
LARGEST_SHARE = 0.9
"""A component is ambiguous if the second explains more than this share of the first's variance."""


@dataclass(frozen=True)
class Components:
    """The first principal components over channels of M tensors of B images, whose signs are arbitrary until fixed.

    Attributes:
        rows: (M·B, C, n) float64, the n = h·w positions of the decomposed values.
        projection: (M·B, n) float64, of every position on the component; NaN for an image that is not finite.
        eigenvalues: the first and the second, (M·B, 1) each.
        shape: M, B, h and w.
    """

    rows: Tensor
    projection: Tensor
    eigenvalues: tuple[Tensor, Tensor]
    shape: tuple[int, int, int, int]

    @cached_property
    def by_sum(self) -> tuple[Tensor, ...]:
        """M maps (B, h, w) float32 that correlate positively with Σ_k of the values."""
        return self._maps(with_canonical_sign(self.projection, self.rows.sum(dim=1)))

    @cached_property
    def salient(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """M maps (B, h, w) float32, bright where the channels deviate most, and where they are ambiguous (B,)."""
        projection, ambiguous = with_salient_sign(self.projection, self.rows, share_of(*self.eigenvalues))
        return self._maps(projection), ambiguous.reshape(self.shape[:2]).unbind()

    def _maps(self, projection: Tensor) -> tuple[Tensor, ...]:
        return projection.float().reshape(self.shape).unbind()


def components(values: Sequence[Tensor]) -> Components:
    """The first principal component over channels of each tensor.

    X is the (hw, C) matrix of one image with centred columns, and X = U·Σ·Vᵀ. The map is X·v_1 = σ_1·u_1. u_1 is the
    leading eigenvector of X·Xᵀ (hw, hw) and v_1 that of Xᵀ·X (C, C); the smaller matrix is used. All matrices are
    decomposed together.

    Args:
        values: M tensors (B, C, h, w) float32.
    """
    stacked = torch.cat(tuple(values)) if len(values) > 1 else values[0]
    rows = stacked.flatten(2).double()
    B, _, h, w = values[0].shape
    return Components(rows, *_projection(rows), (len(values), B, h, w))


def _projection(rows: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The projection of the n positions of rows (B, C, n) float64 on their first component, of either sign, (B, n).

    Also the first and the second eigenvalue (B, 1).
    """
    if rows.shape[2] <= rows.shape[1]:
        axis, first, second = leading(centred(torch.bmm(rows.mT, rows)))
        return axis * first.clamp(min=0).sqrt(), (first, second)
    rows = rows - rows.mean(dim=2, keepdim=True)
    axis, first, second = leading(torch.bmm(rows, rows.mT))
    return torch.bmm(axis[:, None], rows)[:, 0], (first, second)


def share_of(first: Tensor, second: Tensor) -> Tensor:
    """The second eigenvalues (B, 1) as shares (B,) of the first; 0 where there is no first."""
    return torch.where(first > 0, second / first, 0)[:, 0]


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


def with_salient_sign(component: Tensor, rows: Tensor, closeness: Tensor) -> tuple[Tensor, Tensor]:
    """The component with the sign that is positive where the channels are far from their mean.

    The sign is that of the correlation, over positions, of the component with ‖x_s - mean_s(x)‖, the distance of a
    position's channels from their mean. It is ambiguous where that correlation is weak, or where another component
    explains nearly as much, so that mild noise may swap the two.

    Args:
        component: (B, n) float64, of either sign.
        rows: (B, C, n) float64, the values of which it is the component.
        closeness: (B,), the second eigenvalue as a share of the first.

    Returns:
        The component (B, n), and whether it is ambiguous (B,) bool.
    """
    distance = (rows - rows.mean(dim=2, keepdim=True)).norm(dim=1)
    distance = distance - distance.mean(dim=1, keepdim=True)
    around = component - component.mean(dim=1, keepdim=True)
    likeness = (around * distance).sum(dim=1)
    weak = likeness.abs() < LEAST_CORRELATION * around.norm(dim=1) * distance.norm(dim=1)
    return torch.where(likeness[:, None] < 0, -component, component), weak | (closeness > LARGEST_SHARE)


def leading(gram: Tensor, *, definite: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """The leading eigenvector (B, n) of symmetric matrices (B, n, n), NaN if not finite, and the eigenvalues (B, 1).

    These are the largest and the second.
    """
    total = gram.sum(dim=(1, 2))[:, None]
    # 0 or NaN. A decomposition would fail on values that are not finite.
    undefined = total - total
    gram = gram.nan_to_num(0.0, 0.0, 0.0)
    axis, first, second = by_squaring(gram, definite=definite) if gram.is_cuda else by_eigh(gram)
    return axis + undefined, first, second


def by_eigh(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenvector (B, n) of norm 1 of the largest eigenvalue of matrices (B, n, n) float64, by LAPACK.

    Also that eigenvalue and the second (B, 1), 0 for a matrix of one entry.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    second = eigenvalues[:, -2:-1] if gram.shape[1] > 1 else torch.zeros_like(eigenvalues)
    return vectors[:, :, -1], eigenvalues[:, -1:], second


def by_squaring(gram: Tensor, *, definite: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same by matrix products alone, for GPUs, which would decompose one matrix after the other.

    The matrix is squared until only the projector on the leading eigenvector is left: after k squarings the second
    eigenvalue has (λ_2/λ_1)**(2**k) of the first one's weight. The result is 0 for a matrix of zeros.

    Args:
        gram: (B, n, n) float64, symmetric.
        definite: the matrices are positive semidefinite; others are first shifted by their norm.
    """
    tiny, shift = torch.finfo(gram.dtype).tiny, torch.zeros_like(gram[:, :1, :1])
    power = gram
    if not definite:
        shift = torch.linalg.matrix_norm(gram)[:, None, None]
        power = gram + shift * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    shifted = power
    for number in range(SQUARINGS):
        if number % RESCALE_EVERY == 0:
            power = power / _trace(power).clamp(min=tiny)
        power = torch.bmm(power, power)
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column = power[torch.arange(len(power), device=power.device), longest]
    axis = column / column.norm(dim=1, keepdim=True).clamp(min=tiny)
    first = (axis * torch.bmm(gram, axis[:, :, None])[:, :, 0]).sum(dim=1, keepdim=True)
    rest = shifted - (first[:, :, None] + shift) * axis[:, :, None] * axis[:, None]
    return axis, first, _largest(rest) - shift[:, 0]


def _largest(gram: Tensor) -> Tensor:
    """The largest eigenvalue (B, 1) of positive semidefinite matrices (B, n, n), by the growth of the trace."""
    tiny = torch.finfo(gram.dtype).tiny
    size: Tensor = torch.linalg.matrix_norm(gram).clamp(min=tiny)[:, None]
    power = gram / size[:, :, None]
    for _ in range(SECOND_SQUARINGS):
        power = torch.bmm(power, power)
    growth = (power * power).sum(dim=(1, 2)) / _trace(power)[:, 0, 0].clamp(min=tiny)
    largest: Tensor = size * growth[:, None] ** (0.5**SECOND_SQUARINGS)
    return largest


def _trace(matrices: Tensor) -> Tensor:
    """Of matrices (B, n, n), as (B, 1, 1)."""
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
