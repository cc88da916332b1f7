"""Methods with more than the shared gradient, compared with float64 loops on toys that together take every path."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain import evidence
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.cams.cf_cam import clusters
from camrobust.core.explain.cams.fullgrad import full_gradients
from camrobust.core.explain.components import by_eigh, by_squaring, components, share_of
from camrobust.core.explain.evidence import collect, explain, explain_marked
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from tests.reference import cams as reference
from tests.toys import Dense, Hybrid, Pooled, Separate, Smooth, Tokens, seeded

KINDS = {
    "small": lambda: (Pooled(), 32),
    "pooled": lambda: (Pooled(), 64),
    "dense": lambda: (Dense(), 224),
    "smooth": lambda: (Smooth(), 64),
    "separate": lambda: (Separate(), 64),
    "hybrid": lambda: (Hybrid(), 64),
    "tokens": lambda: (Tokens(), 32),
}


class Case:
    """A toy in float64 with what the loops ask of it."""

    def __init__(self, kind, count=2):
        module, size = KINDS[kind]()
        self.module = seeded(module).eval()
        generator = torch.Generator().manual_seed(4)
        images = interpolate(torch.randn(count, 3, 8, 8, generator=generator), size=(size, size), mode="bilinear")
        self.network = build_network(self.module, images)
        with frozen(self.module):
            self.draws = Draws.of(0, "d", [str(n) for n in range(count)], "cam", "s", 0)
            self.evidence = collect(self.network, images, draws=self.draws)
        self.double = deepcopy(self.module).double()
        self.images = images.double()
        self.targets = self.evidence.targets.tolist()

    def maps(self, name):
        with frozen(self.module):
            return explain(self.evidence, [CAMS[name].function])[:, 0].numpy()

    def arrays(self, one):
        return self.evidence.activations[one].double().numpy(), self.evidence.gradients[one].double().numpy()

    def logits(self, one, A=None, image=None):
        """Float64 logits, of another A (a tensor, recorded) or another image."""
        image = self.images[one] if image is None else torch.as_tensor(image)
        outputs = self.evidence.outputs[one : one + 1].double()
        handle = self.double.get_submodule(self.network.layer_name).register_forward_hook(
            lambda *_: None if A is None else self.network.layout.from_map(A[None], outputs)
        )
        try:
            return logits_of(self.double(image[None]))[0]
        finally:
            handle.remove()

    def gradient(self, one, A, target):
        leaf = torch.as_tensor(A).clone().requires_grad_()
        (found,) = torch.autograd.grad(self.logits(one, leaf)[target], leaf)
        return found.numpy()


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return Case(request.param)


def on(*kinds):
    """Run a test on these toys instead of all."""
    return pytest.mark.parametrize("case", kinds, indirect=True)


def agree(ours, wanted, tolerance=1e-4):
    size = np.abs(wanted).max() or 1.0
    np.testing.assert_allclose(ours / size, wanted / size, rtol=0, atol=tolerance)


def test_methods_of_activations_and_gradients(case):
    for name, loop in {
        "fem": lambda A, g: reference.fem(A),
        "kpca-cam": lambda A, g: reference.kpca_cam(A),
        "seg-eigencam": reference.seg_eigencam,
    }.items():
        maps = case.maps(name)
        for one, ours in enumerate(maps):
            agree(ours, loop(*case.arrays(one)))


def test_salient_components(case):
    for name, loop in {
        "eigencam": lambda A, g: (reference.eigencam(A, g), A),
        "eigengradcam": lambda A, g: (reference.eigengradcam(A, g), g * A),
        "kpca-cam": lambda A, g: (reference.kpca_cam(A), A),
    }.items():
        maps = case.maps(f"{name}-salient")
        _, marks = explain_marked(case.evidence, [CAMS[f"{name}-salient"].function])
        for one, ours in enumerate(maps):
            wanted, weak = reference.salient(*loop(*case.arrays(one)))
            agree(ours, wanted)
            if name != "kpca-cam":
                close = reference.two_variances(loop(*case.arrays(one))[1]) > 0.9
                assert bool(marks[one, 0]) == bool(weak or close)


def test_equal_values_are_decomposed_once(monkeypatch):
    case, decomposed = Case("pooled"), []
    monkeypatch.setattr(evidence, "components", lambda values: decomposed.append(len(values)) or components(values))
    both = [CAMS[name].function for name in ("eigencam", "eigencam-salient", "eigengradcam")]
    maps, marks = explain_marked(case.evidence, both)
    assert decomposed == [2]
    assert torch.equal(maps[:, 0].abs(), maps[:, 1].abs())
    assert not marks[:, 0].any()


def bright(places, strength, size=12, channels=40):
    """Activations behind a layer norm: one pattern of channels at some places, another elsewhere."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(channels, 1, 1, generator=generator) + 0.1 * torch.randn(channels, size, size, generator=generator)
    for place, pattern in zip(places, torch.randn(len(places), channels, generator=generator), strict=True):
        A[:, *place] += strength * pattern[:, None, None]
    return torch.nn.functional.layer_norm(A.movedim(0, -1), (channels,)).movedim(-1, 0)[None]


