import gc
import re
import resource
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS, CLASSIC
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import frozen, logits_of
from camrobust.core.explain.target_layer import build_network
from camrobust.measure.model import wrap
from tests.reference.cams import REFERENCE
from tests.toys import Branching, Dense, Logits, Pooled, Tokens, Twice, Wrapped, seeded

NAMES = list(REFERENCE)
EVERY = [one.name for one in CAMS if one.needs != "attention"]


def images(count=3, seed=1):
    return torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def network(module, layer=None):
    module.eval()
    return build_network(module, images(2, 9), layer)


def maps_of(net, batch, names=NAMES):
    with frozen(net.module):
        evidence = collect(net, batch, draws=Draws.of(0, "d", [str(n) for n in range(len(batch))], "cam", "s", 0))
        return evidence, explain(evidence, [CAMS[name].function for name in names])


MODELS = {
    "pooled": lambda: network(seeded(Pooled())),
    "dense": lambda: network(seeded(Dense())),
    "dense-before-inplace": lambda: network(seeded(Dense()), "body"),
    "branching": lambda: network(seeded(Branching())),
    "wrapped": lambda: network(Wrapped(seeded(Pooled()))),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_map_equals_the_float64_loop(kind, name):
    net = MODELS[kind]()
    batch = images()
    evidence, maps = maps_of(net, batch, [name])
    tail = net.module.double()
    for one in range(len(batch)):
        A, g = (value[one].double().numpy() for value in (evidence.activations, evidence.gradients))
        target = int(evidence.targets[one])

        def score(replaced, one=one, target=target):
            handle = net.layer.register_forward_hook(lambda *_: torch.from_numpy(replaced.copy())[None])
            with torch.no_grad():
                logits = logits_of(tail(batch[one : one + 1].double()))
            handle.remove()
            return float(logits[0, target])

        wanted = REFERENCE[name](A, g, score=score, y=score(A)) if name == "ablationcam" else REFERENCE[name](A, g)
        np.testing.assert_allclose(maps[one, 0].numpy(), wanted, rtol=2e-4, atol=2e-5 * np.abs(wanted).max())


def test_gradients_are_those_of_the_activations_that_are_handed_out():
    # An in-place ReLU follows `body`: A must be what left the layer (with negatives), g the gradient there.
    net = network(seeded(Dense()), "body")
    batch = images()
    evidence, _ = maps_of(net, batch)
    assert evidence.activations.min() < 0
    leaf = evidence.activations.clone().requires_grad_()
    logits = net.module.head(torch.relu(leaf))
    (wanted,) = torch.autograd.grad(logits.gather(1, evidence.targets[:, None]).sum(), leaf)
    torch.testing.assert_close(evidence.gradients, wanted)


@pytest.mark.parametrize(
    ("kind", "closed"), [("pooled", True), ("wrapped", True), ("dense", False), ("branching", False)]
)
def test_the_closed_form_is_found_by_trying(kind, closed):
    assert (MODELS[kind]().head is not None) == closed


@pytest.mark.parametrize(("kind", "cut"), [("pooled", True), ("dense", True), ("wrapped", False), ("branching", False)])
def test_the_tail_is_cut_where_the_model_can_be_traced(kind, cut):
    assert (MODELS[kind]().tail is not None) == cut


def test_a_target_inside_a_residual_block_is_cut_with_its_shortcut():
    from torchvision.models import resnet18

    module = seeded(resnet18(num_classes=5), 3).eval()
    batch = images()[..., :96, :96]
    net = build_network(module, batch, "layer4.1.conv1")
    assert net.head is None
    assert net.tail.before is not None
    with frozen(module):
        evidence = collect(net, batch)
        rows = torch.tensor([2, 0, 0, 1])
        again = evidence.logits_of_activations(evidence.activations[rows], rows)
        torch.testing.assert_close(again, evidence.logits[rows], rtol=1e-4, atol=1e-4)
        changed = evidence.activations[rows] * 0.5
        by_tail = evidence.logits_of_activations(changed, rows)
        evidence.network = replace(net, tail=None)
        torch.testing.assert_close(by_tail, evidence.logits_of_activations(changed, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_is_the_images_one_by_one(kind):
    net = MODELS[kind]()
    batch = images(4)
    _, together = maps_of(net, batch)
    for one in range(4):
        _, alone = maps_of(net, batch[one : one + 1])
        size = together[one].abs().amax(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(together[one] / size, alone[0] / size, rtol=0, atol=1e-5)


def state(module):
    hooks = [
        len(getattr(part, name))
        for part in module.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ]
    flags = [(parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    return hooks, flags, [part.training for part in module.modules()]


def test_flags_modes_gradients_and_hooks_are_put_back(brief):
    module = seeded(Pooled()).train()
    module.fc.weight.requires_grad_(False)
    module.features[0].eval()
    weights = [p.clone() for p in module.parameters()]
    before = state(module)
    net = network_of_training(module)

    def fail(_):
        raise RuntimeError("stop")

    with frozen(module), pytest.raises(RuntimeError, match="stop"):
        collect(net, images(), choose=fail)
    assert state(module) == before
    maps_of(net, images()[:, :, :32, :32], EVERY)
    assert state(module) == before
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


@pytest.mark.parametrize(
    "name", ["agcam", "legrad", "attention-rollout", "fullgrad", "opti-cam", "refinecam", "scorecam", "smoothgradcam++"]
)
def test_hooks_are_gone_when_a_pass_of_a_method_fails(name):
    module = seeded(Tokens())
    net = build_network(module, torch.rand(2, 3, 32, 32))
    before = state(module)
    with frozen(module):
        evidence = collect(net, torch.rand(2, 3, 32, 32), draws=Draws.of(0, "", ["0", "1"], "", "", 0))
        module.norm.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            explain(evidence, [CAMS[name].function])
        module.norm._forward_hooks.clear()
    assert state(module) == before


def network_of_training(module):
    with frozen(module):
        return build_network(module, images(2, 9))


def test_a_frozen_model_under_no_grad_still_has_gradients():
    net = MODELS["pooled"]()
    with torch.no_grad():
        evidence, _ = maps_of(net, images())
    assert evidence.gradients.abs().sum() > 0
    assert not evidence.activations.requires_grad


def test_input_is_left_unchanged_and_evidence_holds_no_graph(brief):
    net = MODELS["pooled"]()
    batch = images()
    kept = batch.clone()
    evidence, maps = maps_of(net, batch, EVERY)
    assert torch.equal(batch, kept)
    tensors = [evidence.activations, evidence.gradients, evidence.logits, maps]
    assert not any(tensor.requires_grad or tensor.grad_fn for tensor in tensors)


def growth(names, batches):
    """Live tensors, and bytes of the process, that many batches leave behind: the least of three times as many.

    What leaks grows each time, while threads of other tests may take memory once.
    """
    net = network(seeded(Pooled()))
    batch = torch.rand(2, 3, 32, 32)

    def held():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor), pages * resource.getpagesize()

    for _ in range(batches // 10):
        maps_of(net, batch, names)
    states = [held()]
    for _ in range(3):
        for _ in range(batches):
            maps_of(net, batch, names)
        states.append(held())
    grown = [[after - start for after, start in zip(*pair, strict=True)] for pair in pairwise(states)]
    return [min(kind) for kind in zip(*grown, strict=True)]


@pytest.mark.linux
def test_no_memory_growth_over_hundreds_of_batches():
    tensors, size = growth(CLASSIC, 400)
    assert tensors <= 2
    assert size < 400 * 2**11


@pytest.mark.gpu
def test_no_growth_of_a_gpus_memory_over_hundreds_of_batches():
    model = wrap(seeded(Pooled()), image_size=32, device="cuda")
    batch = torch.rand(2, 3, 32, 32, device="cuda")
    functions = [CAMS[name].function for name in CLASSIC]

    def passes(count):
        for _ in range(count):
            draws = Draws.of(0, "d", ["0", "1"], "cam", "s", 0, batch.device)
            explain(collect(model.network, batch, draws=draws), functions)
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    assert passes(200) == passes(2000)


def test_no_memory_growth_of_methods_with_passes_of_their_own(brief):
    tensors, size = growth(EVERY, 20)
    assert tensors <= 2
    assert size < 2**21


def test_random_draws_differ_between_streams_and_repeat_with_them():
    net = MODELS["pooled"]()
    batch = images(1).expand(2, -1, -1, -1)
    _, maps = maps_of(net, batch, ["random"])
    _, again = maps_of(net, batch, ["random"])
    assert torch.equal(maps, again)
    assert not torch.allclose(maps[0], maps[1])


def test_random_without_streams_is_refused():
    net = MODELS["pooled"]()
    evidence = collect(net, images())
    sentence = "random: draws must hold one random stream per image, got None; pass draws= to collect()"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CAMS["random"].function(evidence)


def test_not_finite_activations_give_nan_not_an_error():
    net = MODELS["pooled"]()
    evidence, _ = maps_of(net, images(2))
    evidence.activations[0, 0, 0, 0] = torch.nan
    maps = CAMS["eigencam"].function(evidence)
    assert maps[0].isnan().all()
    assert maps[1].isfinite().all()


def test_the_sign_of_the_component_is_canonical():
    net = MODELS["pooled"]()
    evidence, maps = maps_of(net, images(4), ["eigencam"])
    total = evidence.activations.sum(dim=1)
    centred = total - total.mean(dim=(1, 2), keepdim=True)
    assert ((maps[:, 0] * centred).sum(dim=(1, 2)) >= 0).all()


def test_gradcam_plus_plus_keeps_gradients_of_1e_minus_6():
    net = MODELS["pooled"]()
    evidence, _ = maps_of(net, images(1))
    evidence = replace(evidence, gradients=evidence.gradients / evidence.gradients.abs().max() * 1e-6)
    maps = CAMS["gradcam++"].function(evidence)
    wanted = REFERENCE["gradcam++"](evidence.activations[0].double().numpy(), evidence.gradients[0].double().numpy())
    np.testing.assert_allclose(maps[0].numpy(), wanted, rtol=1e-4, atol=1e-12)
    assert maps.max() > 0


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("bdy", "target_layer: the model has no layer 'bdy'; near names: body"),
        (
            "head",
            "target_layer: 'head' must put out a feature map (B, C, h, w) or a grid of tokens (B, N, C), got (2, 10); "
            "choose another layer",
        ),
    ],
)
def test_a_mistaken_target_layer_is_one_sentence(layer, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        network(seeded(Dense()), layer)


def test_a_layer_of_one_position_has_no_map():
    with pytest.raises(UserError, match="'pool' puts out a single position, so it has no map; choose one before"):
        network(seeded(Pooled()), "pool")


def test_a_layer_that_runs_twice_is_refused():
    sentence = "target_layer: 'conv' must run exactly once in a forward pass, it ran 2 times; choose another layer"
    with pytest.raises(UserError, match=re.escape(sentence)):
        network(Twice(), "conv")


def test_a_model_without_feature_maps_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 4))
    with pytest.raises(UserError, match="no layer with a spatial output was found in this model"):
        network(module)


def test_outputs_that_hold_logits_are_opened():
    logits = torch.rand(2, 3)
    assert logits_of((logits, 1)) is logits
    assert logits_of(Logits(logits)) is logits
    sentence = "model: its output must be logits of shape (images, classes), got (2, 3, 1); wrap the model"
    with pytest.raises(UserError, match=re.escape(sentence)):
        logits_of(logits[..., None])
    with pytest.raises(UserError, match="got dict; wrap the model"):
        logits_of({})


@pytest.mark.parametrize("classes", [6, 8, 10])
def test_as_many_classes_as_channels_do_not_hide_the_feature_map(classes):
    assert network(seeded(Pooled(classes, channels=8))).layer_name == "features"


def test_a_model_that_ends_in_a_convolution_is_explained_before_it():
    body = nn.Sequential(nn.Conv2d(3, 5, 3, 8, 1), nn.ReLU())
    head = nn.Sequential(nn.Dropout(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert network(seeded(nn.Sequential(body, head))).layer_name == "0"
