"""The same methods in other libraries, as far as they are installed, for `camrobust bench peers`.

Each library is called as its users call it: on a model that is not frozen, one method after the other. Some of its
methods are left out: Ablation-CAM and Score-CAM run the whole model once per channel, some 2,000 passes of a ResNet-50.
FullGrad holds every channel of a layer at the size of the image, 13 GiB for 32 images.
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
"""Methods that both we and one of these libraries have."""
SEVEN = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam")
"""Methods that users of grad-cam compare: it needs one pass for each, we need one pass for all."""

Work = dict[str, Callable[[], object]]


def peers(model: Model, inputs: Tensor) -> Work:
    """The work to time, by "LIBRARY: METHOD".

    Args:
        model: a classifier with global average pooling and one linear layer.
        inputs: (B, 3, H, W) normalised.
    """
    work: Work = {}
    for library, build in (("grad-cam", _grad_cam), ("torchcam", _torchcam), ("captum", _captum)):
        try:
            methods = build(model, inputs)
        except ImportError:
            continue
        work |= {f"{library}: {name}": method for name, method in methods.items()}
    return work


def _own(model: Model) -> nn.Module:
    """A copy of the model that is not frozen, as users have it."""
    return deepcopy(model.network.module).requires_grad_(True)


def _grad_cam(model: Model, inputs: Tensor) -> Work:
    library, module = import_module("pytorch_grad_cam"), _own(model)
    layer = module.get_submodule(model.network.layer_name)
    return {
        name: partial(_with_grad_cam, getattr(library, method), module, layer, inputs)
        for name, method in GRAD_CAM.items()
    }


def _with_grad_cam(method: Any, module: nn.Module, layer: nn.Module, inputs: Tensor) -> object:
    # An explainer's hooks hold everything that the layers keep for a backward pass: about a GiB if it is not closed.
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
    # Users need the predicted class first, which takes another pass.
    return explainer.attribute(inputs, target=module(inputs).argmax(dim=1), relu_attributions=True)
