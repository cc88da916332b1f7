import os
import re

import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.core.explain.evidence import collect, explain
from camrobust.measure.built import ModelSpec
from camrobust.measure.coinciding import coinciding
from camrobust.measure.model import load_model, wrap
from tests.toys import Circuit, Hybrid, Normalising, Pooled, Raising, Smooth, Tokens, pooled, seeded

ZOO = {
    "resnet18": ("layer4", True), "mobilenet_v2": ("features", True), "squeezenet1_1": ("features", False),
    "densenet121": ("features", False), "alexnet": ("features", False),
    "googlenet": ("inception5b", True), "mnasnet0_5": ("layers", True), "shufflenet_v2_x0_5": ("conv5", True),
    "efficientnet_b0": ("features", True), "regnet_y_400mf": ("trunk_output", True),
    "convnext_tiny": ("features", False), "mobilenet_v3_small": ("features", False),
}  # fmt: skip
if os.environ.get("CAMROBUST_ALL"):
    ZOO["vgg11"] = ("features", False)  # drawing its weights takes five seconds; it ends as AlexNet does


class Mixing(Pooled):
    """Normalises by the mean of the whole pass, as if in training."""

    def forward(self, images):
        return super().forward(images - images.mean())


def test_a_model_that_mixes_the_images_of_a_pass_is_refused():
    sentence = (
        "model 'mixing': its logits for an image depend on the other images of the pass; compute means and deviations "
        "over each image alone"
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        wrap(seeded(Mixing()), name="mixing", image_size=64)


@pytest.mark.parametrize("name", ZOO)
def test_torchvision_architectures_are_explained_at_their_last_feature_map(name):
    model = load_model(ModelSpec(name, f"torchvision:{name}@none"))
    layer, closed = ZOO[name]
    assert model.network.layer_name == layer
    assert (model.network.head is not None) == closed
    assert model.network.tail is not None
    pixels = torch.randint(0, 256, (1, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = [cam for cam in CLASSIC if cam != "ablationcam" or closed]
    draws = Draws.of(0, "", ["0"], "", "", 0)
    maps = explain(collect(model.network, model.normalise(pixels), draws=draws), [CAMS[cam].function for cam in names])
    assert maps.isfinite().all()
    assert maps.shape[:2] == (1, len(names))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t", "mobilenetv3_small_050", "repvgg_a0"])
def test_timm_architectures_bring_their_normalisation(name):
    model = load_model(ModelSpec(name, f"timm:{name}@none"))
    assert model.network.tail is not None
    assert model.classes == 1000
    if name == "tf_efficientnet_lite0":
        assert model.mean.flatten().tolist() == [0.5] * 3


def test_a_configuration_overrides_layer_and_normalisation():
    spec = ModelSpec("m", "tests.toys:pooled", target_layer="features.1", mean=(0.1,) * 3, std=(0.2,) * 3)
    model = load_model(spec)
    assert model.network.layer_name == "features.1"
    assert model.normalise(torch.full((1, 3, 2, 2), 0.3)).flatten().tolist() == pytest.approx([1.0] * 12)
    assert model.normalise(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)).mean() == pytest.approx(0.5)


@pytest.mark.parametrize("head", [None, "multilabel", "multilabel:explained=0"])
def test_methods_that_are_opposed_below_0_do_not_coincide(head):
    """On noise all predicted logits are above 0, where Ablation-CAM and LIFT-CAM agree."""
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    module = seeded(Pooled(3))
    with torch.no_grad():
        module.fc.bias.copy_(torch.tensor([5.0, 0.0, -5.0]))
    model = wrap(module, image_size=64, head=head)
    assert coinciding(model, ["ablationcam", "lift-cam"], pixels) == {}
    assert coinciding(model, ["gradcam", "hirescam"], pixels) == {"hirescam": "gradcam"}


def test_methods_that_coincide_are_found_by_trying():
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    cams = ["gradcam", "hirescam", "eigencam", "xgradcam", "layercam", "random"]
    closed = load_model(ModelSpec("m", "tests.toys:pooled"))
    same = coinciding(closed, cams, pixels)
    assert same == {"hirescam": "gradcam", "xgradcam": "gradcam"}
    dense = load_model(ModelSpec("m", "tests.toys:dense"))
    assert coinciding(dense, cams, pixels) == {}
    more = ["gradcam", "shapleycam", "finercam", "cf-cam", "kpca-cam", "fem", "seg-eigencam", "fullgrad"]
    assert coinciding(closed, more, pixels) == {"shapleycam": "gradcam"}
    assert coinciding(dense, more, pixels) == {"shapleycam": "gradcam"}
    curved = wrap(seeded(Smooth()))
    assert coinciding(curved, more, pixels) == {}
    assert coinciding(curved, ["scorecam", "ss-cam", "is-cam", "opti-cam"], pixels) == {}
    added = ["ablationcam", "gradcam", "gradcam++", "lift-cam", "diffgradcam", "refinecam", "winsor-cam"]
    # They are opposed where the explained logit is negative.
    assert coinciding(closed, added, pixels) == {}
    assert coinciding(curved, added, pixels) == {}
    tokens = wrap(seeded(Tokens()), image_size=32)
    with pytest.raises(UserError, match="lift-cam: behind"):
        coinciding(tokens, ["lift-cam"], pixels[:, :, :32, :32])
    # Which of some refuse the model is told as before.
    with pytest.raises(UserError, match="cam: behind"):
        coinciding(dense, ["gradcam", "cam"], pixels)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch 2.11 of its own compiler
def test_models_inside_wrappers_are_opened():
    module = pooled()
    assert wrap(nn.DataParallel(module)).network.module is module
    assert wrap(torch.compile(module)).network.module is module


def test_images_need_not_be_square():
    model = wrap(seeded(Tokens()), image_size=32)
    assert model.network.layout.grid == (4, 4)
    network = wrap(seeded(Pooled()), image_size=(64, 96)).network
    assert collect(network, torch.rand(2, 3, 64, 96)).activations.shape[2:] == (4, 6)


@pytest.mark.parametrize("training", [True, False])
def test_a_tuple_of_logits_is_read_at_its_first(training):
    from torchvision.models import googlenet

    module = googlenet(weights=None, init_weights=False, num_classes=7, aux_logits=True).train(training)
    model = wrap(module, image_size=96)
    assert (model.classes, model.network.layer_name) == (7, "inception5b")


def test_a_quantum_head_is_explained_as_any_other():
    model = wrap(seeded(Hybrid()), image_size=64)
    assert model.network.layer_name == "features"
    evidence = collect(model.network, torch.rand(3, 3, 64, 64))
    assert evidence.logits.abs().max() <= 1
    maps = explain(evidence, [CAMS[name].function for name in ("gradcam", "layercam", "ablationcam", "shapleycam")])
    assert maps.isfinite().all()
    assert (maps.amax(dim=(2, 3)) > maps.amin(dim=(2, 3))).any()


def test_the_simulated_circuit_keeps_probability_and_entangles():
    circuit = Circuit(3, layers=1)
    angles = torch.tensor([[torch.pi, 0.0, 0.0]])
    # X on the first qubit; two CNOTs carry it on.
    torch.testing.assert_close(circuit(angles), torch.tensor([[-1.0, -1.0, -1.0]]))
    torch.testing.assert_close(circuit(torch.zeros(1, 3)), torch.ones(1, 3))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated", "ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (Normalising, "its forward changes its input in place, which other passes need; write x = x - mean"),
        (lambda: torch.jit.script(Pooled()), "its layers cannot be watched .* pass the plain module, not a scripted"),
        (
            lambda: Raising(KeyError("b")),
            r"cannot take float32 images of 64 px \(KeyError: 'b'\); correct its forward, which must take \(B, 3, ",
        ),
        (lambda: Raising(SystemExit(3)), r"cannot take float32 images of 64 px \(SystemExit: 3\)"),
        (
            lambda: Pooled().double(),
            r"\(RuntimeError: .*\); its parameters are float64: call .float\(\) on it; `precision`",
        ),
        (lambda: Pooled(classes=0), "model 'm': "),
    ],
)
def test_models_that_cannot_be_explained_are_told(build, sentence):
    with pytest.raises(UserError, match=sentence):
        wrap(build(), name="m", image_size=64)
