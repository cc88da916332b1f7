"""Agreement with grad-cam, torchcam and captum on real photos and real weights, wherever they are sound.

Where they are not, a test shows their fault and our map right.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.core.explain.cams.fullgrad import full_gradients
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.target_layer import build_network
from camrobust.interface.api import explain as explain_images
from camrobust.io.images import decode
from camrobust.measure.builders import ModelSpec
from camrobust.measure.model import load_model, wrap
from tests.reference.cams import REFERENCE

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore")]

MODELS = {
    "resnet18": ("torchvision:resnet18", "resnet18_ktb_small", None),
    "resnet18-layer3": ("torchvision:resnet18", "resnet18_ktb_small", "layer3"),
    "mobilenet_v2": ("torchvision:mobilenet_v2", "mobilenet_v2_coral", None),
    "squeezenet1_1": ("torchvision:squeezenet1_1", "squeezenet1_1_onnxzoo", None),
    "lite0": ("timm:tf_efficientnet_lite0", "tf_efficientnet_lite0_timm", None),
    "vit_b_16": ("torchvision:vit_b_16@none", None, None),
    "swin_t": ("torchvision:swin_t@none", None, None),
    # Not at `features`: the in-place ReLU behind it misleads the peers there, as on VGG below.
    "densenet121": ("torchvision:densenet121@none", None, "features.denseblock4"),
    "vgg16": ("torchvision:vgg16@none", None, None),
    "inception_v3": ("torchvision:inception_v3@none", None, None),
}
PGC = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "seg-eigencam": "SegEigenCAM",
    "kpca-cam": "KPCA_CAM",
    "fem": "FEM",
    "shapleycam": "ShapleyCAM",
}
TORCHCAM = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}


@pytest.fixture(scope="module", params=MODELS)
def case(request, shared_data):
    builder, file, layer = MODELS[request.param]
    if file is None:
        torch.manual_seed(0)
        model = load_model(ModelSpec(request.param, builder, None, layer))
        for parameter in model.network.module.parameters():
            if not parameter.any():
                parameter.data = torch.randn_like(parameter) * 0.05
        model = wrap(model.network.module, name=request.param, target_layer=layer)
    else:
        path = shared_data / "weights" / f"{file}.safetensors"
        model = load_model(ModelSpec(request.param, builder, str(path), layer), path.read_bytes())
    photos = sorted((shared_data / "images").iterdir())[: 32 if file else 16 : 16]
    pixels = torch.stack([torch.from_numpy(decode(path.read_bytes(), 256, 224).pixels) for path in photos])
    inputs = model.normalise(pixels)
    evidence = collect(model.network, inputs)
    names = sorted({*CLASSIC, *PGC, "finercam"} - {"random", "ablationcam"})
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
            explainer = getattr(pytorch_grad_cam, method)(
                model.network.module, [model.network.layer], reshape_transform=model.network.layout.to_map
            )
            kept = []
            original = explainer.get_cam_image

            def keep(*arguments):
                kept.append(original(*arguments))
                return kept[-1]

            explainer.get_cam_image = keep
            targets = [ClassifierOutputTarget(int(target)) for target in evidence.targets]
            with sdpa_kernel(SDPBackend.MATH):  # the fused one has no second derivative, which ShapleyCAM needs
                explainer(inputs.clone(), targets)
            # Its own release() fails on tokens, whose gradients are views.
            held = explainer.activations_and_grads
            held.activations, held.gradients = [], []
            held.release()
    finally:
        for parameter in model.network.module.parameters():
            parameter.requires_grad_(False)
    return torch.as_tensor(kept[0]).detach().float()


@pytest.mark.parametrize("name", PGC)
def test_equals_grad_cam(name, case):
    if name == "shapleycam" and case[0].network.layout.order != "map":
        return  # grad-cam 1.5.7 refuses tokens there: "Invalid activation shape", whatever reshape_transform says
    if name == "kpca-cam" and case[0].name == "inception_v3":
        return  # with random weights the sigmoid kernel is constant within float32, in which grad-cam computes it
    theirs = peer_maps(PGC[name], case)
    ours = case[3][name]
    if not CAMS[name].signed:
        # Sums over tokens, which have both signs, come near 0: dividing by them loses digits on both sides.
        lost = name == "xgradcam" and case[0].network.layout.order != "map"
        assert difference(ours, theirs.relu()) <= (1e-3 if lost else 1e-4)
    else:
        for mine, other in zip(ours, theirs, strict=True):
            assert min(difference(mine[None], other[None]), difference(mine[None], -other[None])) <= 1e-4


@pytest.mark.parametrize("name", TORCHCAM)
def test_equals_torchcam(name, case):
    from torchcam import methods

    model, inputs, evidence, maps = case
    if model.network.layout.order != "map":
        return
    with getattr(methods, TORCHCAM[name])(model.network.module, model.network.layer_name) as explainer:
        scores = model.network.module(inputs.clone().requires_grad_())
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(maps[name], theirs.detach()) <= 1e-4


def test_cam_and_finercam_equal_torchcams(case):
    from torchcam import methods

    model, inputs, evidence, maps = case
    targets = [int(target) for target in evidence.targets]
    if model.network.layout.order == "map":
        with methods.FinerCAM(model.network.module, model.network.layer_name) as explainer:
            scores = model.network.module(inputs.clone().requires_grad_())
            theirs = explainer(targets, scores, normalized=False)[0]
        assert difference(maps["finercam"], theirs.detach()) <= 1e-4
    if model.name in ("resnet18", "mobilenet_v2"):
        head = {"resnet18": "fc", "mobilenet_v2": "classifier.1"}[model.name]
        with methods.CAM(model.network.module, model.network.layer_name, head) as explainer:
            model.network.module(inputs)
            theirs = explainer(targets, normalized=False)[0]
        assert difference(CAMS["cam"].function(evidence), theirs.detach()) <= 1e-4


def test_gradcam_equals_captums(case):
    from captum.attr import LayerGradCam

    model, inputs, evidence, maps = case
    if model.network.layout.order != "map":
        return
    explainer = LayerGradCam(model.network.module, model.network.layer)
    theirs = explainer.attribute(inputs.clone().requires_grad_(), target=evidence.targets, relu_attributions=True)
    assert difference(maps["gradcam"], theirs[:, 0].detach()) <= 1e-4


def test_legrad_equals_torchcams(case):
    from torchcam.methods import LeGrad

    model, inputs, evidence, _ = case
    if model.name != "vit_b_16":
        return
    with LeGrad(model.network.module, list(model.network.module.encoder.layers)) as explainer:
        scores = model.network.module(inputs)
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(CAMS["legrad"].function(evidence), theirs) <= 1e-4


def test_fullgrad_equals_grad_cams_with_its_epsilon_put_back(case):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, evidence, _ = case
    if model.name not in ("resnet18", "densenet121"):
        return
    module = model.network.module.requires_grad_(True)
    explainer = pytorch_grad_cam.FullGrad(module, [])
    kept = []
    original = explainer.compute_cam_per_layer
    explainer.compute_cam_per_layer = lambda *arguments: kept.append(original(*arguments)) or kept[-1]
    try:
        explainer(inputs.clone(), [ClassifierOutputTarget(int(target)) for target in evidence.targets])
    finally:
        explainer.activations_and_grads.release()
        module.requires_grad_(False)
    theirs = torch.as_tensor(kept[0]).float()[:, 0]
    total = torch.zeros_like(theirs)
    for one in (lambda inputs, biases: [inputs, *biases])(*full_gradients(evidence)):
        size = one.abs() - one.abs().amin(dim=(2, 3), keepdim=True)
        scaled_ = (size / (size.amax(dim=(2, 3), keepdim=True) + 1e-7)).sum(dim=1, keepdim=True)
        total += interpolate(scaled_, size=total.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    assert difference(total, theirs) <= 1e-4
    # Without the ε the map is another one where gradients are small, and it is the formula's.
    whole = adaptive_avg_pool2d(theirs[:, None], evidence.activations.shape[2:])[:, 0]
    assert difference(CAMS["fullgrad"].function(evidence), whole) < 0.2


def test_ablation_equals_grad_cam_where_its_baseline_is_zero(case):
    # grad-cam ablates to the layer's minimum, not to 0: the same thing only where that minimum is 0. It runs the whole
    # model once per channel, so the two models with 512 channels must do.
    model, _, evidence, _ = case
    if model.name not in ("resnet18", "squeezenet1_1"):
        return
    assert float(evidence.activations.min()) == 0
    theirs = peer_maps("AblationCAM", case)
    assert difference(CAMS["ablationcam"].function(evidence), theirs.relu()) <= 1e-4


def test_gradcam_plus_plus_equals_grad_cam_with_its_epsilon_put_back(case):
    # grad-cam adds 1e-6 to a denominator around 1e-8; with the same ε our formula gives its map.
    _, _, evidence, maps = case
    theirs = peer_maps("GradCAMPlusPlus", case)
    A, g = evidence.activations, evidence.gradients
    alpha = g**2 / (2 * g**2 + A.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6)
    weights = (torch.where(g != 0, alpha, 0) * g.relu()).sum(dim=(2, 3))
    assert difference(torch.einsum("bc,bchw->bhw", weights, A).relu(), theirs.relu()) <= 1e-4
    for one in range(len(A)):
        wanted = REFERENCE["gradcam++"](A[one].double().numpy(), g[one].double().numpy())
        assert difference(maps["gradcam++"][one : one + 1], torch.as_tensor(wanted).float()[None]) <= 1e-4


def test_torchcams_gradcam_plus_plus_is_not_the_formula(case):
    # It divides a copy in place, so that α is g² alone.
    from torchcam import methods

    model, inputs, evidence, maps = case
    if model.name != "resnet18":
        return
    with methods.GradCAMpp(model.network.module, model.network.layer_name) as explainer:
        scores = model.network.module(inputs.clone().requires_grad_())
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0].detach()
    wanted = torch.stack(
        [
            torch.as_tensor(REFERENCE["gradcam++"](A.double().numpy(), g.double().numpy())).float()
            for A, g in zip(evidence.activations, evidence.gradients, strict=True)
        ]
    )
    assert difference(maps["gradcam++"], wanted) <= 1e-4
    assert difference(theirs, wanted) > 1e-3


def test_torchcams_smoothgradcam_plus_plus_weighs_the_last_noisy_activations(case):
    # The paper weighs the clean ones, and so do we: against a plain loop in test_cams_methods.
    from torchcam import methods

    model, inputs, evidence, _ = case
    if model.name != "resnet18":
        return
    torch.manual_seed(0)
    with methods.SmoothGradCAMpp(model.network.module, model.network.layer_name) as explainer:
        explainer.model(inputs.clone().requires_grad_())
        weights, weigh = [], explainer._get_weights
        explainer._get_weights = lambda *given, **named: weights.append(weigh(*given, **named)) or weights[-1]
        theirs = explainer([int(target) for target in evidence.targets], normalized=False)[0].detach()
        last = explainer.hook_a[0].detach()

    def weighed(activations):
        return torch.einsum("bc,bchw->bhw", weights[0][0].detach(), activations).relu()

    assert difference(theirs, weighed(last)) <= 1e-4
    assert difference(theirs, weighed(evidence.activations)) > 1e-2


def test_grad_cam_gives_blank_maps_where_targets_are_missing_and_we_refuse(case):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, evidence, maps = case
    if model.name != "resnet18":
        return
    module = model.network.module.requires_grad_(True)
    try:
        with pytorch_grad_cam.GradCAM(module, [model.network.layer]) as explainer:
            theirs = explainer(inputs.clone(), [ClassifierOutputTarget(int(evidence.targets[0]))])
    finally:
        module.requires_grad_(False)
    assert theirs[0].any()
    assert not theirs[1].any()
    assert maps["gradcam"].flatten(1).any(dim=1).all()
    with pytest.raises(ValueError, match="targets: must be one class per image"):
        explain_images(model, torch.zeros(2, 3, 224, 224), targets=[int(evidence.targets[0])])


def test_an_in_place_relu_behind_the_layer_misleads_grad_cam_and_not_us(case):
    model, inputs, _, _ = case
    if model.name != "vgg16":
        return
    net = build_network(model.network.module, inputs, "features.28")
    evidence = collect(net, inputs)
    with torch.no_grad():
        wanted = model.network.module.features[:29](inputs)
    torch.testing.assert_close(evidence.activations, wanted)
    theirs = peer_maps("GradCAM", (replace(model, network=net), inputs, evidence, {}))
    assert difference(CAMS["gradcam"].function(evidence), theirs.relu()) > 1e-2


def test_grad_cam_leaves_gradients_on_parameters_and_we_do_not(case):
    model, inputs, _, _ = case
    if model.name != "resnet18":
        return
    module = model.network.module
    for parameter in module.parameters():
        parameter.grad = None
    peer_maps("GradCAM", case)
    assert any(parameter.grad is not None for parameter in module.parameters())
    for parameter in module.parameters():
        parameter.grad = None
    collect(model.network, inputs)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_shortcuts_equal_the_re_run_tail(case):
    model, _, evidence, _ = case
    plain = ("squeezenet1_1", "resnet18-layer3", "vit_b_16", "densenet121", "vgg16")
    assert (model.network.head is None) == (model.name in plain)
    assert (model.network.first_affine is not None) == (model.name in ("squeezenet1_1", "densenet121", "vgg16"))
    if model.name not in ("resnet18", "squeezenet1_1"):
        return
    short = CAMS["ablationcam"].function(evidence)
    evidence.head, head = None, evidence.head
    evidence.network, network = replace(evidence.network, first_affine=None), evidence.network
    again = CAMS["ablationcam"].function(evidence)
    evidence.head, evidence.network = head, network
    assert difference(short, again) <= 1e-4
