"""Agreement at images within the radius, against one copy after the other, lists and sets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torchvision.ops import deform_conv2d

from camrobust.contract.certify_config import CertifyConfig
from camrobust.core.certify.items import item_sums
from camrobust.core.channels import held, unit
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect
from camrobust.core.perturb.attacks.on_rank import soft_overlap
from camrobust.core.segments import segment_matrix
from camrobust.measure import nearby
from camrobust.measure.certificates import certificates
from camrobust.measure.noisy_copies import Copies, SegmentRanking
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample
from camrobust.measure.smoothed import smoothed
from tests.core.test_without_gradient import without_gradient
from tests.measure.test_smoothed import Dead, model
from tests.toys import Channelled, Pooled, seeded

SIDE, SIGMA = 32, 0.1
SETTINGS = MeasureSettings(("gradcam", "eigencam", "random"), seed=3, batch=4)
ASKED = CertifySettings((SIGMA,), 9, 3, 0.05, (0.0, 0.5, 2.0), "rank", 0.25, tries=3)


def image(seed=0):
    """Quarters of unequal size, so that no two of the four cells have the same segments."""
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    segments = (rows >= 10).long() * 3 + (columns >= 7).long() + (columns >= 20).long()
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Sample("set", f"photo-{seed}", None, segments), pixels


def plain_share(scores, item, depth):
    """How much of an item is in the first places of a list if those with equal scores are in random order."""
    before, equal = (sum(compare) for compare in (scores > scores[item], scores == scores[item]))
    return min(1.0, max(0.0, (depth - before) / equal))


def plain_agreement(first, second, p=0.9):
    """Adjusted rank-biased overlap of two lists of scores of the same items, term by term."""
    m = len(first)
    weights = [(1 - p) / p * p**d for d in range(1, m + 1)]
    weights[-1] += p**m
    raw = sum(
        weight * sum(plain_share(first, item, d) * plain_share(second, item, d) for item in range(m)) / d
        for d, weight in enumerate(weights, start=1)
    )
    chance = sum(weight * d / m for d, weight in enumerate(weights, start=1))
    return (raw - chance) / (1 - chance)


def plain_sums(network, sample, pixels, purpose, explained, moved):
    """The sums of the ranks that Grad-CAM gives the segments in samples at an image that was moved."""
    matrix, z = segment_matrix(sample.segments, 2, 2).double(), np.zeros(sample.count)
    for number in range(ASKED.samples):
        noise = Draws.of(3, sample.dataset, [sample.image_id], purpose, "", number).normal(pixels.shape[1:])
        made = unit(held(unit(pixels) + moved + SIGMA * noise))
        evidence = collect(network.network, network.normalise(made), lambda _: torch.tensor([explained]))
        scores = (matrix @ CAMS["gradcam"].function(evidence).flatten().double()).numpy().round(6)
        z += sample.count - rankdata(-scores)
    return z


def test_what_is_seen_in_random_directions_is_that_of_one_copy_after_the_other():
    (sample, pixels), network = image(), model()
    (found,) = smoothed(network, sample, pixels, SETTINGS, ASKED)
    here = plain_sums(network, sample, pixels, "certify", found.explained, 0)
    for place, share in enumerate(ASKED.radii):
        seen = []
        for number in (1, 2) if share else (0,):
            direction = Draws.of(3, "set", [sample.image_id], "certify direction", repr(share), number)
            direction = direction.normal(pixels.shape[1:])
            moved = direction / direction.norm() * share * SIGMA
            there = plain_sums(network, sample, pixels, f"certify at {share!r}, {number}", found.explained, moved)
            seen.append(plain_agreement(here, there))
        assert found.nearby[place, nearby.RANDOM, 0].item() == pytest.approx(min(seen), abs=1e-12)
    assert found.nearby[0, nearby.ATTACKED].isnan().all()
    assert found.nearby[1:].isfinite().all()


def test_segments_that_were_never_in_the_top_do_not_agree_because_of_their_numbers():
    first, last = torch.zeros(2, 1, 1, 8)
    first[..., 0], last[..., 7] = 1, 1
    here, there = (item_sums(scores, "top", top=0.125) for scores in (first, last))
    for one, other in ((here, there), (here, here)):
        wanted = plain_agreement(*((sums.lower + sums.upper)[0].numpy() for sums in (one, other)))
        assert nearby.agreement_of(one, other, 0.9).tolist() == pytest.approx([wanted], abs=1e-12)
    # What both orders begin with has nothing in common, and of the rest nothing is known.
    assert nearby.agreement_of(here, there, 0.9).item() < 0
    assert 0 < nearby.agreement_of(here, here, 0.9).item() < 0.5


def test_trying_changes_nothing_that_is_certified():
    sample, pixels = image()
    images = [ImageVariants(sample, pixels, ())]
    (rows,), (without,) = (certificates(model(), images, SETTINGS, asked) for asked in (ASKED, replace(ASKED, tries=0)))
    names = ("agreement_random", "agreement_attacked")
    assert [row | dict.fromkeys(names) for row in rows] == without
    others = [ImageVariants(*image(1), ()), *images]
    assert certificates(model(), others, SETTINGS, ASKED)[1] == rows  # a resumed run has other images beside it
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
    moved = nearby.Centre(copies, ranking, torch.tensor([1, 1]), sums).attacked([0], 0.5)
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


def test_an_attack_without_a_gradient_ends_in_a_random_direction_and_not_at_the_image():
    sample, pixels = image()
    network = model(Dead(), target_layer="features")
    settings = MeasureSettings(("gradcam",), batch=4)
    (found,) = smoothed(network, sample, pixels, settings, ASKED)
    copies = Copies(network, sample, pixels, settings, (SIGMA,), lambda: None)
    ranking = SegmentRanking(sample, torch.device("cpu"))
    moved = nearby.Centre(copies, ranking, torch.tensor([1]), [found.items]).attacked([0], 0.5)
    assert moved.norm().item() == pytest.approx(0.5 * SIGMA, rel=1e-5)


class FrozenStem(Pooled):
    """A gradient reaches the target layer, and not the pixels."""

    def forward(self, images):
        with torch.no_grad():
            images = self.features[1](self.features[0](images))
        return self.fc(self.pool(self.features[3](self.features[2](images))).flatten(1))


class Deformable(Pooled):
    """Behind the target layer is a layer whose gradient has no derivative."""

    def forward(self, images):
        maps = self.features(images)
        bent = deform_conv2d(maps, maps.new_zeros(len(maps), 2, *maps.shape[2:]), torch.eye(8)[..., None, None])
        return self.fc(self.pool(bent.square()).flatten(1))


@pytest.mark.parametrize(
    ("kind", "cams"),
    [(without_gradient(Pooled), ("cam", "eigencam")), (FrozenStem, ("gradcam",)), (Deformable, ("gradcam",))],
)
def test_a_model_that_cannot_be_climbed_is_tried_in_random_directions_alone(kind, cams):
    sample, pixels = image()
    settings = replace(SETTINGS, cams=cams)
    (found,) = smoothed(model(seeded(kind())), sample, pixels, settings, replace(ASKED, samples=3))
    assert found.nearby[:, nearby.RANDOM].isfinite().all()
    assert found.nearby[:, nearby.ATTACKED].isnan().all()


@pytest.mark.parametrize("head", ["binary", "multilabel", "value:tolerance=0.5,explained=1"])
def test_heads_and_images_of_one_channel_are_tried_too(head):
    sample, _ = image()
    grey = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network = seeded(Channelled())
    network.fc = torch.nn.Linear(8, 1 if head == "binary" else 3)
    wrapped = model(seeded(network), head=head, mean=(0.5,), std=(0.2,))
    (found,) = smoothed(wrapped, sample, held(grey), SETTINGS, replace(ASKED, samples=3))
    assert found.nearby[0, nearby.RANDOM].isfinite().all()
    assert found.nearby[1:].isfinite().all()


def test_many_segments_are_compared_a_few_lists_at_a_time(monkeypatch):
    clean, scores = torch.rand(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    count = torch.tensor(6)
    at = scores.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(-soft_overlap(clean, at, count.expand(5)).sum(), at)
    sizes = []
    monkeypatch.setattr(nearby, "soft_overlap", lambda *lists: (sizes.append(len(lists[0])), soft_overlap(*lists))[1])
    assert torch.equal(nearby.pulled_apart(clean, scores, count, 0.9), wanted)
    monkeypatch.setattr(nearby, "LISTS_BYTES", 2 * 8 * 7**2)
    assert torch.equal(nearby.pulled_apart(clean, scores, count, 0.9), wanted)
    assert sizes == [5, 2, 2, 1]
