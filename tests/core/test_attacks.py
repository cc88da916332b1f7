"""Attacks on the prediction and on the map, compared with torchattacks, plain loops and brute force."""

import copy
import os
import re

import pytest
import torch
from torch import nn

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.perturb import PERTURBATIONS, attack, make_variants, perturb, variants
from camrobust.core.perturb.attacked_cams import differentiable
from camrobust.core.perturb.attacks.on_map import OBJECTIVES, attack_map
from camrobust.core.perturb.attacks.on_prediction import (
    Ball,
    ascend,
    away_from,
    ball_around,
    clean_logits,
    column,
)
from camrobust.io.images import decode
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model, wrap
from camrobust.measure.passes import attacked as made_in_run
from camrobust.measure.settings import ImageVariants, MeasureSettings, Sample
from tests.toys import Dense, Pooled, seeded

ATTACKS = [one.name for one in PERTURBATIONS if one.needs_model]
SIZE = 224


def images(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    return (smooth * 255).round() / 255


@pytest.fixture(scope="module", params=[Pooled, Dense])
def toy(request):
    return wrap(seeded(request.param()), image_size=SIZE)


@pytest.fixture(scope="module")
def resnet_file(shared_data):
    path = shared_data / "weights" / "resnet18_ktb_small.safetensors"
    return ModelSpec("resnet18", "torchvision:resnet18", str(path)), path.read_bytes()


@pytest.fixture(scope="module")
def resnet(shared_data, resnet_file):
    model = load_model(*resnet_file)
    photos = sorted((shared_data / "images").iterdir())[:40:10]
    pixels = torch.stack([torch.from_numpy(decode(one.read_bytes(), 256, 224).pixels) for one in photos])
    given = pixels.float() / 255
    return model, given, predictions(model, given)


def logits_of(model, given):
    return clean_logits(model, ball_around(given, radii(0, len(given))))


def predictions(model, given):
    return logits_of(model, given).argmax(dim=1)


class Normalised(nn.Module):
    """A module for torchattacks: it takes images in [0, 1] and returns logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.module = model.network.module

    def forward(self, pixels):
        return self.module(self.model.normalise(pixels))


def radii(value, count):
    return torch.full((count,), float(value))


def attacked(model, given, spec, names=None):
    planned = variants([spec]) * len(given)
    return attack(model, given, planned, names or [str(one) for one in range(len(given))], "set", 0)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("steps", "share"), [(1, 0.999), (5, 0.85)])
def test_steps_of_whole_levels_lead_where_torchattacks_goes(resnet, steps, share):
    import torchattacks

    model, given, classes = resnet
    theirs = torchattacks.PGD(Normalised(model).eval(), eps=4 / 255, alpha=1 / 255, steps=steps, random_start=False)
    wanted = theirs(given, classes) * 255
    ball = ball_around(given, radii(4, len(given)))
    attacked_levels = ascend(
        ball, away_from(model, clean_logits(model, ball)), radii(steps, len(given)), column(radii(1, len(given)))
    )
    # A gradient that is 0 up to rounding may have either sign; every step adds to that, on some processors more.
    assert ((attacked_levels - wanted).abs() < 1e-2).float().mean() > share


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("steps", "alike"), [(1, 0.9999), (6, 0.85)])
def test_an_l2_ascent_is_torchattacks(resnet, steps, alike):
    import torchattacks

    model, given, classes = resnet
    theirs = torchattacks.PGDL2(Normalised(model).eval(), eps=2.0, alpha=0.5, steps=steps, random_start=False)
    wanted = theirs(given, classes) * 255
    ball = ball_around(given, radii(2 * 255, len(given)), 2)
    size = column(radii(0.5 * 255, len(given)))
    attacked_levels = ascend(ball, away_from(model, clean_logits(model, ball)), radii(steps, len(given)), size)
    moved, other = ((levels - given * 255).flatten(1) for levels in (attacked_levels, wanted))
    assert torch.cosine_similarity(moved, other).min() > alike
    torch.testing.assert_close(moved.norm(dim=1), other.norm(dim=1), rtol=0.03, atol=0)


def test_fgsm_is_the_sign_of_the_gradient(toy):
    given = images()
    leaf = given.clone().requires_grad_()
    logits = toy.network.module(toy.normalise(leaf))
    nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum").backward()
    wanted = (given * 255 + 4 * leaf.grad.sign()).clamp(0, 255)
    attacked_levels = attacked(toy, given, "fgsm:3") * 255
    assert ((attacked_levels - wanted).abs() < 1e-3).float().mean() > 0.9999


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_an_image_within_its_radius_and_the_same_again(toy, name):
    given = images()
    spec = "cam_attack_rank:epsilon=4,steps=8,step=1" if name == "cam_attack_rank" else f"{name}:3"
    made = attacked(toy, given, spec)
    levels = made * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    assert made.min() >= 0
    assert made.max() <= 1
    epsilon = PERTURBATIONS[name].severities[2][0]
    if name == "pgd_l2":
        lengths = (made - given).flatten(1).norm(dim=1)
        assert (lengths <= epsilon * (1 + 1e-5)).all()
        assert (lengths > 0.95 * epsilon).all()
    else:
        assert (made - given).abs().max() * 255 <= epsilon + 1e-3
    assert torch.equal(made, attacked(toy, given, spec))
    if PERTURBATIONS[name].random and not name.startswith("cam_attack"):
        assert not torch.equal(made, attacked(toy, given, f"{name}:3", ["a", "b", "c"]))


def test_attacks_on_the_prediction_lower_it(toy):
    given = images()
    clean = logits_of(toy, given).softmax(dim=1)
    classes, rows = clean.argmax(dim=1), range(len(given))
    for spec in ("fgsm:3", "pgd:3", "pgd_l2:3", "pgd_targeted:3"):
        assert (logits_of(toy, attacked(toy, given, spec)).softmax(dim=1)[rows, classes] < clean[rows, classes]).all()
    least = clean.argmin(dim=1)
    for spec, target in (("pgd_targeted:5", least), ("pgd_targeted:epsilon=8,steps=5,step=2,target=3", 3)):
        after = logits_of(toy, attacked(toy, given, spec)).softmax(dim=1)
        assert (after[rows, target] > clean[rows, target]).all()


def test_images_of_one_batch_take_their_own_strengths(toy):
    given, planned = images(1).expand(3, -1, -1, -1), variants(["pgd:epsilon=1,steps=2,step=1", "pgd:1", "pgd:4"])
    together = attack(toy, given, planned, ["a"] * 3, "set", 0)
    for place, variant in enumerate(planned):
        alone = attack(toy, given[:1], [variant], ["a"], "set", 0)
        assert ((together[place] - alone[0]).abs() < 1e-3).float().mean() > 0.999


SIDE = SIZE if os.environ.get("CAMROBUST_ALL") else 96
FEW_STEPS = ("epsilon=1,steps=2,step=0.5", "epsilon=4,steps=4,step=1", "epsilon=8,steps=3,step=2")
"""The severities have up to 20 steps, each with a second derivative if the attack is on the map."""


@pytest.mark.data
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd_l2", "cam_attack"])
def test_neither_batch_nor_parts_change_a_pixel(resnet, resnet_file, name, device):
    model, given, _ = resnet
    if device != "cpu":
        model = load_model(*resnet_file, device=device)
    planned = variants([f"{name}:{strength}" for strength in ((1, 3, 4) if name == "fgsm" else FEW_STEPS)])
    few = planned[1:2]
    pixels = (given[:1, :, :SIDE, :SIDE] * 255).round().to(torch.uint8).expand(len(planned) + 1, -1, -1, -1)
    sample = Sample("set", "photo", None, torch.zeros(SIDE, SIDE, dtype=torch.int64))
    image = ImageVariants(sample, pixels, planned)
    made = made_in_run(model, image, MeasureSettings(("gradcam",), batch=1))
    assert torch.equal(made, made_in_run(model, image, MeasureSettings(("gradcam",), batch=64)))
    part = made_in_run(model, ImageVariants(sample, pixels[: len(few) + 1], few), MeasureSettings(("gradcam",)))
    assert torch.equal(part[1], made[2])


def test_the_model_is_left_as_it_was_also_after_an_error():
    module = seeded(Dense()).train()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="target must be below 10"):
        camrobust.attack(module, images(), "pgd_targeted:epsilon=4,steps=1,step=1,target=10")
    made = camrobust.attack(module, images(), "cam_attack:2")
    assert (made.dtype, made.shape) == (torch.uint8, (3, 3, SIZE, SIZE))
    assert module.training
    assert all(one.requires_grad and one.grad is None for one in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.data
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_map_moves_further_than_under_noise_of_the_same_radius_and_the_class_stays(resnet, objective):
    model, given, classes = (resnet[0], *(one[:2] for one in resnet[1:]))
    count = len(given)
    draws = Draws.of(0, "set", [str(one) for one in range(count)], "test", "", 0)
    made = attack_map(model, given, radii(4, count), radii(8, count), radii(1, count), draws, objective=objective)
    assert torch.equal(predictions(model, made), classes)
    noise = (given * 255 + (2 * draws.uniform(given.shape[1:]) - 1).sign() * 4).clamp(0, 255) / 255

    def alike(changed):
        first, second = (camrobust.explain(model, one, targets=classes.tolist())["gradcam"] for one in (given, changed))
        return torch.cosine_similarity(first.flatten(1), second.flatten(1))

    assert alike(made).mean() < alike(noise).mean() - 0.2
    assert (alike(made) < alike(noise)).all()


@pytest.mark.parametrize("cam", differentiable())
def test_every_differentiable_cam_can_be_attacked(cam):
    model = wrap(seeded(Pooled()), image_size=SIZE)
    given = images(2)
    draws = Draws.of(0, "set", ["a", "b"], "test", "", 0)
    made = attack_map(model, given, radii(8, 2), radii(5, 2), radii(2, 2), draws, cam=cam)
    assert not torch.equal(made, given)


def test_a_round_step_in_an_l2_ball_stays_on_the_grid_and_inside():
    clean = torch.tensor([0.0, 128, 255, 7]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    ball = Ball(clean, torch.tensor([2.5, 0.4]).reshape(2, 1, 1, 1), 2)
    at = ball.step(clean, torch.ones_like(clean), column(torch.tensor([9.0, 9.0])))
    grid = ball.on_grid(at)
    assert torch.equal(grid, grid.round())
    assert ((grid - clean).flatten(1).norm(dim=1) <= ball.radius.flatten()).all()
    assert torch.equal(grid[1], clean[1])


def test_variants_that_need_a_model_wait_for_it():
    planned = variants(["contrast:3", "fgsm:3", "pgd:1"])
    image = (images(1)[0] * 255).to(torch.uint8)
    stack = make_variants(image[None], planned, ["a"], "set", 0)[0]
    assert not torch.equal(stack[1], image)
    assert torch.equal(stack[2], image)
    model = seeded(Pooled())
    scores = camrobust.evaluate(model, image[None], perturbations=["contrast:3", "fgsm:5"]).scores
    assert scores["perturbation"].to_list() == ["contrast", "fgsm"]
    clean, hit = (
        scores.filter(scores["perturbation"] == "fgsm").select("confidence_clean", "confidence_perturbed").row(0)
    )
    assert hit != clean
    assert [one.perturbation for one in variants(["preset:paper"])][-10:] == ["fgsm"] * 5 + ["pgd"] * 5


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "fgsm:epsilon=0",
            "epsilon of fgsm must be a whole number from 1 to 255 (1/255), got 0; severities 1 to 5 have 1, 2",
        ),
        ("fgsm:epsilon=1.5", "epsilon of fgsm must be a whole number from 1 to 255 (1/255), got 1.5; "),
        ("pgd:epsilon=4,steps=0,step=1", "steps of pgd must be a whole number from 1 to 1000 (count), got 0; "),
        ("pgd:epsilon=4,steps=5,step=0", "step of pgd must be a number from 0.001 to 255 (1/255), got 0; "),
        ("pgd:epsilon=4", "pgd must have values for epsilon, steps, step; add steps, step"),
        (
            "pgd_l2:epsilon=-1,steps=5,step=1",
            "epsilon of pgd_l2 must be a number from 0.01 to 1000 (ℓ2 norm of pixels in",
        ),
        (
            "pgd_targeted:epsilon=4,steps=5,step=1,target=-2",
            "target of pgd_targeted must be a whole number from -1 to 1e+06 (class (-1: the least likely)), got -2; ",
        ),
        ("fgsm:2+contrast:3", "'fgsm' depends on the model, so it cannot be a step of a sequence; use it alone"),
    ],
)
def test_a_wrong_strength_is_refused_in_one_sentence(spec, sentence):
    with pytest.raises(UserError, match=re.escape(f"perturbations: {sentence}")):
        variants([spec])


def test_an_attack_needs_a_model_and_fit_settings(tmp_path):
    with pytest.raises(UserError, match=r"'pgd' needs a model; use camrobust\.attack"):
        perturb(images(1), "pgd:3", ["a"])
    from camrobust.interface.contact_sheet import sheet

    with pytest.raises(UserError, match="sheet: 'pgd' needs a model"):
        sheet("photo.jpg", str(tmp_path / "sheet.png"), perturbations=["pgd"])
    toy = wrap(seeded(Pooled()), image_size=SIZE)
    for mixed in (["contrast:3", "contrast:4"], ["fgsm:1", "pgd:1"], ["cam_attack:1", "cam_attack:severity=1,cam=cam"]):
        planned = variants(mixed)
        sentence = "attack: planned must hold variants of one perturbation that needs a model, got "
        with pytest.raises(ValueError, match=sentence):
            attack(toy, images(2), planned, ["a", "b"], "set", 0)
    with pytest.raises(UserError, match="must be one strength of a perturbation that needs a model"):
        camrobust.attack(seeded(Pooled()), images(1), "contrast:3")
    few = (images(1), radii(1, 1), radii(1, 1), radii(1, 1), Draws.of(0, "", ["a"], "", "", 0))
    with pytest.raises(
        UserError, match="cam_attack: cam must be differentiable, got 'eigencam'; choose one of cam, gradcam,"
    ):
        attack_map(toy, *few, cam="eigencam")
    with pytest.raises(UserError, match="unknown objective of cam_attack 'far'; known: centre, region, top"):
        attack_map(toy, *few, objective="far")
