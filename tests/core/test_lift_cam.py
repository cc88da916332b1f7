"""LIFT-CAM and DeepLIFT's rule, compared with loops and with captum."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from camrobust.contract.errors import UserError
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.cams.lift import _missing, contributions
from camrobust.core.explain.deeplift import RescaleRule
from camrobust.core.explain.evidence import collect, explain
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
    lambda x: torch.clip(x, -0.5, 0.5), lambda x: functional.threshold(x, 0.1, -0.2), torch.erf, torch.special.erf,
    lambda x: functional.prelu(x, torch.tensor(0.25, dtype=x.dtype)), nn.Threshold(0.1, -0.2, inplace=True),
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


class PooledThen(nn.Module):
    """Global pooling, under which noise averages out, and a step behind it."""

    def __init__(self, step):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 12, 2, 2), nn.ReLU())
        self.hidden, self.gate, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.step = step

    def forward(self, images):
        means = self.features(images).mean(dim=(2, 3))
        return self.last(self.step(self.hidden(means), self.gate(means), means))


def of_photos(step, seed=0):
    """Evidence of three images on a network whose activations are about 1, as trained ones are."""
    module = seeded(PooledThen(step), seed).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        module.features[0].weight /= module.features(images).mean()
    with frozen(module):
        return collect(build_network(module, images, "features.1"), images)


ADDING_UP = {
    "clip": lambda h, g, m: torch.clip(h, -0.5, 0.5), "erf": lambda h, g, m: torch.erf(h),
    "prelu": lambda h, g, m: functional.prelu(h, torch.tensor(0.25)),
    "threshold": lambda h, g, m: functional.threshold(h, 0.1, -0.2),
}  # fmt: skip
NOT_ADDING_UP = {
    "a gate": lambda h, g, m: h * g.sigmoid(), "a gate that adds a little": lambda h, g, m: m + 0.02 * h * g.sigmoid(),
    "attention": lambda h, g, m: h * g.softmax(1), "a power": lambda h, g, m: h**2,
    "no number below 0": lambda h, g, m: m.log(),
}  # fmt: skip


@pytest.mark.parametrize("step", ADDING_UP)
def test_what_has_a_rule_adds_up_behind_global_pooling(step):
    evidence = of_photos(ADDING_UP[step])
    _, missing = contributions(evidence, evidence.outputs, torch.arange(3))
    assert missing.max() < 1e-5
    assert explain(evidence, [CAMS["lift-cam"].function]).isfinite().all()


@pytest.mark.parametrize("step", NOT_ADDING_UP)
def test_what_has_none_is_refused_behind_global_pooling(step):
    evidence = of_photos(NOT_ADDING_UP[step])
    with pytest.raises(UserError, match=r"^lift-cam: behind 'features.1' .* they miss "):
        explain(evidence, [CAMS["lift-cam"].function])


def test_the_verdict_does_not_depend_on_the_images():
    gate = NOT_ADDING_UP["a gate"]
    first, other = of_photos(gate), of_photos(gate)
    other = collect(other.network, torch.full((1, 3, 64, 64), 0.1), lambda _: torch.tensor([3]))
    assert _missing(first) == _missing(other)
    small = collect(first.network, torch.ones(1, 3, 32, 32))
    assert _missing(small) != _missing(first)


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