def test_behind_a_layer_norm_the_sum_decides_nothing_and_the_deviation_does():
    A = bright([(slice(2, 5), slice(6, 9))], 2.0)
    noisy = [components([A + 1e-6 * torch.randn(A.shape, generator=torch.Generator().manual_seed(n))])
             for n in range(20)]  # fmt: skip
    ((fixed,), (ambiguous,)), inside = components([A]).salient, (slice(2, 5), slice(6, 9))
    assert fixed[0][inside].mean() > fixed[0].mean()
    assert not ambiguous.any()
    assert all(torch.cosine_similarity(one.salient[0][0].flatten(), fixed.flatten(), dim=0) > 0.999 for one in noisy)
    by_sum = [float(torch.cosine_similarity(one.by_sum[0].flatten(), fixed.flatten(), dim=0)) for one in noisy]
    assert min(by_sum) < -0.999 < 0.999 < max(by_sum)


def test_two_components_of_one_size_are_ambiguous():
    A = torch.zeros(1, 2, 12, 12)
    A[0, 0, 1:3, 1:3], A[0, 1, 7:9, 7:9] = 1, 1
    found = components([A])
    assert share_of(*found.eigenvalues) > 0.9
    assert found.salient[1][0].all()


def test_cam_is_the_heads_weights_or_a_sentence():
    case = Case("pooled")
    for one, ours in enumerate(case.maps("cam")):
        row = case.module.fc.weight[case.targets[one]].detach().double().numpy()
        agree(ours, reference.class_activation_map(case.arrays(one)[0], row))
    sentence = "behind 'relu' there must be global average pooling and one linear layer alone; choose gradcam"
    with pytest.raises(UserError, match=sentence):
        Case("dense").maps("cam")


def test_finercam(case):
    for one, ours in enumerate(case.maps("finercam")):
        A, _ = case.arrays(one)
        logits = case.logits(one).detach().numpy()
        agree(ours, reference.finercam(A, lambda j, one=one, A=A: case.gradient(one, A, j), logits, case.targets[one]))


def test_diffgradcam(case):
    for one, ours in enumerate(case.maps("diffgradcam")):
        A, _ = case.arrays(one)
        count = len(case.logits(one))
        wanted = reference.diffgradcam(A, lambda j, one=one, A=A: case.gradient(one, A, j), count, case.targets[one])
        agree(ours, wanted)


