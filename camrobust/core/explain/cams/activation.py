"""Methods that weight the channels by the activations alone or by the weights of the head.

Symbols: A activations (B, C, h, w), Σ_s and mean_s over positions, k a channel, c the explained class.
"""

from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams.registry import cam
from camrobust.core.explain.evidence import Evidence


@cam(
    "cam",
    needs="head",
    returns="weights",
    signed=True,
    source="Zhou et al., arXiv 1512.04150",
    year=2016,
    differentiable=True,
)
def class_activation_map(evidence: Evidence) -> Tensor:
    """CAM: w_k = fc_w[c, k]; Σ_k w_k·A_k, for models that end in global average pooling and one linear layer.

    As published, without the bias and without a ReLU.

    Raises:
        UserError: the model has another head.

    References:
        Zhou et al. 2016, arXiv 1512.04150, equation 2.
    """
    if evidence.head is None:
        raise UserError(
            f"cam: behind '{evidence.network.layer_name}' there must be global average pooling and one linear layer "
            "alone; choose gradcam, which equals it there and works everywhere"
        )
    return evidence.head.weight[evidence.targets].float()


@cam("fem", needs="activations", returns="weights", source="Fuad et al., IPTA 2020", year=2020)
def fem(evidence: Evidence) -> Tensor:
    """FEM: w_k = mean_s[A_k > μ_k + 2σ_k], the share of exceptional positions; ReLU Σ_k w_k·A_k.

    μ_k and σ_k are the mean and the population standard deviation of channel k over positions.

    References:
        Fuad et al. 2020, "Features understanding in 3D CNNs for actions recognition in video", IPTA; k = 2.
    """
    A = evidence.activations
    centred = A - A.mean(dim=(2, 3), keepdim=True)
    return (centred > 2 * centred.square().mean(dim=(2, 3), keepdim=True).sqrt()).float().mean(dim=(2, 3))
