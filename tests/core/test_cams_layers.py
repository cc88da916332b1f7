"""RefineCAM and Winsor-CAM, compared with float64 loops and with grad-cam."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.cams.layers import _stages, winsorised
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from camrobust.core.scaling import min_max
from tests.core.test_cams_methods import Case, agree
from tests.reference import cams_of_layers as reference
from tests.toys import seeded


def outputs_and_gradients(case, one, names):
    """A and g of some layers by float64 autograd; nothing writes into the copies that are kept."""
    kept = []

    def keep(_, __, output):
        copied = output.clone()
        copied.retain_grad()
        kept.append(copied)
        return copied.clone()

    handles = [case.double.get_submodule(name).register_forward_hook(keep) for name in names]
    image = case.images[one : one + 1].clone().requires_grad_()
    logits_of(case.double(image))[0, case.targets[one]].backward()
    for handle in handles:
        handle.remove()
    return [(value[0].detach().numpy(), value.grad[0].numpy()) for value in kept]


@pytest.mark.parametrize(
    ("kind", "stages"),
    [("pooled", ["features.1", "features"]), ("hybrid", ["features.1", "features"]), ("dense", ["stem", "relu"])],
)
def test_refinecam(kind, stages):
    case = Case(kind)
    assert [name for name, part in case.module.named_modules() if part in _stages(case.evidence)] == stages[:-1]
    size = case.evidence.activations.shape[2:]
    for one, ours in enumerate(case.maps("refinecam")):
        pairs = outputs_and_gradients(case, one, stages)
        agree(ours, reference.refinecam(pairs, tuple(case.images.shape[2:]), size), 1e-3)


def test_refinecam_of_tokens_has_one_stage():
    case = Case("tokens")
    for one, ours in enumerate(case.maps("refinecam")):
        wanted = reference.refinecam([case.arrays(one)], tuple(case.images.shape[2:]), (4, 4))
        agree(ours, wanted, 1e-3)
    assert _stages(case.evidence) == []


@pytest.mark.parametrize("kind", ["pooled", "smooth", "separate", "dense"])
def test_winsor_cam(kind):
    case = Case(kind)
    names = [name for name, part in case.module.named_modules() if isinstance(part, nn.Conv2d)]
    for one, ours in enumerate(case.maps("winsor-cam")):
        pairs = outputs_and_gradients(case, one, names)
        agree(ours, reference.winsor_cam(pairs, case.evidence.activations.shape[2:]), 1e-3)


def test_importances_are_winsorised():
    found = winsorised(torch.tensor([[0.0, 1.0, 2.0, 3.0, 100.0], [0.0, 0.0, 7.0, 0.0, 0.0], [0.0] * 5]))
    limit = np.percentile([1, 2, 3, 100], 90)
    share = [0.1 + 0.9 * (value - 1) / (limit - 1) for value in (1, 2, 3, limit)]
    torch.testing.assert_close(found, torch.tensor([[0, *share], [0, 0, 1, 0, 0], [0] * 5]).float())


def test_winsor_cam_needs_two_convolutional_layers():
    sentence = "winsor-cam: the model must have two or more convolutional layers, got 1; choose gradcam"
    with pytest.raises(UserError, match=f"^{sentence}$"):
        Case("tokens").maps("winsor-cam")


STAGES = {
    "mobilenet_v3_small": ["features.1", "features.3", "features.8"],
    "resnet50": ["layer1", "layer2", "layer3"],
}
if os.environ.get("CAMROBUST_ALL"):
    STAGES |= {
        "convnext_tiny": ["features.1", "features.3", "features.5"],
        "densenet121": ["features.denseblock1", "features.denseblock2", "features.denseblock3"],
        "efficientnet_b0": ["features.2", "features.3", "features.5"],
        "regnet_y_400mf": ["trunk_output.block1", "trunk_output.block2", "trunk_output.block3"],
        "swin_t": ["features.1", "features.3", "features.5"],
    }


@pytest.mark.parametrize("name", STAGES)
def test_stages_end_with_their_last_block(name):
    """And not with the first layers of the block that leads to the next stage."""
    from torchvision import models

    module = getattr(models, name)(weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    network = build_network(module, images)
    with frozen(module):
        stages = _stages(collect(network, images))
    names = {part: name for name, part in module.named_modules()}
    assert [names[part] for part in stages] == STAGES[name]


def resnet(side):
    from torchvision.models import resnet18

    module = seeded(resnet18(num_classes=5), 3).eval()
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    network = build_network(module, images)
    with frozen(module):
        return module, images, collect(network, images)


def test_both_look_at_other_layers_than_grad_cam_plus_plus():
    module, _, evidence = resnet(64)
    with frozen(module):
        maps = explain(evidence, [CAMS[name].function for name in ("gradcam++", "refinecam", "winsor-cam")])
    maps = min_max(maps, (2, 3))
    assert (maps[:, 1] - maps[:, 0]).abs().max() > 0.01
    assert (maps[:, 2] - maps[:, 1]).abs().max() > 0.01
