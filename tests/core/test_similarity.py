import math

import numpy as np
import pytest
import torch
from scipy import spatial, stats
from skimage.metrics import structural_similarity

from camrobust.contract.schema import SIMILARITIES as COLUMNS
from camrobust.contract.schema import STABILITY
from camrobust.core.similarity import SIMILARITIES, TAKES, flat, similarity
from camrobust.core.similarity.correlation import average_ranks
from tests.reference import similarity as reference

SIZE = (48, 64)
COMPARED = [one.name for one in SIMILARITIES if one.takes != "change"]
AFFINE = [name for name in COMPARED if name not in ("cosine", "sensitivity")]


def maps(count=6, h=7, w=7, seed=0, levels=None):
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(0, levels, (count, h, w), generator=generator).float()
    return torch.rand(count, h, w, generator=generator)


def compare(name, clean, noisy):
    """A measure of maps (…, h, w) whatever it takes; positions stand in for segments."""
    entry = SIMILARITIES[name]
    if entry.takes == "grid":
        return entry(clean, noisy, SIZE)
    return entry(clean.flatten(-2), noisy.flatten(-2))


def enlarged(values):
    scaled = (values - values.min()) / (values.max() - values.min())
    picture = torch.nn.functional.interpolate(torch.tensor(scaled)[None, None], SIZE, mode="bilinear")
    return picture[0, 0].numpy()


def of_flat(function):
    return lambda a, b: function(a.ravel(), b.ravel())


ORACLES = {
    "pearson": of_flat(lambda a, b: stats.pearsonr(a, b).statistic),
    "spearman": of_flat(lambda a, b: stats.spearmanr(a, b).statistic),
    "kendall": of_flat(lambda a, b: stats.kendalltau(a, b, variant="b").statistic),
    "cosine": of_flat(lambda a, b: 1 - spatial.distance.cosine(a, b)),
    "js": of_flat(lambda a, b: spatial.distance.jensenshannon(a - a.min(), b - b.min(), base=2)),
    "ssim": lambda a, b: structural_similarity(
        enlarged(a), enlarged(b), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    ),
    "procrustes": lambda a, b: spatial.procrustes(a, b)[2],
    "sensitivity": of_flat(lambda a, b: np.linalg.norm(b - a) / np.linalg.norm(a)),
}


def test_the_similarities_of_every_run_are_registered():
    assert {column.name for column in COLUMNS} <= {*SIMILARITIES.names(), "rbo", "rbo_adjusted"}
    assert set(STABILITY) == {one.name for one in SIMILARITIES if math.isinf(one.high)}


