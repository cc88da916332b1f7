import pytest
import torch

from camrobust.core.cams import CAMS, CLASSIC
from camrobust.core.draws import Draws
from camrobust.core.evidence import collect, explain
from camrobust.measure import coinciding
from camrobust.models import ModelSpec, load_model

ZOO = {
    "resnet18": ("layer4", True), "mobilenet_v2": ("features", True), "squeezenet1_1": ("features", False),
    "densenet121": ("features", False), "vgg11": ("features", False), "alexnet": ("features", False),
    "googlenet": ("inception5b", True), "mnasnet0_5": ("layers", True), "shufflenet_v2_x0_5": ("conv5", True),
    "efficientnet_b0": ("features", True), "regnet_y_400mf": ("trunk_output", True),
    "convnext_tiny": ("features", False), "mobilenet_v3_small": ("features", False),
}  # fmt: skip


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


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel"])
def test_state_dicts_as_people_save_them(form, tmp_path):
    from io import BytesIO

    from tests.toys import pooled

    state = pooled().state_dict()
    state = {name: value + 1 for name, value in state.items()}
    if form == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    sink = BytesIO()
    torch.save({"state_dict": state, "epoch": 3} if form == "wrapped" else state, sink)
    model = load_model(ModelSpec("m", "tests.toys:pooled", "x.pth"), sink.getvalue())
    assert torch.equal(model.network.module.fc.bias, pooled().fc.bias + 1)


def test_methods_that_coincide_are_found_by_trying():
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    cams = ["gradcam", "hirescam", "eigencam", "xgradcam", "layercam", "random"]
    closed = load_model(ModelSpec("m", "tests.toys:pooled"))
    same = coinciding(closed, cams, pixels)
    assert same == {"hirescam": "gradcam", "xgradcam": "gradcam"}
    assert coinciding(load_model(ModelSpec("m", "tests.toys:dense")), cams, pixels) == {}