def test_what_is_added_to_all_logits_moves_gradcam_but_not_diffgradcam():
    """Passive fooling: the probabilities stay, Grad-CAM shows what the training wants."""

    class Fooling(Dense):
        def forward(self, images):
            features = self.body(self.stem(images).relu())
            return self.head(self.relu(features)) + 50 * features[:, :, :2].mean(dim=(1, 2, 3))[:, None]

    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    maps = {}
    for module in (Dense(), Fooling()):
        network = build_network(seeded(module).eval(), images, "body")
        with frozen(module):
            evidence = collect(network, images)
            both = explain(evidence, [CAMS[name].function for name in ("gradcam", "diffgradcam")])
            maps[type(module)] = both, evidence.logits.softmax(dim=1)
    (honest, chances), (fooled, same_chances) = maps.values()
    torch.testing.assert_close(chances, same_chances, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(honest[:, 1], fooled[:, 1], rtol=1e-3, atol=1e-4)
    assert (honest[:, 0] - fooled[:, 0]).abs().max() > 0.1 * honest[:, 0].abs().max()


@on(*sorted(KINDS.keys() - {"tokens"}))  # the loop varies only positions, not the class token
def test_shapleycam(case):
    for one, ours in enumerate(case.maps("shapleycam")):
        A, _ = case.arrays(one)
        agree(ours, reference.shapleycam(A, lambda A, one=one: case.gradient(one, A, case.targets[one])), 1e-3)


def test_shapleycam_differs_from_gradcam_where_the_head_is_curved():
    case = Case("smooth")
    assert (
        np.abs(
            case.maps("shapleycam") / case.maps("gradcam").max() - case.maps("gradcam") / case.maps("gradcam").max()
        ).max()
        > 0.01
    )


@on(*sorted(KINDS.keys() - {"dense"}))  # the loop would take minutes at 224 px
def test_scorecam(case):
    for one, ours in enumerate(case.maps("scorecam")):
        A, _ = case.arrays(one)

        def logit(image, one=one):
            with torch.no_grad():
                return float(case.logits(one, image=image)[case.targets[one]])

        agree(ours, reference.scorecam(A, case.images[one].numpy(), logit), 1e-3)


def test_recipro_cam(case):
    for one, ours in enumerate(case.maps("recipro-cam")):
        A, _ = case.arrays(one)

        def probability(kept, one=one):
            with torch.no_grad():
                return float(case.logits(one, torch.as_tensor(kept)).softmax(dim=0)[case.targets[one]])

        wanted = reference.recipro_cam(A, probability)
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def test_ablation_by_re_runs_equals_the_shortcut_and_the_loop(case):
    maps = case.maps("ablationcam")
    for one, ours in enumerate(maps):
        A, g = case.arrays(one)

        def score(replaced, one=one):
            with torch.no_grad():
                return float(case.logits(one, torch.as_tensor(replaced))[case.targets[one]])

        agree(ours, reference.ablationcam(A, g, score=score, y=score(A)), 1e-3)


@pytest.mark.parametrize(("kind", "affine", "one_class"), [("dense", nn.Linear, False), ("separate", nn.Conv2d, True)])
def test_ablation_finds_its_shortcut(kind, affine, one_class):
    first = Case(kind).network.first_affine
    assert isinstance(first.affine, affine)
    assert first.per_class == one_class


def test_smoothgradcam_plus_plus(case):
    noises = [case.draws.apart("smoothgradcam++")]
    noises = [noises[0].normal(case.images.shape[1:]) for _ in range(4)]
    seen = []
    for noise in noises:
        with frozen(case.module):
            noisy = collect(case.network, case.images.float() + 0.3 * noise, lambda _: case.evidence.targets)
        seen.append(noisy.gradients.double().numpy())
    for one, ours in enumerate(case.maps("smoothgradcam++")):
        wanted = reference.smoothgradcam_plus_plus(case.arrays(one)[0], [g[one] for g in seen])
        np.testing.assert_allclose(ours, wanted, rtol=1e-3, atol=1e-4 * max(np.abs(wanted).max(), 1e-9))


def test_the_draws_of_one_method_do_not_move_anothers():
    case = Case("pooled")
    functions = [CAMS[name].function for name in ("random", "smoothgradcam++")]
    draws = [Draws.of(0, "d", ["0", "1"], "cam", "s", 0) for _ in range(2)]
    with frozen(case.module):
        first = explain(collect(case.network, case.images.float(), draws=draws[0]), functions)
        second = explain(collect(case.network, case.images.float(), draws=draws[1]), functions[::-1])
    assert torch.equal(first, second.flip(1))


def test_fullgrad():
    case = Case("small", 1)
    step, biases = 1e-4, []
    score = lambda image=None: float(case.logits(0, image=image)[case.targets[0]])  # noqa: E731
    with torch.no_grad():
        slopes = np.zeros(case.images[0].shape)
        for place in np.ndindex(slopes.shape):
            moved = case.images[0].clone()
            moved[place] += step
            up = score(moved)
            moved[place] -= 2 * step
            slopes[place] = (up - score(moved)) / (2 * step)
        for layer in [part for part in case.double.modules() if isinstance(part, nn.Conv2d)]:
            shapes = []
            handle = layer.register_forward_hook(lambda _, __, output, shapes=shapes: shapes.append(output.shape[1:]))
            score()
            handle.remove()
            found = np.zeros(shapes[0])
            for place in np.ndindex(found.shape):
                values = []
                for sign in (1, -1):

                    def move(_, __, output, place=place, sign=sign):
                        output = output.clone()
                        output[(0, *place)] += sign * step
                        return output

                    handle = layer.register_forward_hook(move)
                    values.append(score())
                    handle.remove()
                found[place] = (values[0] - values[1]) / (2 * step) * float(layer.bias[place[0]])
            biases.append(found)
    wanted = reference.fullgrad(case.images[0].numpy(), slopes * case.images[0].numpy(), biases, (2, 2))
    agree(case.maps("fullgrad")[0], wanted, 1e-3)


def test_the_full_gradients_of_a_relu_network_add_up_to_the_logit():
    module = Pooled()
    module.fc = nn.Linear(8, 10, bias=False)
    module.features.insert(1, nn.BatchNorm2d(8))
    module = seeded(module).eval()
    module.features[1].running_mean = torch.randn(8)
    module.features[1].running_var = torch.rand(8) + 0.5
    images = torch.randn(3, 3, 64, 64)
    network = build_network(module, images)
    with frozen(module):
        evidence = collect(network, images)
        inputs, biases = full_gradients(evidence)
    total = inputs.sum(dim=(1, 2, 3)) + sum(one.sum(dim=(1, 2, 3)) for one in biases)
    torch.testing.assert_close(total, evidence.scores, rtol=1e-4, atol=1e-4)


def labels_by_sklearn(points):
    from scipy.spatial.distance import pdist
    from sklearn.cluster import DBSCAN

    pairs = np.sort(pdist(points))
    # Dead channels are at distance 0, which sklearn refuses as a limit.
    limit = max(pairs[max(1, int(0.25 * len(pairs))) - 1] * (1 + 1e-6), 1e-30)
    return DBSCAN(eps=limit, min_samples=max(2, int(0.05 * len(points)))).fit(points).labels_


@pytest.mark.parametrize("name", ["cf-cam", "cf-cam-softmax"])
def test_cf_cam(name):
    case = Case("dense")
    generator = np.random.default_rng(0)
    A = np.repeat(generator.random((4, 5, 6)), 10, axis=0) + 0.3 * generator.random((40, 5, 6))
    g = generator.normal(size=A.shape)
    case.evidence.activations, case.evidence.gradients = (torch.tensor(value[None]).float() for value in (A, g))
    wanted = reference.cf_cam(A, g, labels_by_sklearn, softmax="softmax" in name)
    agree(case.maps(name)[0], wanted, 1e-3)


@pytest.mark.parametrize("kind", ["many", "normalised"])
@pytest.mark.parametrize("name", ["cf-cam", "cf-cam-softmax"])
def test_cf_cam_is_exact_for_many_channels_and_behind_a_layer_normalisation(name, kind):
    """A percentile of samples chose other channels; behind the normalisation, the sum of the channels cancels."""
    case = Case("dense")
    generator = np.random.default_rng(0)
    if kind == "many":
        A = generator.random((400, 3, 3)) * generator.random((400, 1, 1))
    else:
        A = 0.3 * generator.normal(size=(64, 4, 4)) + np.sign(generator.normal(size=(64, 1, 1)))
        A = (A - A.mean(axis=0)) / A.std(axis=0)
    A, g = (values.astype(np.float32) for values in (A, 1e-4 * generator.normal(size=A.shape)))
    case.evidence.activations, case.evidence.gradients = (torch.tensor(values[None]) for values in (A, g))
    wanted = reference.cf_cam(*(values.astype(np.float64) for values in (A, g)), labels_by_sklearn, "softmax" in name)
    found = np.asarray(case.maps(name)[0], np.float64)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("definite", [True, False])
def test_squaring_finds_what_a_decomposition_does(definite):
    generator = torch.Generator().manual_seed(0)
    for size, rank in ((1, 1), (2, 1), (49, 49), (49, 3), (120, 60)):
        rows = torch.randn(4, size, rank, generator=generator, dtype=torch.float64)
        gram = rows @ rows.mT
        if not definite:
            gram = gram - 2 * torch.linalg.matrix_norm(gram, 2)[:, None, None] * torch.eye(size, dtype=gram.dtype) / 3
        for scale in (1e-30, 1.0, 1e30):
            (found, *sizes), (wanted, *largest) = by_squaring(gram * scale, definite=definite), by_eigh(gram * scale)
            assert ((found * wanted).sum(dim=1).abs() - 1).abs().max() < 1e-9
            torch.testing.assert_close(sizes[0], largest[0], rtol=1e-9, atol=0)
            if gram.shape[1] > 1:
                size = torch.linalg.matrix_norm(gram * scale)[:, None]
                assert ((sizes[1] - largest[1]).abs() <= 0.03 * size).all()
    values = torch.tensor([1.0, 1 - 1e-6, *[0.9] * 30], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64)).Q
    close = (basis * values @ basis.T)[None]
    left = (by_squaring(close, definite=True)[0] @ basis)[0]
    assert abs(left[1] / left[0]) < 0.13  # √ of the weight that `SQUARINGS` names
    axis, *sizes = by_squaring(torch.zeros(2, 5, 5, dtype=torch.float64), definite=definite)
    assert axis.tolist() == [[0.0] * 5] * 2
    assert [size.tolist() for size in sizes] == [[[0.0]] * 2] * 2


