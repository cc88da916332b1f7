"""The same methods by other libraries, where they are installed: opponents of `camrobust bench --peers`.

Each is called as its users call it: on a model that is not frozen, one method after the other. Ablation-CAM and
Score-CAM are left out: they run the whole model once per channel there, some 2,000 passes of a ResNet-50.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from camrobust.models import Model

GRAD_CAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "xgradcam": "XGradCAM", "hirescam": "HiResCAM",
    "layercam": "LayerCAM", "gradcam-elementwise": "GradCAMElementWise", "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM", "seg-eigencam": "SegEigenCAM", "kpca-cam": "KPCA_CAM", "fem": "FEM",
    "shapleycam": "ShapleyCAM", "finercam": "FinerCAM", "random": "RandomCAM", "fullgrad": "FullGrad",
}  # fmt: skip
TORCHCAM = {
    "cam": "CAM", "gradcam": "GradCAM", "gradcam++": "GradCAMpp", "xgradcam": "XGradCAM", "layercam": "LayerCAM",
    "finercam": "FinerCAM", "smoothgradcam++": "SmoothGradCAMpp",
}  # fmt: skip
SHARED = tuple(sorted({*GRAD_CAM, *TORCHCAM}))
"""Methods that we and one of them have."""

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
    library = import_module("pytorch_grad_cam")
    work: Work = {}
    for name, method in GRAD_CAM.items():
        module = _own(model)
        layers = [] if name == "fullgrad" else [module.get_submodule(model.network.layer_name)]
        explainer = getattr(library, method)(model=module, target_layers=layers)
        work[name] = partial(explainer, input_tensor=inputs, targets=None)
    return work


def _torchcam(model: Model, inputs: Tensor) -> Work:
    methods = import_module("torchcam.methods")
    work: Work = {}
    for name, method in TORCHCAM.items():
        explainer = getattr(methods, method)(_own(model), model.network.layer_name)
        work[name] = partial(_with_torchcam, explainer, inputs)
    return work


def _with_torchcam(explainer: Any, inputs: Tensor) -> object:
    scores = explainer.model(inputs)
    return explainer(scores.argmax(dim=1).tolist(), scores)


def _captum(model: Model, inputs: Tensor) -> Work:
    module = _own(model)
    explainer = import_module("captum.attr").LayerGradCam(module, module.get_submodule(model.network.layer_name))
    return {"gradcam": partial(_with_captum, explainer, module, inputs)}


def _with_captum(explainer: Any, module: nn.Module, inputs: Tensor) -> object:
    # Its user needs the class first, which is a pass of its own.
    return explainer.attribute(inputs, target=module(inputs).argmax(dim=1), relu_attributions=True)
