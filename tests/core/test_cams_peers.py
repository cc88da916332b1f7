"""Comparison with grad-cam, torchcam and captum on real photos and real weights.

Where a peer is wrong, a test shows its fault and that our map is right. By default every comparison is made on two
networks; CAMROBUST_ALL=1 (`make test-all`) adds the others.
"""

import os
import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.cams.fullgrad import full_gradients
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.target_layer import build_network
from camrobust.interface.api import explain as explain_images
from camrobust.io.images import decode
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model, wrap
from tests.reference.cams import REFERENCE

pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore")]

MODELS = {
    "resnet18": ("torchvision:resnet18", "resnet18_ktb_small", None),
    "resnet18-layer3": ("torchvision:resnet18", "resnet18_ktb_small", "layer3"),
    "mobilenet_v2": ("torchvision:mobilenet_v2", "mobilenet_v2_coral", None),
    "squeezenet1_1": ("torchvision:squeezenet1_1", "squeezenet1_1_onnxzoo", None),
    "lite0": ("timm:tf_efficientnet_lite0", "tf_efficientnet_lite0_timm", None),
    "small_vit": ("tests.toys:small_vit", None, None),
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
ALL = bool(os.environ.get("CAMROBUST_ALL"))
TWO = ("squeezenet1_1", "resnet18-layer3")
TOKENS = ("small_vit", "vit_b_16", "swin_t")
MORE_MAPS = [name for name in MODELS if name not in (*TWO, *TOKENS)]
REFUSED = {
    # grad-cam 1.5.7 says "Invalid activation shape" whatever reshape_transform gives.
    *(("shapleycam", network) for network in TOKENS),
    # With random weights the sigmoid kernel is constant within float32, in which grad-cam computes it.
    ("kpca-cam", "inception_v3"),
}


def on(*networks, more=()):
    """Run a test on these networks; under CAMROBUST_ALL=1 also on more."""
    return pytest.mark.parametrize("case", [*networks, *(more if ALL else ())], indirect=True)


def grad_cam_pairs():
    """The methods of grad-cam with the networks that they are compared on."""
    networks = [*TWO, *(MODELS.keys() - {*TWO})] if ALL else TWO
    pairs = [(name, network) for network in sorted(networks) for name in PGC]
    return [pair for pair in dict.fromkeys([*pairs, ("gradcam", "small_vit")]) if pair not in REFUSED]


class Maps(dict):
    """Our maps by the name of the method, each made when a test first asks for it."""

    def __init__(self, evidence):
        super().__init__()
        self.evidence = evidence

    def __missing__(self, name):
        self[name] = explain(self.evidence, [CAMS[name].function])[:, 0]
        return self[name]


@pytest.fixture(scope="module")
def cases(shared_data):
    """Each network with its evidence, made when a test first asks for it.

    As a parametrised fixture of the module, pytest would make it anew for every test of `grad_cam_pairs`.
    """
    found = {}

    def get(name):
        if name not in found:
            found[name] = make_case(name, shared_data)
        return found[name]

    return get


@pytest.fixture
def case(request, cases):
    return cases(request.param)


def make_case(name, shared_data):
    builder, file, layer = MODELS[name]
    if file is None:
        torch.manual_seed(0)
        model = load_model(ModelSpec(name, builder, None, layer))
        for parameter in model.network.module.parameters():
            if not parameter.any():
                parameter.data = torch.randn_like(parameter) * 0.05
        model = wrap(model.network.module, name=name, target_layer=layer)
    else:
        path = shared_data / "weights" / f"{file}.safetensors"
        model = load_model(ModelSpec(name, builder, str(path), layer), path.read_bytes())
    photos = sorted((shared_data / "images").iterdir())[: 32 if file else 16 : 16]
    pixels = torch.stack([torch.from_numpy(decode(path.read_bytes(), 256, 224).pixels) for path in photos])
    inputs = model.normalise(pixels)
    evidence = collect(model.network, inputs)
    return model, inputs, evidence, Maps(evidence)


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


@pytest.mark.parametrize(("name", "case"), grad_cam_pairs(), indirect=["case"])
def test_equals_grad_cam(name, case):
    theirs = peer_maps(PGC[name], case)
    ours = case[3][name]
    if not CAMS[name].signed:
        # Sums over tokens, which have both signs, come near 0: dividing by them loses digits on both sides.
        lost = name == "xgradcam" and case[0].network.layout.order != "map"
        assert difference(ours, theirs.relu()) <= (1e-3 if lost else 1e-4)
    else:
        for mine, other in zip(ours, theirs, strict=True):
            assert min(difference(mine[None], other[None]), difference(mine[None], -other[None])) <= 1e-4


@on(*TWO, more=MORE_MAPS)
@pytest.mark.parametrize("name", TORCHCAM)
def test_equals_torchcam(name, case):
    from torchcam import methods

    model, inputs, evidence, maps = case
    with getattr(methods, TORCHCAM[name])(model.network.module, model.network.layer_name) as explainer:
        scores = model.network.module(inputs.clone().requires_grad_())
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(maps[name], theirs.detach()) <= 1e-4


@on(*TWO, more=MORE_MAPS)
def test_finercam_equals_torchcams(case):
    from torchcam import methods

    model, inputs, evidence, maps = case
    with methods.FinerCAM(model.network.module, model.network.layer_name) as explainer:
        scores = model.network.module(inputs.clone().requires_grad_())
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(maps["finercam"], theirs.detach()) <= 1e-4


@on("resnet18", "mobilenet_v2")
def test_cam_equals_torchcams(case):
    from torchcam import methods

    model, inputs, evidence, _ = case
    head = {"resnet18": "fc", "mobilenet_v2": "classifier.1"}[model.name]
    with methods.CAM(model.network.module, model.network.layer_name, head) as explainer:
        model.network.module(inputs)
        theirs = explainer([int(target) for target in evidence.targets], normalized=False)[0]
    assert difference(CAMS["cam"].function(evidence), theirs.detach()) <= 1e-4


@on(*TWO, more=MORE_MAPS)
def test_gradcam_equals_captums(case):
    from captum.attr import LayerGradCam

    model, inputs, evidence, maps = case
    explainer = LayerGradCam(model.network.module, model.network.layer)
    theirs = explainer.attribute(inputs.clone().requires_grad_(), target=evidence.targets, relu_attributions=True)
    assert difference(maps["gradcam"], theirs[:, 0].detach()) <= 1e-4


@on("small_vit", more=["vit_b_16"])
def test_legrad_equals_torchcams(case):
    from torchcam.methods import LeGrad

    model, inputs, evidence, _ = case
    with LeGrad(model.network.module, list(model.network.module.encoder.layers)) as explainer:
        scores = model.network.module(inputs)
        theirs = explainer([int(target) for target in evidence.targets], scores, normalized=False)[0]
    assert difference(CAMS["legrad"].function(evidence), theirs) <= 1e-4


@on("resnet18", more=["mobilenet_v2", "densenet121"])
def test_fullgrad_equals_grad_cams_with_its_epsilon_put_back(case):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, evidence, _ = case
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
    of_input, of_biases = full_gradients(evidence)
    for gradients in (of_input, *of_biases):
        size = gradients.abs() - gradients.abs().amin(dim=(2, 3), keepdim=True)
        with_epsilon = (size / (size.amax(dim=(2, 3), keepdim=True) + 1e-7)).sum(dim=1, keepdim=True)
        total += interpolate(with_epsilon, size=total.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    assert difference(total, theirs) <= 1e-4
    # Without the ε, small gradients count, as in the formula; the map is then a little different.
    averaged = adaptive_avg_pool2d(theirs[:, None], evidence.activations.shape[2:])[:, 0]
    assert difference(CAMS["fullgrad"].function(evidence), averaged) < 0.2


@on("squeezenet1_1", more=["resnet18-layer3", "resnet18"])
def test_ablation_equals_grad_cam_where_its_baseline_is_zero(case):
    # grad-cam sets a channel to the layer's minimum instead of 0, which is the same only if the minimum is 0. It runs
    # the whole model once per channel, so networks with few channels are taken.
    _, _, evidence, _ = case
    assert float(evidence.activations.min()) == 0
    theirs = peer_maps("AblationCAM", case)
    assert difference(CAMS["ablationcam"].function(evidence), theirs.relu()) <= 1e-4


@on(*TWO, more=[*MORE_MAPS, *TOKENS])
def test_gradcam_plus_plus_equals_grad_cam_with_its_epsilon_put_back(case):
    # grad-cam adds 1e-6 to a denominator around 1e-8; with the same ε our formula gives its map.
    _, _, evidence, maps = case
    theirs = peer_maps("GradCAMPlusPlus", case)
    A, g = evidence.activations, evidence.gradients
    alpha = g**2 / (2 * g**2 + A.sum(dim=(2, 3), keepdim=True) * g**3 + 1e-6)
    weights = (torch.where(g != 0, alpha, 0) * g.relu()).sum(dim=(2, 3))
    assert difference(torch.einsum("bc,bchw->bhw", weights, A).relu(), theirs.relu()) <= 1e-4
    for image in range(len(A)):
        wanted = REFERENCE["gradcam++"](A[image].double().numpy(), g[image].double().numpy())
        assert difference(maps["gradcam++"][image : image + 1], torch.as_tensor(wanted).float()[None]) <= 1e-4


@on("resnet18")
def test_torchcams_gradcam_plus_plus_is_not_the_formula(case):
    # torchcam divides a copy in place, so that its α is only g².
    from torchcam import methods

    model, inputs, evidence, maps = case
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


@on("resnet18")
def test_torchcams_smoothgradcam_plus_plus_weighs_the_last_noisy_activations(case):
    # The paper and we weight the clean activations; test_cams_methods compares ours with a plain loop.
    from torchcam import methods

    model, inputs, evidence, _ = case
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


@on("resnet18")
def test_grad_cam_gives_blank_maps_where_targets_are_missing_and_we_refuse(case):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs, evidence, maps = case
    module = model.network.module.requires_grad_(True)
    try:
        with pytorch_grad_cam.GradCAM(module, [model.network.layer]) as explainer:
            theirs = explainer(inputs.clone(), [ClassifierOutputTarget(int(evidence.targets[0]))])
    finally:
        module.requires_grad_(False)
    assert theirs[0].any()
    assert not theirs[1].any()
    assert maps["gradcam"].flatten(1).any(dim=1).all()
    with pytest.raises(ValueError, match="targets: must be one per image"):
        explain_images(model, torch.zeros(2, 3, 224, 224), targets=[int(evidence.targets[0])])


@on("squeezenet1_1")
def test_an_in_place_relu_behind_the_layer_misleads_grad_cam_and_not_us(case):
    model, inputs, _, _ = case
    network = build_network(model.network.module, inputs, "features.12.squeeze")
    evidence = collect(network, inputs)
    features = model.network.module.features
    with torch.no_grad():
        wanted = features[12].squeeze(features[:12](inputs))
    assert wanted.min() < 0
    torch.testing.assert_close(evidence.activations, wanted)
    theirs = peer_maps("GradCAM", (replace(model, network=network), inputs, evidence, {}))
    assert difference(CAMS["gradcam"].function(evidence), theirs.relu()) > 1e-2


@on("resnet18")
def test_grad_cam_leaves_gradients_on_parameters_and_we_do_not(case):
    model, inputs, _, _ = case
    module = model.network.module
    for parameter in module.parameters():
        parameter.grad = None
    peer_maps("GradCAM", case)
    assert any(parameter.grad is not None for parameter in module.parameters())
    for parameter in module.parameters():
        parameter.grad = None
    collect(model.network, inputs)
    assert all(parameter.grad is None for parameter in module.parameters())


@on(*TWO, more=[*MORE_MAPS, *TOKENS])
def test_shortcuts_are_found(case):
    network, name = case[0].network, case[0].name
    without = ("squeezenet1_1", "resnet18-layer3", "small_vit", "vit_b_16", "densenet121", "vgg16")
    assert (network.head is None) == (name in without)
    assert (network.first_affine is not None) == (name in ("squeezenet1_1", "densenet121", "vgg16"))


@on("resnet18", more=["squeezenet1_1"])
def test_shortcuts_equal_the_re_run_tail(case):
    evidence = case[2]
    by_shortcut = CAMS["ablationcam"].function(evidence)
    plain = replace(evidence, head=None, network=replace(evidence.network, first_affine=None))
    assert difference(by_shortcut, CAMS["ablationcam"].function(plain)) <= 1e-4


@on("resnet18-layer3", more=("resnet18",))
def test_grad_cams_refinecam_agrees_if_its_gradcam_plus_plus_is_put_right(case):
    """At the ends of the stages, which RefineCAM takes from its user and ours finds."""
    from pytorch_grad_cam import GradCAMPlusPlus, RefineCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Exact(GradCAMPlusPlus):
        def get_cam_weights(self, _input, _layer, _targets, activations, grads):
            rising = grads.clip(min=0).astype("float64")
            return (rising / (2 + activations.sum(axis=(2, 3), keepdims=True) * rising)).sum(axis=(2, 3))

    model, inputs, evidence, maps = case
    module, target = model.network.module, model.network.layer_name
    ours = maps["refinecam"]
    layers = [module.get_submodule(f"layer{stage}") for stage in range(1, int(target[-1]) + 1)]
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    try:
        wanted = [ClassifierOutputTarget(int(one)) for one in evidence.targets]
        theirs = torch.as_tensor(RefineCAM(module, layers, base_method=Exact)(inputs, wanted))
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    assert difference(ours, adaptive_avg_pool2d(theirs, ours.shape[1:])) < 1e-4
