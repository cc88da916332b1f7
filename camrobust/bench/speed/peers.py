"""The same methods by other libraries, where they are installed: opponents of `camrobust bench peers`.

Each is called as its users call it: on a model that is not frozen, one method after the other. Ablation-CAM and
Score-CAM are left out: they run the whole model once per channel there, some 2,000 passes of a ResNet-50. So is
FullGrad, which there holds every channel of a layer at the size of the image, 13 GiB of 32 images.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from camrobust.measure.model import Model

GRAD_CAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "xgradcam": "XGradCAM", "hirescam": "HiResCAM",
    "layercam": "LayerCAM", "gradcam-elementwise": "GradCAMElementWise", "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM", "seg-eigencam": "SegEigenCAM", "kpca-cam": "KPCA_CAM", "fem": "FEM",
    "shapleycam": "ShapleyCAM", "finercam": "FinerCAM", "random": "RandomCAM",
}  # fmt: skip
TORCHCAM = {
    "cam": "CAM", "gradcam": "GradCAM", "gradcam++": "GradCAMpp", "xgradcam": "XGradCAM", "layercam": "LayerCAM",
    "finercam": "FinerCAM", "smoothgradcam++": "SmoothGradCAMpp",
}  # fmt: skip
SHARED = tuple(sorted({*GRAD_CAM, *TORCHCAM}))
"""Methods that we and one of them have."""
SEVEN = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam")
"""What users of grad-cam compare with one another: a pass each there, one for all here."""

Work = dict[str, Callable[[], object]]


def peers(model: Model, inputs: Tensor) -> Work:
    """What to time, by "LIBRARY: METHOD".

    Args:
        model: a classifier with global average pooling and one linear layer.
        inputs: (B, 3, H, W) normalised.
    """
    work: Work = {}
    for library, build in (("grad-cam", _grad_cam), ("torchcam", _torchcam), ("captum", _captum)):
        try:
            found = build(model, inputs)
        except ImportError:
            continue
        work |= {f"{library}: {name}": one for name, one in found.items()}
    return work


def _own(model: Model) -> nn.Module:
    """A copy that is not frozen, as users have it."""
    return deepcopy(model.network.module).requires_grad_(True)


def _grad_cam(model: Model, inputs: Tensor) -> Work:
    library, module = import_module("pytorch_grad_cam"), _own(model)
    layer = module.get_submodule(model.network.layer_name)
    return {
        name: partial(_with_grad_cam, getattr(library, method), module, layer, inputs)
        for name, method in GRAD_CAM.items()
    }


def _with_grad_cam(method: Any, module: nn.Module, layer: nn.Module, inputs: Tensor) -> object:
    # Its hooks hold the pass with all that the layers kept: an explainer that stays costs a GiB.
    with method(model=module, target_layers=[layer]) as explainer:
        return explainer(input_tensor=inputs, targets=None)


def _torchcam(model: Model, inputs: Tensor) -> Work:
    methods, module = import_module("torchcam.methods"), _own(model)
    return {
        name: partial(_with_torchcam, getattr(methods, method), module, model.network.layer_name, inputs)
        for name, method in TORCHCAM.items()
    }


def _with_torchcam(method: Any, module: nn.Module, layer: str, inputs: Tensor) -> object:
    with method(module, layer) as explainer:
        scores = module(inputs)
        return explainer(scores.argmax(dim=1).tolist(), scores)


def _captum(model: Model, inputs: Tensor) -> Work:
    module = _own(model)
    explainer = import_module("captum.attr").LayerGradCam(module, module.get_submodule(model.network.layer_name))
    return {"gradcam": partial(_with_captum, explainer, module, inputs)}


def _with_captum(explainer: Any, module: nn.Module, inputs: Tensor) -> object:
    # Its user needs the class first, which is a pass of its own.
    return explainer.attribute(inputs, target=module(inputs).argmax(dim=1), relu_attributions=True)
