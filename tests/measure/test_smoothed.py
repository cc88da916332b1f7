"""Noisy copies in passes, against one copy after the other and ranks by scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from camrobust.core.channels import held, unit
from camrobust.core.draws import Draws
from camrobust.core.segments import segment_matrix
from camrobust.measure.certificates import certificates
from camrobust.measure.image import explain_variants
from camrobust.measure.model import wrap
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample
from camrobust.measure.smoothed import smoothed
from tests.toys import pooled

SIDE, CAMS = 32, ("gradcam", "eigencam", "random")
SETTINGS = MeasureSettings(CAMS, seed=3, batch=4)
ASKED = CertifySettings((0.05, 0.3), 11, 5, 0.05, (0.0, 0.1), "rank", 0.25)


def image(seed=0):
    rows = torch.arange(SIDE)[:, None] // 8
    segments = (rows * 4 + rows.T).long()
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Sample("set", f"photo-{seed}", None, segments), pixels


def model(module=None, **options):
    return wrap(module or pooled(), image_size=SIDE, **options)


def copy(sample, pixels, purpose, number, sigma):
    noise = Draws.of(3, sample.dataset, [sample.image_id], purpose, "", number).normal(pixels.shape[1:])
    return held(unit(pixels) + sigma * noise)


def test_sums_are_those_of_one_copy_after_the_other():
    sample, pixels = image()
    network = model()
    found = smoothed(network, sample, pixels, SETTINGS, ASKED)
    matrix = segment_matrix(sample.segments, 2, 2).double()
    for sigma, one in zip(ASKED.sigma, found, strict=True):
        votes = [
            int(
                network.network.module(network.normalise(copy(sample, pixels, "certify pilot", number, sigma))).argmax()
            )
            for number in range(ASKED.pilot)
        ]
        assert one.explained == np.bincount(votes, minlength=10).argmax()
        total, squares, hits = np.zeros((2, 16)), np.zeros((2, 16)), 0
        for number in range(ASKED.samples):
            made = copy(sample, pixels, "certify", number, sigma)
            (explained,) = explain_variants(network, [ImageVariants(sample, made, ())], SETTINGS)
            hits += int(explained.predictions) == one.explained
            if int(explained.predictions) != one.explained:
                continue
            for cam in range(2):
                scores = (matrix @ explained.maps[0, cam].flatten().double()).numpy().round(6)
                z = 2 * (16 - rankdata(-scores))
                total[cam] += z
                squares[cam] += z**2
        assert one.hits == hits
        if hits == ASKED.samples:
            assert one.items.lower[:2, :16].tolist() == one.items.upper[:2, :16].tolist() == total.tolist()
            assert one.items.lower_squares[:2, :16].tolist() == squares.tolist()
    assert any(one.hits == ASKED.samples for one in found)


def test_a_sigma_is_measured_alike_beside_others_and_in_other_passes():
    sample, pixels = image()
    together = smoothed(model(), sample, pixels, SETTINGS, ASKED)
    alone = smoothed(model(), sample, pixels, SETTINGS, replaced(sigma=(0.3,)))
    assert torch.equal(together[1].items.lower, alone[0].items.lower)
    assert (together[1].hits, together[1].explained) == (alone[0].hits, alone[0].explained)
    more = smoothed(model(), sample, pixels, SETTINGS, replaced(sigma=(0.3,), samples=12))
    gained = more[0].items.upper - alone[0].items.upper
    # One sample more, and the others as before.
    assert int(gained.min()) >= 0
    assert int(gained.max()) <= 30


def replaced(**changes):
    return CertifySettings(**(vars(ASKED) | changes))


class Dead(torch.nn.Module):
    """Its feature map is 0 for every image, so that all maps are flat; it always says class 1."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 8, 1), torch.nn.ReLU())
        self.fc = torch.nn.Linear(4, 2)
        self.features[0].weight.data.zero_()
        self.features[0].bias.data.fill_(-1)
        self.fc.bias.data = torch.tensor([0.0, 1.0])

    def forward(self, images):
        return self.fc(self.features(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("item", ["rank", "top"])
def test_an_always_flat_map_is_flat_and_never_certified_in_out_or_stable(item):
    sample, pixels = image()
    settings = MeasureSettings(("gradcam", "gradcam++"), batch=4)
    network = model(Dead(), target_layer="features")
    (rows,) = certificates(network, [ImageVariants(sample, pixels, ())], settings, replaced(item=item), drawn={0})
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert row["flat_share"] == 1
        assert (row["certified_overlap"], row["certified_rbo"], row["certified_rbo_adjusted"]) == (None, None, None)
        assert (row["certainly_in"], row["certainly_out"], row["undecided"]) == (0, 0, 1)
        assert row["predicted"] == 1
        assert not row["abstained"]  # the class is certain though the map says nothing


@pytest.mark.parametrize("head", ["binary", "multilabel", "value:tolerance=0.5"])
def test_other_heads_certify_their_decision(head):
    sample, pixels = image()
    network = model(pooled(1 if head == "binary" else 3), head=head + (",explained=1" if "value" in head else ""))
    (rows,) = certificates(network, [ImageVariants(sample, pixels, ())], SETTINGS, replaced(sigma=(0.01,), samples=40))
    assert {row["predicted"] is None for row in rows} == {"value" in head}
    assert {row["abstained"] for row in rows} == {False}
    assert 0 < rows[0]["class_radius"] < 0.03


def test_certain_segments_are_drawn_where_they_are():
    sample, pixels = image()
    asked = replaced(sigma=(0.01,), samples=400, radii=(0.0,))
    (rows,) = certificates(model(), [ImageVariants(sample, pixels, ())], SETTINGS, asked, drawn={0})
    import io

    from PIL import Image

    for row in rows:
        mask = np.asarray(Image.open(io.BytesIO(row["membership"])))
        assert mask.shape == (SIDE, SIDE)
        shares = {shade: float((mask == shade).mean()) for shade in (255, 0, 128)}
        # All segments of this grid are of one size.
        assert shares == pytest.approx({255: row["certainly_in"], 0: row["certainly_out"], 128: row["undecided"]})
    assert any(row["certainly_out"] for row in rows)
