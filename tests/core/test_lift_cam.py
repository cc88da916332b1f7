"""LIFT-CAM and DeepLIFT's rule, compared with loops and with captum."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams.lift import contributions
from camrobust.core.explain.deeplift import RescaleRule
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.network import frozen
from camrobust.core.explain.target_layer import build_network
from tests.core.test_cams_methods import Case, agree
from tests.reference import cams as reference_cams
from tests.reference import cams_of_layers as reference
from tests.toys import seeded


def test_behind_pooling_it_is_the_terms_of_the_logit():
    case = Case("pooled")
    lift, ablation = case.maps("lift-cam"), case.maps("ablationcam")
    for one, ours in enumerate(lift):
        A, _ = case.arrays(one)
        row = case.double.fc.weight[case.targets[one]].detach().numpy()
        agree(ours, reference_cams.weighted([w * channel.mean() for w, channel in zip(row, A, strict=True)], A))
        agree(ours, ablation[one] * float(case.evidence.scores[one]))


def test_behind_a_hidden_layer():
    case = Case("dense")
    first, second = case.double.head[1], case.double.head[3]
    for one, ours in enumerate(case.maps("lift-cam")):
        A, _ = case.arrays(one)
        row = second.weight[case.targets[one]].detach().numpy()
        found = reference.deeplift_of_hidden_layer(A, first.weight.detach().numpy(), row, first.bias.detach().numpy())
        agree(ours, reference_cams.weighted(found.sum(axis=(1, 2)), A))


@pytest.mark.parametrize("kind", ["hybrid", "tokens"])
def test_it_refuses_what_has_no_rule(kind):
    case = Case(kind)
    sentence = (
        f"lift-cam: behind '{case.network.layer_name}' the contributions of the channels must add up to the change of "
        "the logit, they miss "
    )
    with pytest.raises(UserError, match=re.escape(sentence)):
        case.maps("lift-cam")


def test_max_pooling_against_a_loop():
    generator = np.random.default_rng(0)
    x, x0 = generator.normal(size=(2, 3, 6, 6))
    weights = generator.normal(size=(3, 3, 3))
    leaf = torch.tensor(x[None], requires_grad=True)
    with RescaleRule():
        pooled = functional.max_pool2d(torch.cat((leaf, torch.tensor(x0[None]))), 2)
    (pooled[0] * torch.tensor(weights)).sum().backward()
    wanted = reference.max_pool_contributions(x, x0, weights, 2)
    np.testing.assert_allclose((leaf.grad[0] * torch.tensor(x - x0)).numpy(), wanted, atol=1e-12)


FUNCTIONS = [
    functional.gelu, functional.silu, functional.elu, functional.hardswish, functional.softplus, torch.relu,
    torch.tanh, torch.sigmoid, lambda x: functional.relu(x, inplace=True), lambda x: x.clamp(-0.5, 0.5),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_contributions_of_a_function_are_its_change(function):
    x, x0 = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0[:5] = x[:5]
    leaf = x.clone().requires_grad_()
    plain = leaf * 1
    wanted = function(plain)
    (derivative,) = torch.autograd.grad(wanted.sum(), leaf)
    with RescaleRule():
        found = function(torch.stack((leaf, x0)))
    (slope,) = torch.autograd.grad(found[0].sum(), leaf)
    torch.testing.assert_close(found[0], wanted)
    torch.testing.assert_close(slope * (x - x0), (found[0] - found[1]).detach())
    torch.testing.assert_close(slope[:5], derivative[:5])


TAILS = {
    "as the authors cut VGG": [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 7), nn.ReLU(), nn.Linear(7, 4)],
    "two convolutions": [nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(500, 7), nn.Sigmoid(), nn.Linear(7, 4)],
}


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("tail", TAILS)
def test_captum_agrees(tail):
    """Not where a function stands before max pooling: there captum's contributions miss much of the change."""
    from captum.attr import DeepLift

    module = seeded(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), *TAILS[tail])).eval()
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    network = build_network(module, images, "1")
    with frozen(module):
        evidence = collect(network, images)
        ours, missing = contributions(evidence, evidence.outputs, torch.arange(3))
        A = evidence.activations.clone().requires_grad_()
        theirs = DeepLift(nn.Sequential(*TAILS[tail])).attribute(A, torch.zeros_like(A), target=evidence.targets)
    assert missing.max() < 1e-5
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)
