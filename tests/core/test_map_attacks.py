"""Attacks on named CAMs and on the ranking, and the smallest radius, against plain loops and exhaustive attacks."""

import os
import re
import sys
from functools import partial

import pytest
import torch

import camrobust
from camrobust.contract.errors import UserError
from camrobust.core.perturb import PERTURBATIONS, perturbation, variants
from camrobust.core.perturb.attacks import minimal_eps as search
from camrobust.core.perturb.attacks.on_prediction import Ball, column
from camrobust.core.perturb.attacks.on_rank import Ranking, SegmentRanks, soft_overlap
from camrobust.core.ranks import rbo
from camrobust.io.images import decode
from camrobust.measure.built import ModelSpec
from camrobust.measure.model import load_model, wrap
from tests.core.test_attacks import attacked, images, predictions
from tests.reference import attacks as plain
from tests.toys import Pooled, seeded

ALL = bool(os.environ.get("CAMROBUST_ALL"))
SMALL = 112
"""Side of the photos, px: the map of ResNet-18 has 4 × 4 positions there, at its third stage 7 × 7."""


def photos_of(shared_data, count, step=12, size=SMALL):
    files = sorted((shared_data / "images").iterdir())[: count * step : step]
    pixels = [torch.from_numpy(decode(one.read_bytes(), size * 8 // 7, size).pixels) for one in files]
    return torch.stack(pixels).float() / 255


def resnet_of(shared_data, layer=None):
    path = shared_data / "weights" / "resnet18_ktb_small.safetensors"
    spec = ModelSpec("resnet18", "torchvision:resnet18", str(path), layer)
    return load_model(spec, path.read_bytes(), SMALL)


def maps_of(model, pixels, classes):
    return camrobust.explain(model, pixels, targets=classes.tolist())["gradcam"]


# Differentiable forms


def test_the_soft_overlap_is_the_plain_one_and_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    clean, scores = (torch.rand(3, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    clean[1, :3] = 0
    sizes = torch.tensor([6, 5, 4])
    found = soft_overlap(clean, scores, sizes, 0.8)
    for row, m in enumerate(sizes.tolist()):
        wanted = plain.soft_overlap(clean[row, :m].tolist(), scores[row, :m].tolist(), 0.8)
        assert found[row].item() == pytest.approx(wanted, abs=1e-12)
    leaf = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_overlap(clean, leaf, sizes).sum(), leaf)
    assert gradient[2, 4:].abs().max() == 0
    assert (gradient[0].abs() > 0).all()


def test_the_soft_overlap_orders_rankings_as_the_overlap_does():
    clean = torch.arange(8.0, 0, -1, dtype=torch.float64).expand(3, 8)
    swapped = clean[0].clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    scores = torch.stack([clean[0], swapped, -clean[0]])
    soft, hard = soft_overlap(clean, scores, torch.full((3,), 8)), rbo(clean, scores)
    assert soft.argsort().tolist() == hard.argsort().tolist() == [2, 1, 0]


@pytest.mark.parametrize("name", ["top_left", "uncorrelated", "apart", "mass_moved"])
def test_a_differentiable_form_is_the_plain_one(name):
    moved, clean = torch.rand(2, 4, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = getattr(search, name)(moved, clean)
    for row in range(4):
        wanted = getattr(plain, name)(moved[row].tolist(), clean[row].tolist())
        assert found[row].item() == pytest.approx(wanted, abs=1e-12)


# Which CAM is attacked


def test_an_attack_names_its_cam_and_its_default_keeps_its_strength():
    (own,) = variants(["cam_attack:3"])
    assert (own.attacked_cam, own.strength) == ("gradcam", "epsilon=4,steps=20,step=1")
    (other,) = variants(["cam_attack:severity=3,cam=layercam"])
    assert (other.attacked_cam, other.severity, other.strength) == (
        "layercam", 3, "epsilon=4,steps=20,step=1,cam=layercam",
    )  # fmt: skip
    given = {"cam_attack": {"cam": ["gradcam", "layercam"], "epsilon": [2, 4], "steps": 5, "step": 1}}
    assert [(one.attacked_cam, one.values[0]) for one in variants([given])] == [
        ("gradcam", 2), ("layercam", 2), ("gradcam", 4), ("layercam", 4),
    ]  # fmt: skip
    every = variants([{"cam_attack": {"cam": "each"}}, "fgsm:1"], cams=["eigencam", "layercam", "gradcam", "random"])
    assert [(one.severity, one.attacked_cam) for one in every] == [
        *((level, cam) for level in (1, 2, 3, 4, 5) for cam in ("layercam", "gradcam")),
        (1, None),
    ]
    assert sum(one.attack_passes for one in every) == 10 * 21 + 2
    assert [one.strength for one in variants(["cam_attack_rank:1"])] == ["epsilon=1,steps=60,step=0.25"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "cam_attack:severity=3,cam=eigencam",
            "perturbations: cam_attack: cam must be differentiable, got 'eigencam'; ",
        ),
        (
            "cam_attack:cam=gradcm",
            "perturbations: cam_attack: cam must be differentiable, got 'gradcm'; choose one of ",
        ),
        (
            {"cam_attack": {"cam": ["each", "gradcam"]}},
            "cam of cam_attack must be the name of a CAM, a list of names, or ",
        ),
        ({"cam_attack": {"cam": 3}}, "cam of cam_attack must be the name of a CAM, a list of names, or each, got 3"),
        (
            {"cam_attack": {"cam": "each"}},
            "cam: each of cam_attack must find a differentiable CAM among those that are ",
        ),
        ({"cam_attack": {"cam": "cam", "severity": 3, "epsilon": 2}}, "unknown parameter of cam_attack 'severity'"),
        ("pgd:cam=gradcam", "unknown parameter of pgd 'cam'"),
    ],
)
def test_a_cam_that_cannot_be_attacked_is_refused_in_one_sentence(spec, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        variants([spec], cams=["eigencam"])


def test_a_users_attack_on_maps_must_say_which_map():
    with pytest.raises(ValueError, match='cam of mine must have a default; write cam: str = "gradcam"'):

        @perturbation(family="adversarial", severities=(1, 2, 3, 4, 5))
        def mine(victim, images, cam):
            return images

    assert "mine" not in PERTURBATIONS


def test_each_cam_is_attacked_on_images_of_its_own_and_rows_say_which():
    module, pixels = seeded(Pooled()), images(1)[:, :, :64, :64]
    few = {"epsilon": 8, "steps": 3, "step": 4}
    cams = ["layercam", "gradcam++", "eigencam"]
    result = camrobust.evaluate(module, pixels, cams, ["contrast:1", {"cam_attack": {"cam": "each", **few}}])
    rows = result.scores
    assert rows.select("cam", "attacked_cam").rows() == [
        *((cam, None) for cam in cams), *((cam, "layercam") for cam in cams), *((cam, "gradcam++") for cam in cams),
    ]  # fmt: skip
    spec = f"cam_attack:{','.join(f'{name}={value}' for name, value in few.items())}"
    names = [rows["image_id"][0]]
    made = {cam: camrobust.attack(module, pixels, spec, cam=cam, image_ids=names) for cam in cams[:2]}
    assert torch.equal(made["layercam"], camrobust.attack(module, pixels, f"{spec},cam=layercam", image_ids=names))
    assert not torch.equal(made["layercam"], made["gradcam++"])
    found = {row["attacked_cam"]: row["confidence_perturbed"] for row in rows.iter_rows(named=True)}
    for cam, adversarial in made.items():
        logits = module.eval()((adversarial.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD))
        assert found[cam] == pytest.approx(logits.softmax(dim=1).max().item(), abs=1e-5)
    with pytest.raises(UserError, match="attack: cam must be left out for fgsm, which attacks no map, got 'layercam'"):
        camrobust.attack(module, pixels, "fgsm:1", cam="layercam")
    with pytest.raises(UserError, match="attack: cam must be differentiable, got 'eigencam'; choose one of cam, "):
        camrobust.attack(module, pixels, "cam_attack:1", cam="eigencam")


MEAN, STD = ([[[one]] for one in three] for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


# The ranking itself


def rank_agreement(model, clean, moved, classes):
    ranks = SegmentRanks(Ranking.of(clean), maps_of(model, clean, classes))
    return ranks.rbo(maps_of(model, moved, classes))


@pytest.mark.data
def test_an_attack_on_the_ranking_picks_by_what_the_row_holds(shared_data):
    model, given = resnet_of(shared_data), photos_of(shared_data, 1)
    classes = predictions(model, given)
    specs = [f"{name}:epsilon=4,steps=7,step=1" for name in ("cam_attack", "cam_attack_rank")]
    rows = camrobust.evaluate(model, given, ["gradcam"], specs, segments={"method": "grid", "cells": 5}).scores
    assert rows["kept_class"].all()
    usual, lowest = rows["rbo"].to_list()
    assert lowest < usual
    # With the default segments, the number is that of the row, too.
    rows = camrobust.evaluate(model, given, ["gradcam"], specs[1:]).scores
    made = camrobust.attack(model, given, specs[1], image_ids=rows["image_id"].unique().to_list(), seed=0)
    found = rank_agreement(model, given, made.float() / 255, classes)
    assert rows["rbo"][0] == pytest.approx(found.item(), abs=1e-6)
    assert found < 1


@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_an_attack_on_the_ranking_reaches_as_low_as_a_plain_one_of_twice_the_cost(shared_data, layer):
    """Under CAMROBUST_ALL=1; -s shows the numbers that docs/perturbations.md holds."""
    if not ALL:
        pytest.skip("takes a minute for each layer")
    given, epsilon, model = photos_of(shared_data, 6), 4, resnet_of(shared_data, layer)
    classes, cam = predictions(model, given), plain.PlainGradcam(model)
    found = {}
    for name in ("cam_attack", "cam_attack_rank"):
        made = attacked(model, given, f"{name}:3")
        assert torch.equal(predictions(model, made), classes)
        found[name] = rank_agreement(model, given, made, classes).tolist()
    found["plain"] = [plainly_ranked(model, cam, image[None], epsilon) for image in given]
    means = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
    sys.stdout.write(f"\nrbo at 4/255, {layer}: {means}\n")
    assert means["cam_attack_rank"] <= means["plain"] + 0.005
    assert means["cam_attack_rank"] < means["cam_attack"] - 0.05


def plainly_ranked(model, cam, image, epsilon):
    """The least rank-biased overlap of a signed ascent of 60 steps from two random starts."""
    ranks = SegmentRanks(Ranking.of(image), maps_of(model, image, predictions(model, image)))
    values = [1.0]

    def soft(moved, _clean):
        return -ranks.soft_rbo(moved[None])[0]

    def lower(moved, _clean):
        values.append(ranks.rbo(moved[None]).nan_to_num(1.0).item())
        return False

    plain.plain_attacks(cam, (image * 255).round(), epsilon, [soft], lower, 60, (0, 1))
    return min(values)


# The smallest radius


def test_the_answer_does_not_depend_on_how_far_the_search_would_go_nor_on_neighbours():
    model, given = wrap(seeded(Pooled()), image_size=224), images(2)
    settings = {"below": 0.9, "steps": 4, "similarity": "cosine"}
    found = camrobust.minimal_eps(model, given, most=6, **settings)
    assert any(found), "no radius succeeds, so that nothing would be compared"
    for most in (1, 2, 4):
        shorter = camrobust.minimal_eps(model, given, most=most, **settings)
        assert shorter == [radius if radius and radius <= most else None for radius in found]
    names = [*"ab"]
    both = camrobust.minimal_eps(model, given, most=6, image_ids=names, **settings)
    assert both[1:] == camrobust.minimal_eps(model, given[1:], most=6, image_ids=names[1:], **settings)


@pytest.mark.parametrize("similarity", ["topk_iou", "cosine", "spearman", "l1", "js"])
def test_a_radius_that_is_found_separates_the_maps_by_the_measure_itself(similarity, monkeypatch):
    model, given = wrap(seeded(Pooled()), image_size=224), images(1)
    below = {"topk_iou": 0.9, "l1": 0.02, "js": 0.02}.get(similarity, 0.99)
    kept = []
    climb = search.climb

    def watched(*arguments):
        kept.append(climb(*arguments))
        return kept[-1]

    monkeypatch.setattr(search, "climb", watched)
    (radius,) = camrobust.minimal_eps(model, given, below=below, most=8, steps=5, similarity=similarity)
    assert radius is not None
    moved = kept[-1][0] / 255
    assert (moved - given).abs().max() * 255 <= radius + 1e-3
    classes = predictions(model, given)
    assert torch.equal(predictions(model, moved), classes)
    measure = camrobust.core.similarity.SIMILARITIES[similarity]
    value = measure(*(maps_of(model, one, classes).flatten(1) for one in (given, moved))).item()
    assert value < below if measure.same == 1 else value > below


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"similarity": "ssim"}, "minimal_eps: similarity must compare positions, got 'ssim'; choose one of "),
        ({"below": 0}, "minimal_eps: below must lie between 0 and 1, the bounds of topk_iou, got 0; at a bound "),
        ({"below": 1}, "minimal_eps: below must lie between 0 and 1, the bounds of topk_iou, got 1; "),
        ({"below": -1, "similarity": "cosine"}, "minimal_eps: below must lie between -1 and 1, the bounds of "),
        ({"below": float("nan")}, "minimal_eps: below must lie between 0 and 1, the bounds of topk_iou, got nan; "),
        ({"most": 0}, "minimal_eps: most must be 1 to 255 and steps at least 1, both whole, got 0 and 20; "),
        ({"cam": "eigencam"}, "minimal_eps: cam must be differentiable, got 'eigencam'; choose one of cam, gradcam, "),
        ({"objective": "far"}, "unknown objective of minimal_eps 'far'; known: centre, region, top"),
    ],
)  # fmt: skip
def test_an_unfit_search_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        camrobust.minimal_eps(seeded(Pooled()), images(1), **settings)


@pytest.mark.data
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("layer", "below", "count"), [(None, 0.5, 20), ("layer3", 0.15, 10)])
def test_minimal_eps_is_that_of_trying_every_radius_with_the_strongest_attack(shared_data, layer, below, count):
    """Under CAMROBUST_ALL=1 on 20 and 10 photos; -s shows the table that docs/perturbations.md holds."""
    if layer and not ALL:
        pytest.skip("takes a minute")
    count, most, steps = (count, 6, 60) if ALL else (1, 1, 6)
    model, given = resnet_of(shared_data, layer), photos_of(shared_data, count)
    found = camrobust.minimal_eps(model, given, most=most, below=below)
    sys.stdout.write(f"\nminimal_eps {found}\n")
    cam, done = plain.PlainGradcam(model), plain.topk_iou_below(below)
    exhaustive = []
    for image in (given * 255).round().split(1):
        tried = partial(plain.plain_attacks, cam, image, climbs=plain.STRONGEST, done=done, steps=steps, seeds=(0, 1))
        exhaustive.append(next((radius for radius in range(1, most + 1) if tried(radius)), None))
    sys.stdout.write(f"exhaustive  {exhaustive}\n")
    for radius, least in zip(found, exhaustive, strict=True):
        assert least is None or (radius is not None and radius <= least + 1)


# Radii that round to nothing


def test_a_small_l2_radius_moves_the_few_values_that_it_can():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(1, 255, (2, 3, 20, 20), generator=generator).float()
    radius = torch.tensor([0.01 * 255, 255.0])
    ball = Ball(clean, column(radius), 2)
    direction = torch.randn(clean.shape, generator=generator)
    grid = ball.on_grid(ball.step(clean, direction, column(radius)))
    moved = (grid - clean).flatten(1)
    # Radius 2.55 levels: six values by one level each, those of the largest gradient.
    assert moved[0].abs().sum() == 6
    assert {*moved[0].abs().topk(6).indices.tolist()} == {*direction[0].flatten().abs().topk(6).indices.tolist()}
    assert torch.equal(moved[0].sign()[moved[0] != 0], direction[0].flatten().sign()[moved[0] != 0])
    assert 0.97 * 255 < moved[1].norm() <= 255


def test_pgd_l2_at_its_least_radius_changes_the_image():
    given = images(1)
    model = wrap(seeded(Pooled()), image_size=224)
    made = attacked(model, given, "pgd_l2:epsilon=0.01,steps=3,step=0.01")
    assert 0 < (made - given).flatten().norm() <= 0.01 * (1 + 1e-5)
