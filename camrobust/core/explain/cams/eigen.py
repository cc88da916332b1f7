"""Methods that use the first principal component; see `core.explain.components`."""

import torch
from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.components import Components, centred, components, leading
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
    """Eigen-CAM: the first principal component of A over channels, with a fixed sign: that of Σ_k A_k.

    Deviation: the columns are centred (as in grad-cam) and the sign is fixed. The map is signed, without a ReLU.

    Where Σ_k A_k is nearly constant, as behind a layer norm, rounding decides the sign; `eigencam-salient` does not
    depend on it.

    References:
        Muhammad & Yeasin 2020, arXiv 2008.00299.
    """
    return evidence.activations


@cam(
    "eigencam-salient",
    needs="activations",
    returns="salient values",
    signed=True,
    source="Muhammad & Yeasin, arXiv 2008.00299; sign: camrobust",
    year=2026,
)
def eigencam_salient(evidence: Evidence) -> Tensor:
    """Eigen-CAM with another sign: positive where the channels are far from their mean (`with_salient_sign`).

    Under mild noise this sign flips less often than that of `eigencam`: `camrobust bench signs`. Images whose sign or
    component is ambiguous are marked, their rows have the status `ambiguous`.

    References:
        Muhammad & Yeasin 2020, arXiv 2008.00299. The sign rule is ours.
    """
    return evidence.activations


@cam("eigengradcam", needs="gradients", returns="values", signed=True, source="Gildenblat, pytorch-grad-cam", year=2021)
def eigengradcam(evidence: Evidence) -> Tensor:
    """Eigen-Grad-CAM: the first principal component of g·A over channels, with a fixed sign.

    References:
        Gildenblat, grad-cam 1.5, `EigenGradCAM`.
    """
    return evidence.product


@cam(
    "eigengradcam-salient",
    needs="gradients",
    returns="salient values",
    signed=True,
    source="Gildenblat, pytorch-grad-cam; sign: camrobust",
    year=2026,
)
def eigengradcam_salient(evidence: Evidence) -> Tensor:
    """Eigen-Grad-CAM with the sign of `eigencam-salient`.

    References:
        Gildenblat, grad-cam 1.5, `EigenGradCAM`. The sign rule is ours.
    """
    return evidence.product


@cam("seg-eigencam", needs="gradients", signed=True, source="Chung & Ying, doi 10.3390/app15137562", year=2025)
def seg_eigencam(evidence: Evidence) -> Tensor:
    """Seg-Eigen-CAM: the first principal component of |g|·A over channels.

    The sign rule is that of the paper: flipped if |min| > |max|. If the two are close, noise can flip the map.

    References:
        Chung & Ying 2025, Applied Sciences 15 (13), 7562, equations 10 to 13.
    """
    component = components([evidence.gradients.abs() * evidence.activations]).by_sum[0]
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
    return _kernel_components(evidence).by_sum[0]


@cam(
    "kpca-cam-salient",
    needs="activations",
    returns="marked map",
    signed=True,
    source="Karmani et al., arXiv 2410.00267; sign: camrobust",
    year=2026,
)
def kpca_cam_salient(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """KPCA-CAM with the sign of `eigencam-salient`.

    References:
        Karmani et al. 2024, arXiv 2410.00267. The sign rule is ours.
    """
    (component,), (ambiguous,) = _kernel_components(evidence).salient
    return component, ambiguous


def _kernel_components(evidence: Evidence) -> Components:
    """The first kernel principal component of A's positions; computed once for both signs."""
    if "kpca" not in evidence.cache:
        A = evidence.activations
        rows = A.flatten(2).double()
        kernel = torch.tanh(centred(torch.bmm(rows.mT, rows)) / A.shape[1] + 1)
        axis, first, second = leading(centred(kernel), definite=False)
        shape = (1, len(A), *A.shape[2:])
        evidence.cache["kpca"] = Components(rows, axis * first.clamp(min=0).sqrt(), (first, second), shape)
    found: Components = evidence.cache["kpca"]
    return found
