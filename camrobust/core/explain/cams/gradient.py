"""Methods that weight the activations by the gradient of the explained logit.

Symbols: A activations (B, C, h, w), g = ∂y_c/∂A, y the logit, c the explained class, Σ_s and mean_s over positions,
S = Σ_s A, k a channel. The maps (B, h, w) are raw, float32, before any display normalisation.
"""

from torch import Tensor

from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence
from camrobust.core.scaling import ratio


@cam(
    "gradcam",
    needs="gradients",
    returns="weights",
    source="Selvaraju et al., arXiv 1610.02391",
    year=2017,
    differentiable=True,
)
def gradcam(evidence: Evidence) -> Tensor:
    """Grad-CAM: w_k = mean_s(g_k); ReLU Σ_k w_k·A_k.

    References:
        Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.
    """
    return evidence.mean_gradients


@cam(
    "gradcam++",
    needs="gradients",
    returns="weights",
    source="Chattopadhay et al., arXiv 1710.11063",
    year=2018,
    differentiable=True,
)
def gradcam_plus_plus(evidence: Evidence) -> Tensor:
    """Grad-CAM++: w = Σ_s α·ReLU(g), α = g²/(2g² + S·g³), 0 where g = 0; ReLU Σ_k w_k·A_k.

    Where g > 0, α·g = g/(2 + S·g). This form is computed because it keeps gradients of 1e-6, which g³ in the
    denominator, or an ε added to it (as in other libraries), would lose.

    References:
        Chattopadhay et al. 2018, arXiv 1710.11063, equation 19 with the exponential score.
    """
    return plus_plus_weights(evidence.sums, evidence.positive_gradients)


def plus_plus_weights(sums: Tensor, gradients: Tensor) -> Tensor:
    """The weights (B, C) of Grad-CAM++ for S (B, C) and ReLU(g) (B, C, h, w)."""
    return ratio(gradients, (sums[:, :, None, None] * gradients).add_(2)).sum(dim=(2, 3))


@cam(
    "xgradcam",
    needs="gradients",
    returns="weights",
    source="Fu et al., arXiv 2008.02312",
    year=2020,
    differentiable=True,
)
def xgradcam(evidence: Evidence) -> Tensor:
    """XGrad-CAM: w_k = Σ_s(g_k·A_k)/S_k; ReLU Σ_k w_k·A_k. A channel whose activations sum to 0 has weight 0.

    References:
        Fu et al. 2020, arXiv 2008.02312, equation 8.
    """
    return ratio(evidence.product.sum(dim=(2, 3)), evidence.sums)


@cam("hirescam", needs="gradients", source="Draelos & Carin, arXiv 2011.08891", year=2020, differentiable=True)
def hirescam(evidence: Evidence) -> Tensor:
    """HiResCAM: ReLU Σ_k g_k·A_k, the element-wise product summed over channels.

    References:
        Draelos & Carin 2020, arXiv 2011.08891, equation 5.
    """
    return evidence.product.sum(dim=1).relu()


@cam("layercam", needs="gradients", source="Jiang et al., IEEE TIP 30", year=2021, differentiable=True)
def layercam(evidence: Evidence) -> Tensor:
    """LayerCAM: ReLU Σ_k ReLU(g_k)·A_k.

    References:
        Jiang et al. 2021, IEEE Transactions on Image Processing 30, 5875-5888, equations 6 and 7.
    """
    return (evidence.positive_gradients * evidence.activations).sum(dim=1).relu()


@cam("gradcam-elementwise", needs="gradients", source="Gildenblat, pytorch-grad-cam", year=2021, differentiable=True)
def gradcam_elementwise(evidence: Evidence) -> Tensor:
    """Element-wise Grad-CAM: Σ_k ReLU(g_k·A_k).

    References:
        Gildenblat, grad-cam 1.5, `GradCAMElementWise`.
    """
    return evidence.product.relu().sum(dim=1)
