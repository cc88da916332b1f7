"""Methods that use the first principal component, computed from a small Gram matrix instead of a full SVD."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

SQUARINGS = 22
"""Number of squarings; an eigenvalue smaller by one millionth then has 1.5 % of the largest one's weight."""
RESCALE_EVERY = 4
"""Squarings between two divisions by the trace; the largest of n eigenvalues then stays above n**-16."""


def _gram(values: Tensor) -> Tensor:
    """X·Xᵀ, (B, hw, hw) float64, of every image's (hw, C) matrix X with centred columns.

    The product is centred instead of X, which float64 allows without a relevant loss of digits.
    """
    rows = values.flatten(2).double()
    gram = rows.transpose(1, 2) @ rows
    means = gram.mean(dim=1, keepdim=True)
    return gram - means - means.transpose(1, 2) + gram.mean(dim=(1, 2), keepdim=True)


def by_eigh(gram: Tensor) -> Tensor:
    """The eigenvector (B, n) of norm 1 of the largest eigenvalue of symmetric matrices (B, n, n) float64, by LAPACK."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, :, -1]


def by_squaring(gram: Tensor, *, definite: bool) -> Tensor:
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
        power = power @ power
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column: Tensor = power[torch.arange(len(power), device=power.device), longest]
    length: Tensor = column.norm(dim=1, keepdim=True).clamp(min=tiny)
    return column / length


def _leading(gram: Tensor, *, definite: bool = True) -> Tensor:
    """√λ·u (B, n), λ the largest eigenvalue of symmetric matrices (B, n, n), u its eigenvector; NaN if not finite."""
    finite = torch.isfinite(gram).all(dim=2).all(dim=1)
    gram = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    axis = by_squaring(gram, definite=definite) if gram.is_cuda else by_eigh(gram)
    eigenvalue = (axis * (gram @ axis[:, :, None])[:, :, 0]).sum(dim=1, keepdim=True)
    component = axis * eigenvalue.clamp(min=0).sqrt()
    return torch.where(finite[:, None], component, torch.full_like(component, torch.nan))


def _component(values: Tensor) -> Tensor:
    """The projection of every position on the first principal component, of either sign, (B, hw) float64."""
    C, positions = values.shape[1], values[0, 0].numel()
    if positions <= C:
        return _leading(_gram(values))
    rows = values.flatten(2).double()
    rows = rows - rows.mean(dim=2, keepdim=True)
    axis = _leading(rows @ rows.transpose(1, 2))
    length = axis.norm(dim=1, keepdim=True)
    axis = axis / torch.where(length == 0, torch.ones_like(length), length)
    return (axis[:, None, :] @ rows)[:, 0]


def _with_canonical_sign(component: Tensor, values: Tensor) -> Tensor:
    """The component (B, hw) as maps (B, h, w), with the sign that correlates positively with Σ_k of the values."""
    total = values.sum(dim=1).flatten(1).double()
    total = total - total.mean(dim=1, keepdim=True)
    signed = torch.where((component * total).sum(dim=1) < 0, -1.0, 1.0)[:, None] * component
    return signed.float().reshape(len(values), *values.shape[2:])


def first_component(values: Tensor) -> Tensor:
    """The projection of every position on the first principal component over channels.

    X is the (hw, C) matrix of one image with centred columns, and X = U·Σ·Vᵀ. The map is X·v_1 = σ_1·u_1. u_1 is the
    leading eigenvector of X·Xᵀ (hw, hw) and v_1 that of Xᵀ·X (C, C); the smaller matrix is used. The sign of a
    component is arbitrary and would flip under noise, so it is fixed: the map correlates positively with Σ_k of the
    values.

    Args:
        values: (B, C, h, w) float32.

    Returns:
        (B, h, w) float32; NaN for an image with values that are not finite.
    """
    return _with_canonical_sign(_component(values), values)


@cam("eigencam", needs="activations", signed=True, source="Muhammad & Yeasin, arXiv 2008.00299", year=2020)
def eigencam(evidence: Evidence) -> Tensor:
    """Eigen-CAM: the first principal component of A over channels, with a fixed sign (see `first_component`).

    Deviation: the columns are centred (as in grad-cam) and the sign is fixed. The map is signed, without a ReLU.

    References:
        Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    return first_component(evidence.activations)


@cam("eigengradcam", needs="gradients", signed=True, source="Gildenblat, pytorch-grad-cam", year=2021)
def eigengradcam(evidence: Evidence) -> Tensor:
    """Eigen-Grad-CAM: the first principal component of g·A over channels, with a fixed sign.

    References:
        Gildenblat, grad-cam 1.5, `EigenGradCAM`.
    """
    return first_component(evidence.product)


@cam("seg-eigencam", needs="gradients", signed=True, source="Chung & Ying, doi 10.3390/app15137562", year=2025)
def seg_eigencam(evidence: Evidence) -> Tensor:
    """Seg-Eigen-CAM: the first principal component of |g|·A over channels.

    The sign rule is that of the paper: flipped if |min| > |max|. If the two are close, noise can flip the map.

    References:
        Chung & Ying 2025, Applied Sciences 15 (13), 7562, equations 10 to 13.
    """
    values = evidence.gradients.abs() * evidence.activations
    component = _component(values)
    flipped = -component.amin(dim=1, keepdim=True) > component.amax(dim=1, keepdim=True)
    return torch.where(flipped, -component, component).float().reshape(len(values), *values.shape[2:])


@cam("kpca-cam", needs="activations", signed=True, source="Karmani et al., arXiv 2410.00267", year=2024)
def kpca_cam(evidence: Evidence) -> Tensor:
    """KPCA-CAM: the first kernel principal component of A's positions, sigmoid kernel, with a fixed sign.

    X is (hw, C) with centred columns, K = tanh(X·Xᵀ/C + 1), centred in both directions; the map is √λ_1·α_1 of its
    largest eigenvalue. Deviation: the sign is fixed as for Eigen-CAM.

    References:
        Karmani et al. 2024, arXiv 2410.00267; grad-cam 1.5, `KPCA_CAM`.
    """
    kernel = torch.tanh(_gram(evidence.activations) / evidence.activations.shape[1] + 1)
    means = kernel.mean(dim=1, keepdim=True)
    centred = kernel - means - means.transpose(1, 2) + kernel.mean(dim=(1, 2), keepdim=True)
    return _with_canonical_sign(_leading(centred, definite=False), evidence.activations)
