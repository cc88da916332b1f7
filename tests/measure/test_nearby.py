"""Agreement at images within the radius, against one copy after the other, lists and sets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from camrobust.contract.certify_config import CertifyConfig
from camrobust.core.channels import held, unit
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect
from camrobust.core.segments import segment_matrix
from camrobust.measure import nearby
from camrobust.measure.certificates import certificates
from camrobust.measure.noisy_copies import Copies, SegmentRanking
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample
from camrobust.measure.smoothed import smoothed
from tests.measure.test_smoothed import Dead, model

SIDE, SIGMA = 32, 0.1
SETTINGS = MeasureSettings(("gradcam", "eigencam", "random"), seed=3, batch=4)
ASKED = CertifySettings((SIGMA,), 9, 3, 0.05, (0.0, 0.5, 2.0), "rank", 0.25, tries=3)


def image(seed=0):
    """Quarters of unequal size, so that no two of the four cells have the same segments."""
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    segments = (rows >= 10).long() * 3 + (columns >= 7).long() + (columns >= 20).long()
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Sample("set", f"photo-{seed}", None, segments), pixels


def plain_rbo(first, second, p):
    """Adjusted rank-biased overlap of two lists of the same items, term by term."""
    m = len(first)
    weights = [(1 - p) / p * p**d for d in range(1, m + 1)]
    weights[-1] += p**m
    raw = sum(weight * len({*first[:d]} & {*second[:d]}) / d for d, weight in enumerate(weights, start=1))
    chance = sum(weight * d / m for d, weight in enumerate(weights, start=1))
    return (raw - chance) / (1 - chance)


def plain_order(network, sample, pixels, purpose, explained, moved):
    """The order of Grad-CAM's samples at an image that was moved, best first."""
    matrix, z = segment_matrix(sample.segments, 2, 2).double(), np.zeros(sample.count)
    for number in range(ASKED.samples):
        noise = Draws.of(3, sample.dataset, [sample.image_id], purpose, "", number).normal(pixels.shape[1:])
        made = unit(held(unit(pixels) + moved + SIGMA * noise))
        evidence = collect(network.network, network.normalise(made), lambda _: torch.tensor([explained]))
        scores = (matrix @ CAMS["gradcam"].function(evidence).flatten().double()).numpy().round(6)
        z += sample.count - rankdata(-scores)
    return np.argsort(-z, kind="stable").tolist()


def test_what_is_seen_in_random_directions_is_that_of_one_copy_after_the_other():
    (sample, pixels), network = image(), model()
    (found,) = smoothed(network, sample, pixels, SETTINGS, ASKED)
    here = plain_order(network, sample, pixels, "certify", found.explained, 0)
    for place, share in enumerate(ASKED.radii):
        seen = []
        for number in (1, 2) if share else (0,):
            direction = Draws.of(3, "set", [sample.image_id], "certify direction", repr(share), number)
            direction = direction.normal(pixels.shape[1:])
            moved = direction / direction.norm() * share * SIGMA
            there = plain_order(network, sample, pixels, f"certify at {share!r}, {number}", found.explained, moved)
            seen.append(plain_rbo(here, there, 0.9))
        assert found.nearby[place, nearby.RANDOM, 0].item() == pytest.approx(min(seen), abs=1e-12)
    assert found.nearby[0, nearby.ATTACKED].isnan().all()
    assert found.nearby[1:].isfinite().all()


def test_trying_changes_nothing_that_is_certified():
    sample, pixels = image()
    images = [ImageVariants(sample, pixels, ())]
    (rows,), (without,) = (certificates(model(), images, SETTINGS, asked) for asked in (ASKED, replace(ASKED, tries=0)))
    names = ("agreement_random", "agreement_attacked")
    assert [row | dict.fromkeys(names) for row in rows] == without
    assert {row["radius_share"] for row in rows if row["agreement_attacked"] is None} == {0.0}
    assert all(row["agreement_random"] is not None for row in rows)


def test_an_attack_stays_within_the_radius_and_does_more_than_random_directions():
    seen = {nearby.RANDOM: [], nearby.ATTACKED: []}
    asked = replace(ASKED, samples=60, radii=(2.0,), tries=2)
    for seed in range(6):
        sample, pixels = image(seed)
        (found,) = smoothed(model(), sample, pixels, SETTINGS, asked)
        for kind, values in seen.items():
            values.append(found.nearby[0, kind, 0].item())
    assert np.mean(seen[nearby.ATTACKED]) < np.mean(seen[nearby.RANDOM]) - 0.2
    sample, pixels = image()
    network = model()
    copies = Copies(network, sample, pixels, SETTINGS, (0.05, 0.3), lambda: None)
    ranking = SegmentRanking(sample, torch.device("cpu"))
    sums = [one.items for one in smoothed(network, sample, pixels, SETTINGS, replace(asked, sigma=(0.05, 0.3)))]
    moved = nearby._attacked(copies, ranking, torch.tensor([1, 1]), sums, [0], 0.5)
    assert moved.flatten(1).norm(dim=1).tolist() == pytest.approx([0.025, 0.15], rel=1e-5)


@pytest.mark.parametrize(("cams", "attacked"), [(("eigencam", "random"), False), (("eigencam", "layercam"), True)])
def test_without_a_cam_that_can_be_climbed_all_directions_are_random(cams, attacked):
    sample, pixels = image()
    asked = replace(ASKED, samples=3, radii=(0.5,), tries=1)
    settings = replace(SETTINGS, cams=cams)
    (found,) = smoothed(model(), sample, pixels, settings, asked)
    kinds = (nearby.ATTACKED, nearby.RANDOM) if attacked else (nearby.RANDOM, nearby.ATTACKED)
    assert found.nearby[0, kinds[0]].isfinite().all()
    assert found.nearby[0, kinds[1]].isnan().all()


def test_a_flat_map_agrees_with_nothing():
    sample, pixels = image()
    settings = MeasureSettings(("gradcam",), batch=4)
    network = model(Dead(), target_layer="features")
    (rows,) = certificates(network, [ImageVariants(sample, pixels, ())], settings, ASKED)
    assert [row["agreement_random"] for row in rows] == [0, 0, 0]
    assert [row["agreement_attacked"] for row in rows] == [None, 0, 0]


def test_tries_are_counted_as_they_pass():
    count = CertifyConfig(sigma=(0.1, 0.2), samples=10, pilot=3, radii=(0, 0.1, 0.5), tries=3)
    assert count.copies == 2 * (3 + 10 + 10 + 2 * 3 * 10)
    assert count.attack_passes == 2 * 2 * 80
    plain = count.model_copy(update={"tries": 0})
    assert (plain.copies, plain.attack_passes) == (2 * 13, 0)
