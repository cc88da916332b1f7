"""Heads that are not a softmax: what is read off them, and what methods and attacks make of it, against plain loops."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, explain
from camrobust.core.explain.network import logits_of
from camrobust.core.explain.readout import SOFTMAX, Readout
from camrobust.core.perturb import attack, variants
from camrobust.measure.model import wrap
from tests.reference import heads
from tests.reference.cams import REFERENCE
from tests.toys import Dense, Pair, Pooled, Separate, Smooth, Tokens, seeded

OUTPUTS = torch.tensor([
    [2.5, -1.0, 0.5, 2.0], [-3.0, -0.5, -0.25, -2.0], [0.5, -40.0, 40.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1, -2, 3, -9],
])  # fmt: skip
CLEAN = OUTPUTS[[0, 1, 1, 3, 1]]


def rows(tensor):
    return [[float(value) for value in row] for row in tensor]


@pytest.mark.parametrize(
    ("readout", "columns", "plain"),
    [
        (SOFTMAX, slice(4), heads.softmax_head),
        (Readout("binary"), slice(1), heads.binary_head),
        (Readout("multilabel"), slice(4), heads.multilabel_head),
        (Readout("multilabel", explained=1), slice(4), lambda row, clean: heads.multilabel_head(row, clean, 1)),
    ],
)
def test_decision_confidence_and_entropy_are_those_of_plain_loops(readout, columns, plain):
    scores, clean = readout.scores(OUTPUTS[:, columns]), readout.scores(CLEAN[:, columns])
    explained = readout.predicted(clean if readout.is_fixed else scores)
    found = (
        explained, readout.confidence(scores, explained), readout.entropy(scores, explained),
        readout.kept(scores, clean, readout.predicted(clean)),
    )  # fmt: skip
    wanted = [plain(*pair) for pair in zip(rows(OUTPUTS[:, columns]), rows(CLEAN[:, columns]), strict=True)]
    for column, values in zip(found, zip(*wanted, strict=True), strict=True):
        torch.testing.assert_close(column.double(), torch.tensor(values, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert readout.values(scores, explained).isnan().all()
    assert torch.equal(readout.outputs_of(scores), OUTPUTS[:, columns])


@pytest.mark.parametrize("output", [0, 2])
def test_values_are_kept_within_the_tolerance(output):
    readout = Readout("value", explained=output, tolerance=0.75)
    explained = readout.predicted(CLEAN)
    wanted = [heads.value_head(*pair, 0.75, output) for pair in zip(rows(OUTPUTS), rows(CLEAN), strict=True)]
    assert explained.tolist() == [one[0] for one in wanted]
    assert readout.values(OUTPUTS, explained).tolist() == [one[1] for one in wanted]
    assert readout.kept(OUTPUTS, CLEAN, explained).tolist() == [one[2] for one in wanted]
    assert readout.confidence(OUTPUTS, explained).isnan().all()
    assert readout.entropy(OUTPUTS, explained).isnan().all()


@pytest.mark.parametrize(("kind", "columns"), [("binary", 1), ("multilabel", 4)])
def test_probabilities_give_what_their_logits_give(kind, columns):
    logits, found = Readout(kind), Readout(kind, "sigmoids")
    scores, clean = logits.scores(OUTPUTS[:, :columns]), logits.scores(CLEAN[:, :columns])
    shares, before = found.scores(OUTPUTS[:, :columns].sigmoid()), found.scores(CLEAN[:, :columns].sigmoid())
    explained = logits.predicted(clean)
    assert torch.equal(found.predicted(before), explained)
    torch.testing.assert_close(found.confidence(shares, explained), logits.confidence(scores, explained))
    torch.testing.assert_close(found.entropy(shares, explained), logits.entropy(scores, explained))
    assert torch.equal(found.kept(shares, before, explained), logits.kept(scores, clean, explained))


class Squeezed(Pooled):
    """One logit for each image, without a dimension of its own."""

    def forward(self, images):
        return super().forward(images).squeeze(1)


KINDS = {
    "pooled": (lambda: Pooled(1), 64), "dense": (lambda: Dense(1), 224), "separate": (lambda: Separate(1), 64),
    "smooth": (lambda: Smooth(1), 64), "tokens": (lambda: Tokens(1, 1), 32),
}  # fmt: skip


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def maps_of(network, given, choose, names):
    draws = Draws.of(0, "d", [str(number) for number in range(len(given))], "cam", "s", 0)
    evidence = collect(network, given, choose, draws)
    return evidence, explain(evidence, [CAMS[name].function for name in names])


def map_or_sentence(evidence, name):
    try:
        return explain(evidence, [CAMS[name].function])
    except UserError as error:
        return str(error)


APART = ("recipro-cam", "legrad", "cam")
"""Methods that take a probability, or the last linear layer, which the pair of logits does not have."""


@pytest.mark.parametrize("kind", KINDS)
def test_one_logit_is_explained_as_minus_and_plus_itself(kind):
    build, size = KINDS[kind]
    model = wrap(seeded(build()), image_size=size)
    network, given = model.network, images(size, 1)
    assert (network.readout.kind, model.classes) == ("binary", 2)
    pair = wrap(Pair(network.module), image_size=size, target_layer=f"inner.{network.layer_name}").network
    compared = 0
    for target in (0, 1):
        ours, other = (maps_of(one, given, lambda y, c=target: torch.full((len(y),), c), ["gradcam"])[0]
                       for one in (network, pair))  # fmt: skip
        for name in [cam.name for cam in CAMS if cam.name not in APART]:
            found, wanted = map_or_sentence(ours, name), map_or_sentence(other, name)
            if isinstance(wanted, str):
                assert found == wanted.replace("inner.", "")
                continue
            assert ((found - wanted).abs().amax() / wanted.abs().amax().clamp(min=1e-12)) < 1e-4, name
            compared += 1
    assert compared >= 40


def in_double(network, image, target, A=None):
    """The score of class 0 (-z) or 1 (z) of one image in float64, of other activations if they are given."""
    module = deepcopy(network.module).double()
    if A is not None:
        module.get_submodule(network.layer_name).register_forward_hook(lambda *_: torch.as_tensor(A)[None])
    z = logits_of(module(image[None].double()))[0, 0]
    return z if target else -z


@pytest.mark.parametrize("kind", ["pooled", "dense", "separate", "smooth"])
@pytest.mark.parametrize("target", [0, 1])
def test_class_0_is_explained_by_minus_the_logit(kind, target):
    build, size = KINDS[kind]
    network, given = wrap(seeded(build()), image_size=size).network, images(size)
    names = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "ablationcam"]
    evidence, maps = maps_of(network, given, lambda logits: torch.full((len(logits),), target), names)
    for one in range(len(given)):
        A = evidence.activations[one].double()
        leaf = A.clone().requires_grad_()
        score = in_double(network, given[one], target, leaf)
        (g,) = torch.autograd.grad(score, leaf)
        assert float(evidence.scores[one]) == pytest.approx(float(score.detach()), rel=1e-4, abs=1e-5)
        more = {"score": lambda B, i=one: float(in_double(network, given[i], target, B)), "y": float(score.detach())}
        for number, name in enumerate(names):
            wanted = REFERENCE[name](A.numpy(), g.numpy(), **(more if name == "ablationcam" else {}))
            size_of = np.abs(wanted).max() or 1.0
            np.testing.assert_allclose(maps[one, number] / size_of, wanted / size_of, rtol=0, atol=2e-4, err_msg=name)


def test_one_logit_needs_no_dimension_of_its_own():
    given = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    for count in (1, 3):
        some = given.expand(count, -1, -1, -1)
        found, wanted = (camrobust.explain(seeded(build(1)), some, ["gradcam"]) for build in (Squeezed, Pooled))
        for name, maps in wanted.items():
            torch.testing.assert_close(found[name], maps)


@pytest.mark.parametrize(("head", "classes"), [(None, 1), ("multilabel", 3), ("value:tolerance=1,explained=2", 3)])
def test_recipro_cam_takes_probabilities_of_the_head(head, classes):
    network, given = wrap(seeded(Dense(classes)), image_size=224, head=head).network, images(224, 1)
    evidence, maps = maps_of(network, given, None, ["recipro-cam"])
    target = int(evidence.targets[0])
    A = evidence.activations[0].double()
    h, w = A.shape[1:]
    module = deepcopy(network.module).double()
    replaced = []
    module.get_submodule(network.layer_name).register_forward_hook(lambda *_: replaced[-1][None])
    for i in range(0, h, 3):
        for j in range(0, w, 3):
            mask = torch.zeros(h, w, dtype=torch.float64)
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        mask[i + di, j + dj] = 1 / 4 / 2 ** (abs(di) + abs(dj))
            replaced.append(A * mask)
            outputs = module(given.double())[0].tolist()
            if head is None:
                wanted = heads.sigmoid(outputs[0] if target else -outputs[0])
            else:
                wanted = heads.sigmoid(outputs[target]) if head == "multilabel" else outputs[2]
            assert float(maps[0, 0, i, j]) == pytest.approx(wanted, rel=1e-4)


def test_legrad_of_one_logit_turns_with_the_class():
    network, given = wrap(seeded(Tokens(1, 1)), image_size=32).network, images(32)
    found = [maps_of(network, given, lambda y, c=c: torch.full((len(y),), c), ["legrad"])[1] for c in (0, 1)]
    assert all(maps.amax() > 0 for maps in found)
    assert not torch.allclose(*found, rtol=0.1)


def test_a_label_is_explained_by_its_own_logit():
    module = seeded(Pooled(4))
    given = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    model = wrap(module, image_size=64, head="multilabel")
    assert model.classes == 4
    inputs = model.normalise(given)
    highest = module(inputs).argmax(dim=1).tolist()
    for head, labels in (("multilabel", highest), ("multilabel:explained=1", [1] * 3)):
        maps = camrobust.explain(module, given, ["gradcam"], head=head)["gradcam"]
        for image, label, found in zip(inputs, labels, maps, strict=True):
            features = module.features(image[None]).double()[0]
            wanted = (module.fc.weight[label].double()[:, None, None] * features).sum(0).relu() / features[0].numel()
            torch.testing.assert_close(found.double(), wanted.detach(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("head", [None, "multilabel:explained=1", "value:tolerance=0.1,explained=1"])
def test_fast_gradient_signs_leave_the_decision(head):
    classes = 1 if head is None else 3
    module = seeded(Smooth(classes))
    model, given = wrap(module, image_size=64, head=head), (images(64, 4).sigmoid() * 255).round() / 255
    made = attack(model, given, variants(["fgsm:epsilon=2"]) * 4, ["0", "1", "2", "3"], "set", 0)
    double = deepcopy(module).double()
    moved = 0
    for image, found in zip(given, made, strict=True):
        leaf = image.double().clone().requires_grad_()
        output = double(((leaf - model.mean.double()) / model.std.double())[None])[0, 0 if head is None else 1]
        # Away from the sign of a logit, and upwards for a value.
        loss = output if head is not None and head.startswith("value") else -output.sign() * output
        (g,) = torch.autograd.grad(loss, leaf)
        wanted = (image.double() * 255 + 2 * g.sign()).clamp(0, 255).round()
        moved += float((wanted == (found * 255).round().double()).double().mean())
    assert moved / 4 > 0.99


def test_an_attack_flips_the_class_of_one_logit():
    module = seeded(Pooled(1))
    given = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    model = wrap(module, image_size=64)
    levels = model.network.logits(model.normalise((given * 255).round() / 255))[:, 1]
    with torch.no_grad():
        module.fc.bias -= levels.median()  # the decision lies amid these images
    adversarial = camrobust.attack(module, given, "pgd:epsilon=8,steps=10,step=2")
    before, after = (module(model.normalise(one))[:, 0] > 0 for one in ((given * 255).round() / 255, adversarial))
    assert 0 < before.sum() < 6
    assert (before != after).float().mean() > 0.5


@pytest.mark.parametrize("head", [None, "multilabel", "value:tolerance=0.02,explained=0"])
def test_an_attack_on_the_map_keeps_the_decision(head):
    module = seeded(Smooth(1 if head is None else 3))
    given = (torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 255).round().to(torch.uint8)
    adversarial = camrobust.attack(module, given, "cam_attack:epsilon=8,steps=6,step=3", head=head)
    model = wrap(module, image_size=64, head=head)
    readout = model.network.readout
    clean, noisy = (model.network.logits(model.normalise(one)).detach() for one in (given, adversarial))
    explained = readout.predicted(clean)
    assert readout.kept(noisy, clean, explained).all()
    was, is_now = (
        camrobust.explain(module, one, head=head, targets=explained)["gradcam"] for one in (given, adversarial)
    )
    assert (was - is_now).abs().amax() > 0.05 * was.amax()


def test_a_targeted_attack_raises_the_label_and_refuses_values():
    module = seeded(Smooth(3))
    given = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6)) * 255).round().to(torch.uint8)
    spec = "pgd_targeted:epsilon=8,steps=5,step=3,target=2"
    adversarial = camrobust.attack(module, given, spec, head="multilabel")
    model = wrap(module, image_size=64)
    before, after = (model.network.logits(model.normalise(one))[:, 2] for one in (given, adversarial))
    assert (after > before).all()
    sentence = "pgd_targeted: values have no target class; leave it out for a model with head: value"
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        camrobust.attack(module, given, spec, head="value:tolerance=1,explained=0")


SEGMENTS = (
    "model: it puts out scores for every position (2, 21, 8, 8), as for segmentation, and only networks with one row "
    "of logits for each image can be measured; wrap it in a module that makes such a row of them"
)


def test_networks_for_other_tasks_are_refused_in_one_sentence():
    from types import SimpleNamespace

    maps, boxes = torch.rand(2, 21, 8, 8), torch.rand(2, 5, 4)
    for output in (maps, {"logits": maps}, SimpleNamespace(logits=maps), (maps, maps)):
        with pytest.raises(UserError, match=f"^{re.escape(SEGMENTS)}$"):
            logits_of(output)
    for output in (
        [{"boxes": boxes[0], "labels": boxes[0, :, 0], "masks": maps}], {"pred_boxes": boxes, "logits": boxes},
        SimpleNamespace(logits=boxes, pred_boxes=boxes),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"^model: it puts out boxes, as for detection, and only networks with"):
            logits_of(output)
    for output in ({"out": maps, "aux": maps}, SimpleNamespace(masks_queries_logits=maps)):
        with pytest.raises(UserError, match=r"^model: it puts out masks, as for segmentation, and only networks with"):
            logits_of(output)
    with pytest.raises(UserError, match=r"must be logits of shape \(images, classes\), got \(2, 21, 1, 1\)"):
        logits_of(maps[:, :, :1, :1])


@pytest.mark.parametrize(
    "name", ["segmentation.lraspp_mobilenet_v3_large", "detection.fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_torchvisions_networks_for_other_tasks_are_refused(name):
    from torchvision import models

    task, _, builder = name.partition(".")
    module = getattr(getattr(models, task), builder)(weights=None, weights_backbone=None)
    with pytest.raises(UserError, match=f"^model: it puts out .*as for {task}, and only networks with one row"):
        wrap(module.eval(), image_size=64)
