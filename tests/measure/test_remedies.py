"""What is told of a model that cannot be measured as it is: the remedy is the right one."""

import re

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from camrobust.contract.errors import UserError
from camrobust.core.explain.evidence import collect
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model, wrap
from tests.toys import Pooled, seeded


class Checkpointed(nn.Module):
    """Runs its last convolution again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 5)
        self.reentrant = reentrant

    def forward(self, images):
        return self.fc(checkpoint(self.pooled, self.stem(images), use_reentrant=self.reentrant))

    def pooled(self, maps):
        return self.conv(maps.relu()).relu().mean((2, 3))


class TrainReturnsNothing(Pooled):
    def train(self, mode=True):
        super().train(mode)


class MadeLater(Pooled):
    """Makes its head in its first pass."""

    def __init__(self):
        super().__init__()
        self.fc = None

    def forward(self, images):
        if self.fc is None:
            self.fc = nn.Linear(8, 10)
        return super().forward(images)


class OfOneSize(Pooled):
    def forward(self, images):
        assert images.shape[2:] == (96, 96), "no such size"
        return super().forward(images)


class CastsItself(Pooled):
    """In 16 bits, and casts its images."""

    def __init__(self):
        super().__init__()
        self.bfloat16()

    def forward(self, images):
        return super().forward(images.bfloat16())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_activation_checkpointing_is_to_be_switched_off(reentrant):
    sentence = (
        "switch activation checkpointing off, which runs layers again (set_grad_checkpointing(False) in timm, "
        "gradient_checkpointing_disable() in transformers, memory_efficient=False in torchvision)"
    )
    with pytest.raises(UserError, match=f"its layers cannot be watched .*; {re.escape(sentence)}$"):
        wrap(seeded(Checkpointed(reentrant)), name="m", image_size=64)


def test_a_module_whose_train_returns_nothing_is_explained():
    module = seeded(TrainReturnsNothing())
    assert wrap(module, image_size=64).network.layer_name == "features"
    assert not module.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_another_type_are_to_be_cast(dtype):
    kind = str(dtype).removeprefix("torch.")
    sentence = f"its parameters are {kind}: call .float() on it; `precision` says in which format its layers compute"
    with pytest.raises(UserError, match=rf"cannot take float32 images of 64 px .*; {re.escape(sentence)}$"):
        wrap(Pooled().to(dtype), name="m", image_size=64)


def test_a_module_in_16_bits_that_casts_its_images_is_explained():
    model = wrap(seeded(CastsItself()).bfloat16(), image_size=64)
    evidence = collect(model.network, torch.rand(2, 3, 64, 64))
    assert evidence.activations.dtype == evidence.gradients.dtype == evidence.logits.dtype == torch.float32
    plain = wrap(seeded(Pooled()), image_size=64)
    wanted = collect(plain.network, torch.rand(2, 3, 64, 64), lambda _: evidence.targets).gradients
    torch.testing.assert_close(evidence.gradients, wanted, atol=2e-3, rtol=2e-2)


def test_a_model_of_one_size_says_which():
    sentence = (
        "model 'm': cannot take float32 images of 64 px (AssertionError: no such size); it takes images of 96 px "
        "(image.crop in a configuration, crop= or --crop elsewhere)"
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        wrap(seeded(OfOneSize()), name="m", image_size=64)


def test_layers_that_the_first_pass_makes_are_refused(monkeypatch):
    sentence = (
        "model 'm': its first pass makes layers (fc.weight, fc.bias), whose weights no file fills; pass an image "
        "through the network before"
    )
    monkeypatch.setattr("tests.toys.made_later", MadeLater, raising=False)
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        load_model(ModelSpec("m", "tests.toys:made_later"), image_size=64)


class OneChannelFails(nn.Module):
    """Behind its first convolution it can be traced, but not with one channel alone."""

    def __init__(self):
        super().__init__()
        self.features, self.scores = Pooled().features, nn.Conv2d(8, 10, 1)

    def forward(self, images):
        return self.scores(self.features(images)).mean((2, 3)).reshape(-1, 10)


def test_what_fails_inside_a_traced_module_is_not_printed(capsys):
    model = wrap(seeded(OneChannelFails()), image_size=64)
    assert model.network.layer_name == "features"
    assert capsys.readouterr() == ("", "")