def test_clusters_are_dbscans():
    generator = np.random.default_rng(1)
    points = np.concatenate(
        [generator.normal(place, 0.3, (20, 3)) for place in (0, 3, 9)] + [generator.normal(0, 30, (6, 3))]
    )
    ours, wanted = clusters(torch.tensor(points).float()[None])[0].numpy(), labels_by_sklearn(points)
    assert (ours == -1).tolist() == (wanted == -1).tolist()
    assert (
        len(set(zip(ours.tolist(), wanted.tolist(), strict=True)))
        == len(set(wanted.tolist()))
        == len(set(ours.tolist()))
    )
    assert clusters(torch.zeros(3, 1, 2)).tolist() == [[-1]] * 3


def attention_of(case):
    """Scores and weights of every block of `Tokens`, and the gradients of the weights, from its own modules."""
    seen = []
    handles = [
        block.dropout.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        for block in case.double.blocks
    ]
    score = logits_of(case.double(case.images)).gather(1, case.evidence.targets[:, None]).sum()
    gradients = torch.autograd.grad(score, seen)
    for handle in handles:
        handle.remove()
    return [[one.detach().numpy() for one in values] for values in (seen, gradients)]


def test_attention_methods():
    case = Case("tokens")
    weights, gradients = attention_of(case)
    for one in range(2):
        rolled = reference.attention_rollout([layer[one] for layer in weights])[1:].reshape(4, 4)
        agree(case.maps("attention-rollout")[one], rolled)
    with frozen(case.module), torch.no_grad():
        from camrobust.core.explain.attention import record_attention

        _, layers = record_attention(case.evidence, "test")
    for layer, wanted in zip(layers, weights, strict=True):
        np.testing.assert_allclose(layer.weights.numpy(), wanted, atol=1e-5)
        np.testing.assert_allclose(layer.scores.softmax(dim=-1).numpy(), wanted, atol=1e-5)
    for one in range(2):
        scores = [layer.scores[one].double().numpy() for layer in layers]
        wanted = reference.agcam(scores, [layer[one] for layer in gradients])
        agree(case.maps("agcam")[one], wanted[1:].reshape(4, 4))


