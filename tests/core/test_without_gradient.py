"""Models through which no gradient passes: methods that need none explain them, the others say why they do not."""

import re

import pytest
import torch
from torch import nn

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.maps import WITHOUT_GRADIENT
from camrobust.measure.model import wrap
from tests.toys import Dense, Pooled, Tokens, seeded

NAMES = [cam.name for cam in CAMS if cam.needs in WITHOUT_GRADIENT]


def without_gradient(kind):
    class Without(kind):
        @torch.no_grad()
        def forward(self, images):
            return super().forward(images)

    return Without


def inference_only(kind):
    class Inference(kind):
        @torch.inference_mode()
        def forward(self, images):
            return super().forward(images)

    return Inference


class TwoOutputs(nn.Module):
    """A backbone that hands on its map and the mean of it."""

    def __init__(self):
        super().__init__()
        self.body = Pooled().features

    def forward(self, images):
        maps = self.body(images)
        return maps, maps.mean((2, 3))


class OfBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.fc = TwoOutputs(), nn.Linear(8, 5)

    def forward(self, images):
        return self.fc(self.backbone(images)[1])


def images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("closed", [without_gradient, inference_only])
@pytest.mark.parametrize(("kind", "side"), [(Pooled, 64), (Dense, 224), (Tokens, 32), (OfBackbone, 64)])
def test_maps_without_gradients_are_those_of_the_same_model_with_them(closed, kind, side):
    plain, shut = wrap(seeded(kind()), image_size=side), wrap(seeded(closed(kind)()), image_size=side)
    assert shut.network.layer_name == plain.network.layer_name
    assert plain.network.differentiable
    assert not shut.network.differentiable
    names = [name for name in ("eigencam", "fem", "kpca-cam", "scorecam", "recipro-cam") if name in NAMES]
    wanted, found = (
        explain(collect(one.network, one.normalise(images(side))), [CAMS[name].function for name in names])
        for one in (plain, shut)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_methods_and_attacks_that_need_gradients_say_so():
    module = seeded(without_gradient(Pooled)())
    sentence = (
        "cams: no gradient passes this model (inference only, or quantised layers), which gradcam, layercam need; "
        "choose of "
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}.*eigencam.*, or measure the model in floating point$"):
        camrobust.explain(module, images(64), ["gradcam", "eigencam", "layercam"])
    with pytest.raises(UserError, match=re.escape("quantised layers), which gradcam need; choose of ")):
        camrobust.evaluate(module, images(64), ["gradcam"], ["contrast:3"])
    with pytest.raises(
        UserError, match=re.escape("quantised layers), which an attack needs; leave out the family adversarial")
    ):
        camrobust.attack(module, images(64), "fgsm:3")
    with pytest.raises(
        UserError, match=re.escape("quantised layers), which fgsm needs; leave out the family adversarial")
    ):
        camrobust.evaluate(module, images(64), ["eigencam"], ["fgsm:3"])
    with pytest.raises(UserError, match=re.escape("quantised layers), which an attack needs")):
        camrobust.minimal_eps(module, images(64))
    assert camrobust.explain(module, images(64), ["eigencam"])["eigencam"].isfinite().all()
    rows = camrobust.evaluate(module, images(64), ["eigencam"], ["contrast:3"]).scores
    assert rows["rbo"].is_not_null().all()


def test_a_layer_that_the_logits_do_not_depend_on_is_still_refused():
    class Aside(Pooled):
        def __init__(self):
            super().__init__()
            self.aside = nn.Conv2d(3, 4, 3, 4)

        def forward(self, images):
            self.aside(images)
            return super().forward(images)

    for kind in (Aside, without_gradient(Aside)):
        with pytest.raises(
            UserError, match="no gradient of the logits reaches 'aside'; choose a layer that they depend"
        ):
            wrap(seeded(kind()), target_layer="aside", image_size=64)


@pytest.fixture
def quantization():
    return pytest.importorskip("torch.ao.quantization")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_backbone_is_explained_by_its_activations(quantization):
    whole = wrap(seeded(Pooled()), image_size=64)
    stubs = quantization.QuantStub(), quantization.DeQuantStub()
    module = nn.Sequential(stubs[0], seeded(Pooled()).features, stubs[1], Head()).eval()
    module[3].fc.load_state_dict(seeded(Pooled()).fc.state_dict())
    for part in module[:3]:
        part.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(module, inplace=True)
    module(2 * images(64) - 1)
    quantization.convert(module, inplace=True)
    model = wrap(module, image_size=64)
    assert model.network.layer_name in ("1", "2")
    wanted, found = (
        explain(collect(one.network, 2 * images(64) - 1), [CAMS[name].function for name in ("eigencam", "recipro-cam")])
        for one in (whole, model)
    )
    assert torch.nn.functional.cosine_similarity(found.flatten(2), wanted.flatten(2), dim=2).min() > 0.98


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_head_that_is_quantised_by_the_range_of_the_pass_is_refused(quantization):
    head = quantization.quantize_dynamic(seeded(Pooled()).eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UserError, match="its logits for an image depend on the other images of the pass"):
        wrap(head, image_size=64)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, maps):
        return self.fc(maps.mean((2, 3)))