def test_every_measure_says_what_it_takes_and_how_to_read_it():
    for one in SIMILARITIES:
        assert one.takes in TAKES
        assert one.direction == ("higher = more alike" if one.same == 1 else "lower = more alike")
        assert one.unit
        assert one.source
    assert [one.name for one in SIMILARITIES if not one.default] == ["procrustes", "ssim"]
    with pytest.raises(ValueError, match="similarity: takes must be one of positions, grid, segments, change, got 'x'"):
        similarity("new", takes="x", low=0, high=1, same=1, unit="-", source="-")
    with pytest.raises(ValueError, match=r"similarity: same must be low or high, got 0\.5 for 'new'; it tells"):
        similarity("new", takes="grid", low=0, high=1, same=0.5, unit="-", source="-")


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("levels", [None, 4])
def test_equals_the_slow_reference(name, levels):
    a, b = maps(seed=1, levels=levels, h=5), maps(seed=2, levels=levels, h=5)
    found = compare(name, a, b)
    wanted = [getattr(reference, name)(x, y, SIZE) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("levels", [None, 4])
def test_equals_the_oracle(name, levels):
    a, b = maps(seed=1, levels=levels), maps(seed=2, levels=levels)
    found = compare(name, a, b)
    wanted = [ORACLES[name](x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("name", COMPARED)
def test_properties(name):
    entry = SIMILARITIES[name]
    a, b = maps(seed=1), maps(seed=2)
    kept = a.clone()
    found = compare(name, a, b)
    assert torch.equal(a, kept)
    assert ((found >= entry.low) & (found <= entry.high)).all()
    same = compare(name, a, a)
    torch.testing.assert_close(same, torch.full((6,), float(entry.same), dtype=found.dtype), atol=1e-6, rtol=0)
    torch.testing.assert_close(compare(name, a[:1], b)[3], compare(name, a[0], b[3]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compare(name, a * 3, b * 3), found, rtol=1e-5, atol=1e-6)
    if name != "sensitivity":
        torch.testing.assert_close(found, compare(name, b, a), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", AFFINE)
def test_does_not_see_scale_and_offset(name):
    a, b = maps(seed=1), maps(seed=2)
    torch.testing.assert_close(compare(name, a, b), compare(name, a * 5 + 3, b * 2 - 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", COMPARED)
def test_undefined_on_a_flat_map(name):
    varied = maps(seed=2)
    for value in (0.0, 0.3, -2.0):
        level = torch.full((1, 7, 7), value)
        for pair in ((level, varied), (varied, level), (level, level)):
            assert compare(name, *pair).isnan().all()


@pytest.mark.parametrize("name", COMPARED)
def test_a_map_that_is_not_finite_does_not_stop_the_others(name):
    a, b = maps(seed=1), maps(seed=2)
    spoilt = b.clone()
    spoilt[2, 3, 3] = torch.nan
    spoilt[4, 0, 0] = torch.inf
    found = compare(name, a, spoilt)
    good = [0, 1, 3, 5]
    torch.testing.assert_close(found[good], compare(name, a, b)[good])


def test_chunks_change_nothing(monkeypatch):
    a, b = maps(20, seed=1), maps(20, seed=2)
    whole = {name: compare(name, a, b) for name in ("kendall", "ssim")}
    monkeypatch.setattr("camrobust.core.similarity.registry.CHUNK_BYTES", 300_000)
    for name, found in whole.items():
        torch.testing.assert_close(compare(name, a, b), found, rtol=1e-6, atol=1e-7)


def test_the_centre_of_mass_moves_across_the_image():
    corner, other = torch.zeros(4, 4), torch.zeros(4, 4)
    corner[0, 0], other[3, 3] = 1, 1
    assert float(compare("com_shift", corner, other)) == pytest.approx(0.75)
    other = corner.flip(1)
    assert float(compare("com_shift", corner, other)) == pytest.approx(0.75 * 64 / math.hypot(48, 64))


def test_maps_without_mass_in_common_are_as_far_apart_as_can_be():
    a, b = torch.zeros(3, 3), torch.zeros(3, 3)
    a[0], b[2] = 1, 1
    assert float(compare("l1", a, b)) == pytest.approx(1)
    assert float(compare("js", a, b)) == pytest.approx(1)
    assert float(compare("topk_iou", a[:, :1], b[:, :1])) == 0


def test_procrustes_has_no_points_to_fit_where_rows_are_equal():
    rows = torch.arange(7.0).expand(7, 7)
    assert compare("procrustes", rows, maps(1)[0]).isnan()
    turned = torch.linalg.qr(torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).double()).Q.float()
    one = maps(1)[0]
    assert float(compare("procrustes", one, one @ turned)) == pytest.approx(0, abs=1e-6)


def test_ssim_needs_an_image_as_large_as_its_window():
    a, b = maps(seed=1), maps(seed=2)
    assert SIMILARITIES["ssim"](a, b, (10, 48)).isnan().all()
    assert SIMILARITIES["ssim"](a, b, (11, 11)).isfinite().all()


def test_ranks_share_ties():
    values = maps(3, levels=4).flatten(1)
    np.testing.assert_array_equal(average_ranks(values).numpy(), stats.rankdata(values.numpy(), axis=1))


def test_flat_allows_for_rounding_only():
    values = torch.tensor([[0.0, 0, 0], [1, 1, 1 + 1e-7], [1, 1, 1.00001], [0, 0, 1e-30], [-3, -3, -3], [-1, 1, 1]])
    assert flat(values).tolist() == [True, True, False, False, True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("name", COMPARED)
def test_equals_the_cpu_on_the_gpu(name):
    a, b = maps(seed=1, levels=4), maps(seed=2)
    torch.testing.assert_close(compare(name, a.cuda(), b.cuda()).cpu(), compare(name, a, b), rtol=1e-5, atol=1e-5)
