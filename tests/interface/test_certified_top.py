"""`camrobust.certified_top`."""

import pytest
import torch
import torchvision

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.certify.propagation.chain import read_chain
from camrobust.core.certify.propagation.top import certified_radius
from tests.toys import Pooled, seeded

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def photos(count):
    return torch.randint(0, 256, (count, 3, 24, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_function_certifies_each_image_as_the_core_does():
    module = seeded(Pooled(channels=3)).train()
    images = torch.nn.functional.interpolate(photos(2).float(), 48).to(torch.uint8)
    found = camrobust.certified_top(module, images, 0.25, most=0.004, steps=5, mean=MEAN, std=STD)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    module.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for image, one in zip(images.double() / 255, found, strict=True):
        chain = read_chain(module, image, mean, std)
        wanted = certified_radius(chain, image, 3, most=0.004, steps=5)
        assert (one is None) == (wanted is None)
        if one is not None:
            assert one.ball.radius == pytest.approx(wanted.ball.radius, abs=1e-9)
            assert one.lower.tolist() == pytest.approx(wanted.lower.tolist(), abs=1e-6)
            assert one.target == int(module(((image - mean) / std)[None].float()).argmax())
    assert any(one is not None for one in found)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(context):
    module, images = seeded(Pooled()), photos(1)
    with context():
        assert len(camrobust.certified_top(module, images, steps=1, norm="l2", method="interval")) == 1


def test_a_residual_network_gets_one_sentence():
    with pytest.raises(UserError, match=r"^certified_top: .*certify other networks by samples$"):
        camrobust.certified_top(torchvision.models.resnet18(), torch.rand(1, 3, 64, 64))
