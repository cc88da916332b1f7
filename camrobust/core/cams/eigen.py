"""Methods that take the first principal component, from a small Gram matrix instead of a full SVD."""

import torch
from torch import Tensor

from camrobust.core.cams.catalogue import cam
from camrobust.core.evidence import Evidence


def _rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, h, w) as (B, hw, C) with centred columns; images that are not finite as 0, and which are, (B,)."""
    rows = values.flatten(2).transpose(1, 2)
    rows = rows - rows.mean(dim=1, keepdim=True)
    finite = torch.isfinite(rows).all(dim=2).all(dim=1)
    return torch.where(finite[:, None, None], rows, torch.zeros_like(rows)), finite


def _towards(component: Tensor, direction: Tensor) -> Tensor:
    """The component (B, hw) with the sign in which it correlates positively with a direction (B, hw)."""
    return torch.where((component * direction).sum(dim=1) < 0, -1.0, 1.0)[:, None] * component


def _wide(values: Tensor) -> Tensor:
    """Float64 on a CPU, where it costs little; float32 elsewhere."""
    return values.double() if values.device.type == "cpu" else values


def _component(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projection on the first principal component of any sign (B, hw), Σ_k of the centred rows (B, hw), finite (B,)."""
    rows, finite = _rows(values)
    scale = rows.abs().amax(dim=(1, 2), keepdim=True)
    rows = rows / torch.where(scale == 0, torch.ones_like(scale), scale)
    wide = _wide(rows)
    if rows.shape[1] <= rows.shape[2]:
        eigenvalues, eigenvectors = torch.linalg.eigh(wide @ wide.transpose(1, 2))
        component = eigenvectors[:, :, -1] * eigenvalues[:, -1:].clamp(min=0).sqrt()
    else:
        component = (wide @ torch.linalg.eigh(wide.transpose(1, 2) @ wide).eigenvectors[:, :, -1:])[:, :, 0]
    return (component * scale[:, 0]).float(), rows.sum(dim=2), finite


def _map(component: Tensor, finite: Tensor, values: Tensor) -> Tensor:
    shown = torch.where(finite[:, None], component, torch.full_like(component, torch.nan))
    return shown.reshape(len(values), *values.shape[2:])


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
    component, direction, finite = _component(values)
    return _map(_towards(component, direction), finite, values)


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
    component, _, finite = _component(values)
    flipped = -component.amin(dim=1, keepdim=True) > component.amax(dim=1, keepdim=True)
    return _map(torch.where(flipped, -component, component), finite, values)


@cam("kpca-cam", needs="activations", signed=True, source="Karmani et al., arXiv 2410.00267", year=2024)
def kpca_cam(evidence: Evidence) -> Tensor:
    """KPCA-CAM: the first kernel principal component of A's positions, sigmoid kernel, with a canonical sign.

    X is (hw, C) with centred columns, K = tanh(X·Xᵀ/C + 1), centred in both directions; the map is √λ_1·α_1 of its
    largest eigenvalue. Deviation: the sign is fixed as Eigen-CAM's is.

    References:
        Karmani et al. 2024, arXiv 2410.00267; grad-cam 1.5, `KPCA_CAM`.
    """
    rows, finite = _rows(evidence.activations)
    wide = rows.double()
    kernel = torch.tanh(wide @ wide.transpose(1, 2) / rows.shape[2] + 1)
    means = kernel.mean(dim=1, keepdim=True)
    centred = kernel - means - means.transpose(1, 2) + kernel.mean(dim=(1, 2), keepdim=True)
    eigenvalues, eigenvectors = torch.linalg.eigh(centred)
    component = (eigenvectors[:, :, -1] * eigenvalues[:, -1:].clamp(min=0).sqrt()).float()
    return _map(_towards(component, rows.sum(dim=2)), finite, evidence.activations)
