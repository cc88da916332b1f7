"""Methods that take the first principal component, from the small (hw, hw) Gram matrix instead of a full SVD."""

import torch
from torch import Tensor

from camrobust.core.cams.catalogue import cam
from camrobust.core.evidence import Evidence


def first_component(values: Tensor) -> Tensor:
    """Projection of every position on the first principal component over channels.

    With X the (hw, C) matrix of one image, each column centred, X = U·Σ·Vᵀ, the map is X·v_1 = σ_1·u_1; u_1 is the
    leading eigenvector of X·Xᵀ, which is (hw, hw). The sign of a component is arbitrary and would flip under noise, so
    it is made canonical: the map correlates positively with Σ_k of the values.

    Args:
        values: (B, C, h, w) float32.

    Returns:
        (B, h, w) float32; NaN for an image whose values are not all finite.
    """
    B, _, h, w = values.shape
    rows = values.flatten(2).transpose(1, 2)
    rows = rows - rows.mean(dim=1, keepdim=True)
    finite = torch.isfinite(rows).all(dim=2).all(dim=1)
    rows = torch.where(finite[:, None, None], rows, torch.zeros_like(rows))
    scale = rows.abs().amax(dim=(1, 2), keepdim=True)
    rows = rows / torch.where(scale == 0, torch.ones_like(scale), scale)
    gram = rows.double() @ rows.double().transpose(1, 2) if rows.device.type == "cpu" else rows @ rows.transpose(1, 2)
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    length = eigenvalues[:, -1].clamp(min=0).sqrt() * scale[:, 0, 0]
    component = (eigenvectors[:, :, -1] * length[:, None]).float()
    towards = (component * rows.sum(dim=2)).sum(dim=1)
    component = torch.where(towards < 0, -1.0, 1.0)[:, None] * component
    component = torch.where(finite[:, None], component, torch.full_like(component, torch.nan))
    return component.reshape(B, h, w)


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
