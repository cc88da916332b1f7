"""Methods that use the first principal component; see `core.explain.components`."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.components import centred, first_components, leading, with_canonical_sign
from camrobust.core.explain.evidence import Evidence


@cam(
    "eigencam",
    needs="activations",
    returns="values",
    signed=True,
    source="Muhammad & Yeasin, arXiv 2008.00299",
    year=2020,
)
def eigencam(evidence: Evidence) -> Tensor:
    """Eigen-CAM: the first principal component of A over channels, with a fixed sign (see `first_components`).

    Deviation: the columns are centred (as in grad-cam) and the sign is fixed. The map is signed, without a ReLU.

    References:
        Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    return evidence.activations


@cam("eigengradcam", needs="gradients", returns="values", signed=True, source="Gildenblat, pytorch-grad-cam", year=2021)
def eigengradcam(evidence: Evidence) -> Tensor:
    """Eigen-Grad-CAM: the first principal component of g·A over channels, with a fixed sign.

    References:
        Gildenblat, grad-cam 1.5, `EigenGradCAM`.
    """
    return evidence.product


@cam("seg-eigencam", needs="gradients", signed=True, source="Chung & Ying, doi 10.3390/app15137562", year=2025)
def seg_eigencam(evidence: Evidence) -> Tensor:
    """Seg-Eigen-CAM: the first principal component of |g|·A over channels.

    The sign rule is that of the paper: flipped if |min| > |max|. If the two are close, noise can flip the map.

    References:
        Chung & Ying 2025, Applied Sciences 15 (13), 7562, equations 10 to 13.
    """
    (component,) = first_components([evidence.gradients.abs() * evidence.activations])
    flipped = -component.amin(dim=(1, 2), keepdim=True) > component.amax(dim=(1, 2), keepdim=True)
    return torch.where(flipped, -component, component)


@cam("kpca-cam", needs="activations", signed=True, source="Karmani et al., arXiv 2410.00267", year=2024)
def kpca_cam(evidence: Evidence) -> Tensor:
    """KPCA-CAM: the first kernel principal component of A's positions, sigmoid kernel, with a fixed sign.

    X is (hw, C) with centred columns, K = tanh(X·Xᵀ/C + 1), centred in both directions; the map is √λ_1·α_1 of its
    largest eigenvalue. Deviation: the sign is fixed as for Eigen-CAM.

    References:
        Karmani et al. 2024, arXiv 2410.00267; grad-cam 1.5, `KPCA_CAM`.
    """
    A = evidence.activations
    rows = A.flatten(2).double()
    kernel = torch.tanh(centred(torch.bmm(rows.mT, rows)) / A.shape[1] + 1)
    axis, eigenvalue = leading(centred(kernel), definite=False)
    component = with_canonical_sign(axis * eigenvalue.clamp(min=0).sqrt(), rows.sum(dim=1))
    return component.float().reshape(-1, *A.shape[2:])
