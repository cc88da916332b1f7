"""Methods that take the first principal component, from a small Gram matrix instead of a full SVD."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence

SQUARINGS = 22
"""Of a matrix to its leading projector: an eigenvalue that is a millionth smaller is left with 1.5 % of the weight."""

BETWEEN = 4
"""Squarings between two divisions by the trace: of n eigenvalues the largest is then at least n**-16."""


def _gram(values: Tensor) -> Tensor:
    """X·Xᵀ of the (hw, C) matrix X of every image with its columns centred, (B, hw, hw) float64.

    Centred afterwards, which in float64 costs no digits that matter.
    """
    rows = values.flatten(2).double()
    gram = rows.transpose(1, 2) @ rows
    means = gram.mean(dim=1, keepdim=True)
    return gram - means - means.transpose(1, 2) + gram.mean(dim=(1, 2), keepdim=True)


def by_eigh(gram: Tensor) -> Tensor:
    """Eigenvector of the largest eigenvalue of symmetric matrices (B, n, n) float64, (B, n) of norm 1, by LAPACK."""
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors[:, :, -1]


def by_squaring(gram: Tensor, *, definite: bool) -> Tensor:
    """The same by matrix products alone, for devices that take one decomposition after the other.

    The matrix is squared until only the projector of the largest eigenvalue is left: after k times the second has
    (λ_2/λ_1)**(2**k) of the first's weight. One that is not positive semidefinite is shifted by its norm before. 0 for
    a matrix of zeros.
    """
    tiny = torch.finfo(gram.dtype).tiny
    power = gram
    if not definite:
        size = torch.linalg.matrix_norm(gram)[:, None, None]
        power = gram + size * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    for number in range(SQUARINGS):
        if number % BETWEEN == 0:
            power = power / power.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=tiny)[:, None, None]
        power = power @ power
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column: Tensor = power[torch.arange(len(power), device=power.device), longest]
    length: Tensor = column.norm(dim=1, keepdim=True).clamp(min=tiny)
    return column / length


def _leading(gram: Tensor, *, definite: bool = True) -> Tensor:
    """√λ·u of the largest eigenvalue of symmetric matrices (B, n, n), (B, n); NaN where they are not finite."""
    finite = torch.isfinite(gram).all(dim=2).all(dim=1)
    gram = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    axis = by_squaring(gram, definite=definite) if gram.is_cuda else by_eigh(gram)
    eigenvalue = (axis * (gram @ axis[:, :, None])[:, :, 0]).sum(dim=1, keepdim=True)
    component = axis * eigenvalue.clamp(min=0).sqrt()
    return torch.where(finite[:, None], component, torch.full_like(component, torch.nan))


def _component(values: Tensor) -> Tensor:
    """Projection of every position on the first principal component, of any sign, (B, hw) float64."""
    C, positions = values.shape[1], values[0, 0].numel()
    if positions <= C:
        return _leading(_gram(values))
    rows = values.flatten(2).double()
    rows = rows - rows.mean(dim=2, keepdim=True)
    axis = _leading(rows @ rows.transpose(1, 2))
    length = axis.norm(dim=1, keepdim=True)
    axis = axis / torch.where(length == 0, torch.ones_like(length), length)
    return (axis[:, None, :] @ rows)[:, 0]


def _towards(component: Tensor, values: Tensor) -> Tensor:
    """The component (B, hw) as maps, with the sign in which it correlates positively with Σ_k of the values."""
    total = values.sum(dim=1).flatten(1).double()
    total = total - total.mean(dim=1, keepdim=True)
    signed = torch.where((component * total).sum(dim=1) < 0, -1.0, 1.0)[:, None] * component
    return signed.float().reshape(len(values), *values.shape[2:])


def first_component(values: Tensor) -> Tensor:
    """Projection of every position on the first principal component over channels.

    With X the (hw, C) matrix of one image, each column centred, X = U·Σ·Vᵀ, the map is X·v_1 = σ_1·u_1; u_1 is the
    leading eigenvector of X·Xᵀ, which is (hw, hw), v_1 that of Xᵀ·X, which is (C, C): the smaller one is taken. The
    sign of a component is arbitrary and would flip under noise, so it is made canonical: the map correlates positively
    with Σ_k of the values.

    Args:
        values: (B, C, h, w) float32.

    Returns:
        (B, h, w) float32; NaN for an image whose values are not all finite.
    """
    return _towards(_component(values), values)


@cam("eigencam", needs="activations", signed=True, source="Muhammad & Yeasin, arXiv 2008.00299", year=2020)
def eigencam(evidence: Evidence) -> Tensor:
    """Eigen-CAM: the first principal component of A over channels, with a canonical sign.

    Deviation: the columns are centred (as grad-cam does) and the sign is fixed; the map is signed, without a ReLU.

    References:
        Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    return first_component(evidence.activations)


@cam("eigengradcam", needs="gradients", signed=True, source="Gildenblat, pytorch-grad-cam", year=2021)
def eigengradcam(evidence: Evidence) -> Tensor:
    """Eigen-Grad-CAM: the first principal component of g·A over channels, with a canonical sign.

    References:
        Gildenblat, grad-cam 1.5, `EigenGradCAM`.
    """
    return first_component(evidence.product)


@cam("seg-eigencam", needs="gradients", signed=True, source="Chung & Ying, doi 10.3390/app15137562", year=2025)
def seg_eigencam(evidence: Evidence) -> Tensor:
    """Seg-Eigen-CAM: the first principal component of |g|·A over channels, with its larger extreme positive.

    The sign rule is the paper's own (flipped where |min| > |max|); under noise it can flip where the two are close.

    References:
        Chung & Ying 2025, Applied Sciences 15 (13), 7562, equations 10 to 13.
    """
    values = evidence.gradients.abs() * evidence.activations
    component = _component(values)
    flipped = -component.amin(dim=1, keepdim=True) > component.amax(dim=1, keepdim=True)
    return torch.where(flipped, -component, component).float().reshape(len(values), *values.shape[2:])


@cam("kpca-cam", needs="activations", signed=True, source="Karmani et al., arXiv 2410.00267", year=2024)
def kpca_cam(evidence: Evidence) -> Tensor:
    """KPCA-CAM: the first kernel principal component of A's positions, sigmoid kernel, with a canonical sign.

    X is (hw, C) with centred columns, K = tanh(X·Xᵀ/C + 1), centred in both directions; the map is √λ_1·α_1 of its
    largest eigenvalue. Deviation: the sign is fixed as Eigen-CAM's is.

    References:
        Karmani et al. 2024, arXiv 2410.00267; grad-cam 1.5, `KPCA_CAM`.
    """
    kernel = torch.tanh(_gram(evidence.activations) / evidence.activations.shape[1] + 1)
    means = kernel.mean(dim=1, keepdim=True)
    centred = kernel - means - means.transpose(1, 2) + kernel.mean(dim=(1, 2), keepdim=True)
    return _towards(_leading(centred, definite=False), evidence.activations)