@pytest.mark.parametrize("name", ["legrad", "agcam", "attention-rollout"])
def test_attention_methods_refuse_what_has_none(name):
    with pytest.raises(UserError, match=f"{name}: the model must have attention among all positions of an image"):
        Case("pooled").maps(name)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_tokens_are_read_without_a_reshape(prefix, brief):
    module = seeded(Tokens(prefix)).eval()
    images = torch.randn(3, 3, 32, 32)
    network = build_network(module, images)
    assert network.layer_name == ("norm" if prefix == 0 else "blocks.1.norm1")
    assert (network.layout.prefix, network.layout.grid) == (prefix, (4, 4))
    named = build_network(module, images, "blocks.0")
    assert named.layout.order == "tokens"
    with frozen(module):
        evidence = collect(named, images, draws=Draws.of(0, "", ["0", "1", "2"], "", "", 0))
        names = [name for name in CAMS.names() if name not in ("cam", "lift-cam", "winsor-cam")]
        maps = explain(evidence, [CAMS[name].function for name in names])
    assert maps.shape == (3, len(names), 4, 4)
    assert maps.isfinite().all()


def test_methods_are_listed_with_needs_and_costs():
    from camrobust.core.explain.cams.registry import COSTS, NEEDS, cam
    from camrobust.interface.listing import catalogue

    rows = {row["name"]: row for row in catalogue("cams")}
    assert sorted(rows) == CAMS.names()
    assert all(row["needs"] in NEEDS and row["cost"] in COSTS for row in rows.values())
    assert rows["scorecam"]["cost"] == "many passes"
    assert {name: row["cost"] for name, row in rows.items() if row["cost"] != NEEDS[row["needs"]][1]} == {
        **dict.fromkeys(("diffgradcam", "finercam", "lift-cam", "shapleycam"), "passes"),
        **dict.fromkeys(("is-cam", "ss-cam"), "thousands of passes"),
        "opti-cam": "many passes",
    }
    sentence = (
        "cam: 'x' must need one of activations, gradients, head, tail, masked inputs, passes, attention at a cost of "
        "shared, tail, passes, many passes, thousands of passes, got needs='luck', cost='None'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        cam("x", needs="luck", source="", year=2000)
    with pytest.raises(
        ValueError,
        match=r"^cam: 'x' must return one of map, weights, values, salient values, marked map, got returns='mask'$",
    ):
        cam("x", needs="gradients", returns="mask", source="", year=2000)
