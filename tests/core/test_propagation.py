"""Certificates without chance: against plain matrices, by sampling of the bounds, and by attacks inside the ball."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from camrobust.bench.certificates.balls import attacked_images, left, maps_of, outside, random_images
from camrobust.contract.errors import UserError
from camrobust.core.certify.propagation.chain import read_chain
from camrobust.core.certify.propagation.linear import Ball, bounds_of, interval_bounds
from camrobust.core.certify.propagation.steps import Relu
from camrobust.core.certify.propagation.top import certified_radius, map_bounds
from camrobust.core.ranks import rbo
from tests.reference import certify
from tests.reference import propagation as reference
from tests.toys import seeded

MEAN, STD = torch.tensor([0.4, 0.5]).view(2, 1, 1), torch.tensor([0.2, 0.3]).view(2, 1, 1)


def plain(seed=0):
    """Three convolutions and batch norm, ReLU between and behind them."""
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    seeded(module, seed)
    generator = stream(seed)
    module[1].running_mean = torch.randn(4, generator=generator)
    module[1].running_var = torch.rand(4, generator=generator) + 0.5
    return module.eval()


class Pooling(nn.Module):
    """Maximum and average pooling, and functions instead of modules."""

    def __init__(self, seed=0):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, groups=2, bias=False), nn.Conv2d(4, 4, (3, 1), padding="same")
        self.most, self.mean = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1, padding=1)
        self.head = nn.Linear(4, 3, bias=False)
        seeded(self, seed)
        self.eval()

    def forward(self, images):
        found = self.most(relu(self.first(images)))
        return self.head(self.most(self.second(self.mean(found)).relu()).mean((2, 3)))


def stream(seed):
    return torch.Generator().manual_seed(seed)


def image(seed=0, side=6):
    return torch.rand(2, side, side, generator=stream(seed), dtype=torch.float64)


def chain_of(module, picture):
    return read_chain(module, picture, MEAN, STD)


def one_map(chain, target, picture):
    return maps_of(chain, picture[None], target)[0]


MODULES = pytest.mark.parametrize("make", [plain, Pooling])
NORMS = pytest.mark.parametrize(("norm", "radius"), [("linf", 0.01), ("l2", 0.1)])


@MODULES
def test_a_chain_computes_what_the_network_does(make):
    module, picture = make(), image()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    chain = chain_of(module, picture)
    images = torch.stack([image(1), image(2)])
    with torch.no_grad():
        wanted = module(((images - MEAN) / STD).float())
    torch.testing.assert_close(chain.logits(images).float(), wanted, atol=1e-5, rtol=0)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def dense(step, shape):
    """An affine step as a matrix and constants, from one unit vector after the other."""
    nothing = torch.zeros(1, *shape, dtype=torch.float64)
    constant = step(nothing).flatten()
    units = torch.eye(nothing.numel(), dtype=torch.float64).reshape(-1, *shape)
    return (step(units).flatten(1) - constant).T.numpy(), constant.numpy()


@NORMS
def test_bounds_equal_those_of_plain_matrices(norm, radius):
    """Intervals, and CROWN by products of matrices, layer by layer, for a network of ReLUs."""
    picture = image()
    chain, ball = chain_of(plain(), picture), Ball(picture, radius, norm)
    shapes = [tuple(low.shape) for low, _ in interval_bounds(chain.features, ball)]
    layers = [
        None if isinstance(step, Relu) else dense(step, shape)
        for step, shape in zip(chain.features, shapes, strict=False)
    ]
    positions = shapes[-1][1] * shapes[-1][2]
    for method in ("interval", "linear"):
        found = map_bounds(chain, ball, method=method)
        inner = bounds_of(chain.features, ball, method)
        wanted = reference.Ball(picture.numpy().ravel(), radius, norm).bounds(layers, method)
        for bounds, both in zip(inner, wanted, strict=True):
            for bound, values in zip(bounds, both, strict=True):
                np.testing.assert_allclose(bound.numpy().ravel(), values, atol=1e-10)
        weight = chain.weight[found.target].numpy()
        rows = np.stack([np.kron(weight, np.eye(positions)[place]) for place in range(positions)])
        low, high = wanted[-1]
        lower = np.maximum(rows, 0) @ low + np.minimum(rows, 0) @ high
        upper = np.maximum(rows, 0) @ high + np.minimum(rows, 0) @ low
        if method == "linear":
            ball_of = reference.Ball(picture.numpy().ravel(), radius, norm)
            lower = np.maximum(lower, ball_of.least(layers, wanted, rows))
            upper = np.minimum(upper, -ball_of.least(layers, wanted, -rows))
        np.testing.assert_allclose(found.lower.numpy(), lower, atol=1e-10)
        np.testing.assert_allclose(found.upper.numpy(), upper, atol=1e-10)


@MODULES
@NORMS
@pytest.mark.parametrize("method", ["interval", "linear"])
def test_no_image_in_the_ball_leaves_the_bounds(make, norm, radius, method):
    for seed in range(3):
        picture = image(seed)
        chain, ball = chain_of(make(seed), picture), Ball(picture, radius, norm)
        values = random_images(ball, 300, stream(seed))
        for step, (lower, upper) in zip(chain.features, bounds_of(chain.features, ball, method), strict=False):
            assert (values >= lower - 1e-12).all()
            assert (values <= upper + 1e-12).all()
            values = step(values)
        found = map_bounds(chain, ball, method=method)
        images = random_images(ball, 300, stream(seed))
        maps = maps_of(chain, images, found.target)
        assert (maps >= found.lower - 1e-12).all()
        assert (maps <= found.upper + 1e-12).all()
        logits = chain.logits(images)
        others = logits.clone()
        others[:, found.target] = -torch.inf
        assert ((logits[:, found.target] - others.amax(dim=1)) >= found.margin - 1e-12).all()


@MODULES
@NORMS
def test_linear_bounds_are_nowhere_wider(make, norm, radius):
    picture = image()
    chain, ball = chain_of(make(), picture), Ball(picture, radius, norm)
    wide, narrow = map_bounds(chain, ball, method="interval"), map_bounds(chain, ball)
    assert (narrow.lower >= wide.lower - 1e-12).all()
    assert (narrow.upper <= wide.upper + 1e-12).all()
    assert (narrow.upper - narrow.lower).sum() < 0.9 * (wide.upper - wide.lower).sum()


@MODULES
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_within_the_certified_radius_fail_and_beyond_it_succeed(make, norm):
    k, broken = 2, 0
    for seed in range(3):
        picture = image(seed, side=8)
        chain = chain_of(make(seed), picture)
        found = certified_radius(chain, picture, k, norm, most=0.2 if norm == "l2" else 0.02, steps=8)
        if found is None:
            continue
        images = torch.cat([attacked_images(chain, found.ball, found, k), random_images(found.ball, 100, stream(seed))])
        maps = maps_of(chain, images, found.target)
        assert not left(maps, found, k).any()
        assert not outside(maps, found).any()
        agreement = rbo(found.scores.expand_as(maps), maps)
        assert found.rbo()[0] <= agreement.min().item() + 1e-9
        wide = Ball(picture, 40 * found.ball.radius, norm)
        further = maps_of(chain, attacked_images(chain, wide, found, k), found.target)
        broken += bool(left(further, found, k).any())
    assert broken > 0


def test_linear_bounds_without_relus_are_the_closed_form():
    picture = image(side=5)
    module = seeded(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    ).eval()
    chain = chain_of(module, picture * 0.5 + 0.25)  # no pixel is cut off at 0 or 1
    for norm, dual in (("linf", 1), ("l2", 2)):
        found = map_bounds(chain, Ball(picture * 0.5 + 0.25, 0.1, norm))
        slopes = torch.func.jacrev(partial(one_map, chain, found.target))(picture)
        room = 0.1 * slopes.flatten(1).norm(p=dual, dim=1)
        assert found.lower.tolist() == pytest.approx((found.scores - room).tolist(), abs=1e-12)
        assert found.upper.tolist() == pytest.approx((found.scores + room).tolist(), abs=1e-12)


def test_the_radius_is_the_largest_that_halving_tries():
    picture = image()
    chain = chain_of(plain(), picture)
    found = certified_radius(chain, picture, 2, most=0.02, steps=10)
    radius = found.ball.radius
    assert 0 < radius < 0.02
    assert (radius / 0.02 * 2**10) % 1 == 0
    assert found.holds(2)
    assert not map_bounds(chain, Ball(picture, radius + 0.02 / 2**10)).holds(2)
    assert certified_radius(chain, picture, 2, most=radius / 2, steps=3).ball.radius == radius / 2


def test_segments_and_what_is_certain_about_their_order():
    picture = image()
    chain = chain_of(plain(), picture)
    matrix = torch.block_diag(*[torch.full((1, 3), 1 / 3)] * 3)
    found = map_bounds(chain, Ball(picture, 0.001), matrix=matrix)
    positions = map_bounds(chain, Ball(picture, 0.001))
    assert found.scores.tolist() == pytest.approx((matrix.double() @ positions.scores).tolist())
    assert (found.lower >= matrix.double() @ positions.lower - 1e-12).all()
    order = found.order
    shared = certify.overlaps(found.lower[order].tolist(), found.upper[order].tolist())
    assert found.rbo(0.8)[0] == pytest.approx(certify.rbo(shared, 0.8))
    assert found.rbo(0.8)[1] == pytest.approx(certify.adjusted(certify.rbo(shared, 0.8), 3, 0.8))


def test_a_flat_map_has_no_certified_top():
    module = plain()
    nn.init.zeros_(module[-1].weight)
    picture = image()
    found = map_bounds(chain_of(module, picture), Ball(picture, 0.0), target=1)
    assert not any(found.holds(k) for k in range(1, 9))
    assert certified_radius(chain_of(module, picture), picture, 3) is None


def residual():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

        def forward(self, images):
            return self.fc(self.pool(images + self.conv(images)).flatten(1))

    return Residual()


def doubled():
    module = plain()
    module[6].register_forward_hook(lambda *call: call[2] * 2)
    return module


def broken():
    module = plain()
    module[0].bias.data[0] = torch.inf
    return module


def conditional():
    class Conditional(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    return Conditional()


HEAD = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU(), *HEAD), "layer '1' is GELU"),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.MaxPool2d(2, dilation=2), *HEAD), "layer '1' is a MaxPool2d"),
        (lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), *HEAD), "takes its mean from the batch"),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(32, 3)), "the network does not end so"),
        (lambda: nn.Sequential(*HEAD, nn.ReLU(), nn.Linear(3, 3)), "more layers between its pooling and its"),
        (lambda: nn.Sequential(*HEAD[:2], nn.Linear(2, 1)), "the network has a single output"),
        (residual, r"the network has branches \(add\)"),
        (doubled, "puts out something else than its layers"),
        (broken, "the network's outputs are not finite"),
        (conditional, r"cannot be traced \(.*\)"),
    ],
)  # fmt: skip
def test_other_networks_get_one_sentence(make, what):
    with pytest.raises(UserError, match=f"^certified_top: .*{what}") as raised:
        chain_of(make().eval(), image())
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("certify other networks by samples")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"norm": "l1"}, "norm must be one of linf, l2, got 'l1'"),
        ({"most": float("nan")}, r"a radius must be finite and not negative \(share of the pixel range\), got nan"),
        ({"method": "crown"}, "method must be one of interval, linear, got 'crown'"),
        ({"k": 9}, r"k must be 1 to 8 \(items of the map: 9\), got 9"),
        ({"steps": -1}, r"steps must be a whole number from 0 \(halvings of the radius\), got -1"),
        ({"target": 3}, "target must be 0 to 2, got 3"),
    ],
)
def test_mistakes_get_a_sentence(arguments, sentence):
    picture = image()
    with pytest.raises(UserError, match=f"^certified_top: {sentence}"):
        certified_radius(chain_of(plain(), picture), picture, **{"k": 2} | arguments)
