"""Agreement with grad-cam and torchcam on real photos and real weights, wherever cams.md calls them sound."""

import warnings

import pytest
import torch

from camrobust.core.cams import CAMS, CLASSIC
from camrobust.core.evidence import collect, explain
from camrobust.io.images import decode
from camrobust.models import ModelSpec, load_model

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore")]

MODELS = {
    "resnet18": ("torchvision:resnet18", "resnet18_ktb_small", None),
    "resnet18-layer3": ("torchvision:resnet18", "resnet18_ktb_small", "layer3"),
    "mobilenet_v2": ("torchvision:mobilenet_v2", "mobilenet_v2_coral", None),
    "squeezenet1_1": ("torchvision:squeezenet1_1", "squeezenet1_1_onnxzoo", None),
    "lite0": ("timm:tf_efficientnet_lite0", "tf_efficientnet_lite0_timm", None),
}
PGC = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
TORCHCAM = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}


@pytest.fixture(scope="module", params=MODELS)
def case(request, shared_data):
    builder, file, layer = MODELS[request.param]
    path = shared_data / "weights" / f"{file}.safetensors"
    model = load_model(ModelSpec(request.param, builder, str(path), layer), path.read_bytes())
    photos = sorted((shared_data / "images").iterdir())[:32:16]
    pixels = torch.stack([torch.from_numpy(decode(path.read_bytes()).pixels) for path in photos])
    inputs = model.normalise(pixels)
    evidence = collect(model.network, inputs)
    names = [name for name in CLASSIC if name != "random"]
    maps = explain(evidence, [CAMS[name].function for name in names])
    return model, inputs, evidence, {name: maps[:, place] for place, name in enumerate(names)}


def scaled(maps):
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)


def difference(ours, theirs):
    return float((scaled(ours) - scaled(theirs)).abs().max())


def peer_maps(method, case):
    """grad-cam's own low-resolution maps of all images: its ReLU and scaling are left to us."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, evidence, _ = case
    for parameter in model.network.module.parameters():
        parameter.requires_grad_(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explainer = getattr(pytorch_grad_cam, method)(model.network.module, [model.network.layer])
            kept = []
            original = explainer.get_cam_image

            def keep(*arguments):
                kept.append(original(*arguments))
                return kept[-1]

            explainer.get_cam_image = keep
            targets = [ClassifierOutputTarget(int(target)) for target in evidence.targets]
            explainer(inputs.clone(), targets)
            explainer.activations_and_grads.release()
    finally:
        for parameter in model.network.module.parameters():
            parameter.requires_grad_(False)
    return torch.from_numpy(kept[0]).float()


@pytest.mark.parametrize("name", PGC)
def test_equals_grad_cam(name, case):
    theirs = peer_maps(PGC[name], case)
    ours = case[3][name]
    if not CAMS[name].signed:
        assert difference(ours, theirs.relu()) <= 1e-4
    else:
        for mine, other in zip(ours, theirs, strict=True):
            assert min(difference(mine[None], other[None]), difference(mine[None], -other[None])) <= 1e-4


@pytest.mark.parametrize("name", TORCHCAM)
def test_equals_torchcam(name, case):
    from torchcam import methods

    model, inputs, evidence, maps = case
    with getattr(methods, TORCHCAM[name])(model.network.module, model.network.layer_name) as explainer:
        scores = model.network.module(inputs.clone().requires_grad_())
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(maps[name], theirs.detach()) <= 1e-4


def test_ablation_equals_grad_cam_where_its_baseline_is_zero(case):
    # grad-cam ablates to the layer's minimum, not to 0: the same thing only where that minimum is 0. It runs the whole
    # model once per channel, so the two models with 512 channels must do.
    model, _, evidence, maps = case
    if model.name not in ("resnet18", "squeezenet1_1"):
        return
    assert float(evidence.activations.min()) == 0
    theirs = peer_maps("AblationCAM", case)
    assert difference(maps["ablationcam"], theirs.relu()) <= 1e-4


def test_gradcam_plus_plus_equals_grad_cam_with_its_epsilon_put_back(case):
    # grad-cam adds 1e-6 to a denominator around 1e-8; with the same ε our formula gives its map.
    _, _, evidence, _ = case
    theirs = peer_maps("GradCAMPlusPlus", case)
    A, g = evidence.activations, evidence.gradients
    alpha = g**2 / (2 * g**2 + A.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6)
    weights = (torch.where(g != 0, alpha, 0) * g.relu()).sum(dim=(2, 3))
    assert difference(torch.einsum("bc,bchw->bhw", weights, A).relu(), theirs.relu()) <= 1e-4


def test_closed_form_equals_the_tail_re_run(case):
    model, _, evidence, maps = case
    assert (model.network.head is None) == (model.name in ("squeezenet1_1", "resnet18-layer3"))
    if model.network.head is None:
        return
    evidence.head, head = None, evidence.head
    again = CAMS["ablationcam"].function(evidence)
    evidence.head = head
    assert difference(maps["ablationcam"], again) <= 1e-4
