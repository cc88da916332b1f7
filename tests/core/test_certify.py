"""Bounds, certified overlap, membership and class against plain loops, scipy, statsmodels and every possible order."""

import doctest
import math
from importlib import import_module

import pytest
import torch
from scipy.stats import binomtest
from scipy.stats import norm as normal
from statsmodels.stats.proportion import proportion_confint

from camrobust.contract.certificates import CERTIFICATES
from camrobust.core.certify.bounds import clopper_pearson, empirical_bernstein, hoeffding, item_bounds
from camrobust.core.certify.certificate import IN, OUT, UNDECIDED, estimated_order, map_certificate
from camrobust.core.certify.classes import certified_class
from camrobust.core.certify.items import KINDS, item_sums, top_places
from camrobust.core.certify.membership import certified_membership, majority_membership, needed_hits, radius
from camrobust.core.certify.overlap import certified_overlaps, certified_rbo
from camrobust.core.certify.smoothing import smoothed_bounds
from tests.reference import certify as reference


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def coarse(*shape, seed=0, levels=4):
    """Scores with many ties."""
    return torch.randint(0, levels, shape, generator=stream(seed)).float()


def boxes(count, m, seed=0):
    """Random bounds L ≤ U in the order of their middles, (count, m) float64 each."""
    middles, half = torch.rand(2, count, m, generator=stream(seed), dtype=torch.float64)
    middles = middles.sort(dim=-1, descending=True).values
    half = half * torch.rand(count, 1, generator=stream(seed + 1)) ** 2 / 2
    return middles - half, middles + half


@pytest.mark.parametrize("kind", KINDS)
def test_sums_equal_the_loop_with_ties_padding_flat_and_broken_samples(kind):
    scores = coarse(40, 3, 9)
    scores[3, 1], scores[5, 2, 4], scores[6, 0, 0] = 2.0, math.nan, -math.inf
    sizes = torch.tensor([9, 5, 7])
    scores[8, 1, 5:], scores[9, 1, :5] = math.nan, 1.0  # the first is padding, the second leaves a flat sample
    before = scores.clone()
    sums = item_sums(scores, kind, sizes, top=0.4)
    assert scores.equal(before) or scores.isnan().equal(before.isnan())
    assert sums.flat.tolist() == [1, sum(len(set(one[:5])) == 1 for one in scores[:, 1].tolist()), 1]
    for row, m in enumerate(sizes.tolist()):
        every = [reference.contributions(one[:m], kind, math.ceil(0.4 * m)) for one in scores[:, row].tolist()]
        scale = sums.scale[row].item()
        for found, side, power in (
            (sums.lower, 0, 1), (sums.upper, 1, 1), (sums.lower_squares, 0, 2), (sums.upper_squares, 1, 2)
        ):  # fmt: skip
            wanted = [sum((one[side][i] * scale) ** power for one in every) for i in range(m)]
            assert found[row, :m].tolist() == pytest.approx(wanted, abs=1e-6)
            assert found[row, m:].tolist() == [0] * (9 - m)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_do_not_depend_on_how_the_samples_are_cut(kind):
    scores = torch.rand(50, 2, 12, generator=stream())
    whole = item_sums(scores, kind)
    shuffled = scores[torch.randperm(50, generator=stream(1))]
    parts = [item_sums(part, kind) for part in shuffled.split([7, 1, 30, 12])]
    added = parts[2] + parts[0] + parts[3] + parts[1]
    assert added.samples == 50
    for name in ("lower", "upper", "lower_squares", "upper_squares", "flat"):
        assert getattr(added, name).equal(getattr(whole, name))


def test_sums_of_other_items_are_refused():
    one = item_sums(torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"sums of 'rank' items \(5,\) and of 'top' items \(5,\) cannot be added"):
        _ = one + item_sums(torch.rand(2, 5), "top")


def test_unusable_samples_count_as_flat():
    scores = torch.rand(4, 6, generator=stream())
    sums = item_sums(scores, unusable=torch.tensor([True, False, True, True]))
    alone = item_sums(scores[1:2])
    assert int(sums.flat) == 3
    assert sums.lower.equal(alone.lower)
    assert sums.upper.equal(alone.upper + 3 * sums.scale)


@pytest.mark.parametrize("share", [1e-12, 0.07, 0.1, 0.2, 0.3, 1])
def test_top_places_are_the_exact_ceiling(share):
    sizes = torch.arange(1, 400)
    hundredths = round(share * 100)
    assert top_places(sizes, share).tolist() == [max(1, -(-m * hundredths // 100)) for m in range(1, 400)]


@pytest.mark.parametrize(("n", "bound", "probit"), [(1000, 0.9929, 2.454), (100, 0.9316, 1.487)])
def test_clopper_pearson_of_all_hits(n, bound, probit):
    lower, upper = clopper_pearson(torch.tensor(n), n, 0.05 / 60)
    assert lower.item() == pytest.approx(bound, abs=5e-5)
    assert normal.ppf(lower.item()) == pytest.approx(probit, abs=5e-4)
    assert upper.item() == 1


def test_clopper_pearson_equals_the_loop_scipy_and_statsmodels():
    hits = torch.tensor([[0, 1, 7, 20], [39, 40, 13, 7]])
    tails = torch.tensor([[0.05], [1e-6]])
    lower, upper = clopper_pearson(hits, 40, tails)
    for row, tail in enumerate(tails.flatten().double().tolist()):
        for place, k in enumerate(hits[row].tolist()):
            found = (lower[row, place].item(), upper[row, place].item())
            assert found == pytest.approx(reference.clopper_pearson(k, 40, tail), abs=1e-8)
            outside = binomtest(k, 40).proportion_ci(1 - 2 * tail, "exact")
            assert found == pytest.approx((outside.low, outside.high), abs=1e-8)
            assert found == pytest.approx(proportion_confint(k, 40, 2 * tail, "beta"), abs=1e-8)


def test_clopper_pearson_never_lies_inside_of_the_exact_bound():
    """P(Bin(n, l) ≥ k) must not be above the tail, also in the last bits."""
    for n in (2, 100, 5000):
        hits = torch.linspace(0, n, 41).long()
        for tail in (0.025, 1e-4, 1e-9):
            lower, upper = clopper_pearson(hits, n, tail)
            below = torch.tensor(
                [binomtest(k, n, p, "greater").pvalue for k, p in zip(hits.tolist(), lower.tolist(), strict=True)]
            )
            above = torch.tensor(
                [binomtest(k, n, p, "less").pvalue for k, p in zip(hits.tolist(), upper.tolist(), strict=True)]
            )
            assert (below[hits > 0] <= tail).all()
            assert (above[hits < n] <= tail).all()


@pytest.mark.parametrize(("n", "half"), [(100, 0.188), (1000, 0.0595)])
def test_hoeffding_half_width(n, half):
    lower, upper = hoeffding(torch.tensor(0.5).double(), n, 0.05 / 60)
    assert [0.5 - lower.item(), upper.item() - 0.5] == pytest.approx([half] * 2, abs=5e-4 if n == 100 else 5e-5)


@pytest.mark.parametrize("bound", ["empirical_bernstein", "hoeffding"])
def test_bounds_of_ranks_equal_the_loop(bound):
    scores, sizes = coarse(200, 2, 6, levels=5), torch.tensor([6, 4])
    scores[:150, :, 0] += 3
    scores[10] = 1.0
    lower, upper = item_bounds(item_sums(scores, "rank", sizes), 0.05, bound)
    for row, m in enumerate(sizes.tolist()):
        every = [reference.contributions(one[:m], "rank", 1) for one in scores[:, row].tolist()]
        for item in range(m):
            low, high = ([one[side][item] for one in every] for side in (0, 1))
            rule = getattr(reference, bound)
            assert lower[row, item].item() == pytest.approx(rule(low, 0.05 / (2 * m))[0], abs=1e-12)
            assert upper[row, item].item() == pytest.approx(rule(high, 0.05 / (2 * m))[1], abs=1e-12)
    assert (lower[1, 4:].tolist(), upper[1, 4:].tolist()) == ([0, 0], [1, 1])


def test_bounds_of_the_top_are_those_of_clopper_and_pearson():
    sums = item_sums(coarse(50, 6), "top", top=0.3)
    lower, upper = item_bounds(sums, 0.05)
    assert lower.equal(clopper_pearson(sums.lower, 50, 0.05 / 12)[0])
    assert upper.equal(clopper_pearson(sums.upper, 50, 0.05 / 12)[1])
    assert (sums.lower < sums.upper).any()


def test_smoothed_bounds_equal_the_loop_and_are_never_inside():
    lower = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0]]).double()
    shares = torch.tensor([0.0, 0.05, 1.0, 7.0]).double()
    L, U = smoothed_bounds(lower, lower, shares)
    assert L.shape == U.shape == (1, 4, 5)
    for place, share in enumerate(shares.tolist()):
        for item, bound in enumerate(lower[0].tolist()):
            low, high = (reference.shifted(bound, side * share) for side in (-1, 1))
            assert L[0, place, item].item() == pytest.approx(low, abs=1e-11)
            assert U[0, place, item].item() == pytest.approx(high, abs=1e-11)
            assert L[0, place, item].item() <= max(0, low - 1e-13)
            assert U[0, place, item].item() >= min(1, high + 1e-13)


@pytest.mark.parametrize("m", [1, 2, 3, 7, 8, 30])
def test_overlaps_equal_the_loop(m):
    lower, upper = boxes(60, m, seed=m)
    found = certified_overlaps(lower, upper)
    assert found.tolist() == [reference.overlaps(*one) for one in zip(lower.tolist(), upper.tolist(), strict=True)]
    raw, adjusted = certified_rbo(found)
    assert raw.tolist() == pytest.approx([reference.rbo(one, 0.9) for one in found.tolist()], abs=1e-12)
    if m == 1:
        assert adjusted.isnan().all()
    else:
        wanted = [reference.adjusted(reference.rbo(one, 0.9), m, 0.9) for one in found.tolist()]
        assert adjusted.tolist() == pytest.approx(wanted, abs=1e-12)


def test_padding_changes_nothing():
    lower, upper = boxes(20, 7)
    K = torch.tensor(2)
    rest = torch.rand(20, 4, generator=stream(5), dtype=torch.float64)
    wide = [torch.cat([bound, rest], dim=1) for bound in (lower, upper)]
    sizes = torch.full((20,), 7)
    found = certified_overlaps(*wide, sizes)
    assert found[:, :7].equal(certified_overlaps(lower, upper))
    for one, other in zip(certified_rbo(found, 0.8, sizes), certified_rbo(found[:, :7], 0.8), strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-12)
    members = certified_membership(*wide, K, sizes)
    assert members[:, :7].equal(certified_membership(lower, upper, K))
    assert not members[:, 7:].any()


@pytest.mark.parametrize("m", range(2, 7))
def test_no_possible_order_breaks_the_certificates(m):
    """All orders that scores within the boxes can take. Membership is not only sound but exact."""
    count = 60 if m < 6 else 25
    lower, upper = boxes(count, m, seed=10 + m)
    found = certified_overlaps(lower, upper)
    rbo = certified_rbo(found)[0]
    for K in range(1, m + 1):
        members = certified_membership(lower, upper, torch.tensor(K))
        for row in range(count):
            orders = list(reference.possible_orders(lower[row].tolist(), upper[row].tolist()))
            shared = [[len({*order[:d]} & {*range(d)}) for d in range(1, m + 1)] for order in orders]
            assert all(
                t <= min(column) for t, column in zip(found[row].tolist(), zip(*shared, strict=True), strict=True)
            )
            assert rbo[row].item() <= min(reference.rbo(one, 0.9) for one in shared) + 1e-12
            tops = [{*order[:K]} for order in orders]
            wanted = [all(i in top for top in tops) - all(i not in top for top in tops) for i in range(m)]
            assert members[row].tolist() == wanted == reference.membership(lower[row].tolist(), upper[row].tolist(), K)


def test_two_smoothed_orders_may_agree_less_than_each_does_with_the_order_of_the_samples():
    """So a certificate speaks of the samples' order, and nowhere of the smoothed order at the image."""
    lower = torch.tensor([0.6, 0.05, 0.05, 0.3], dtype=torch.float64)
    upper = torch.tensor([0.7, 0.95, 0.94, 0.4], dtype=torch.float64)
    assert certified_overlaps(lower, upper).tolist() == [0, 1, 2, 4]
    tops = {frozenset(order[:2]) for order in reference.possible_orders(lower.tolist(), upper.tolist())}
    assert min(len(top & {0, 1}) for top in tops) == 1
    assert {frozenset({0, 3}), frozenset({1, 2})} <= tops
    texts = {column.name: column.meaning for column in CERTIFICATES}
    assert all("samples" in texts[name] for name in ("certified_overlap", "certified_rbo"))


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (lambda mean, tail: hoeffding(mean, 1000, tail), (0.40, 0.10, -0.09, -0.27)),
        (
            lambda mean, tail: empirical_bernstein(mean, torch.full_like(mean, 0.01), 1000, tail),
            (0.63, 0.25, 0.01, -0.26),
        ),
    ],
)  # fmt: skip
def test_certified_rbo_of_evenly_spaced_scores(rule, wanted):
    mean = torch.linspace(0.95, 0.05, 30, dtype=torch.float64)
    shares = torch.tensor([0, 0.05, 0.1, 0.25]) / 0.25
    adjusted = certified_rbo(certified_overlaps(*smoothed_bounds(*rule(mean, 0.01 / 60), shares)))[1]
    assert adjusted.tolist() == pytest.approx(wanted, abs=0.005)


def test_the_certificate_of_a_batch_equals_the_loops():
    sizes = torch.tensor([[8], [5]])
    quality = torch.linspace(3, 0, 8) * torch.tensor([[[1.0], [0.3]], [[2.0], [0.1]]])
    scores = quality[:, :] + 0.4 * torch.randn(400, 2, 2, 8, generator=stream())
    scores[0, 0, 0] = 0.0
    shares = torch.tensor([0.0, 0.1, 0.5])
    sums = item_sums(scores, "rank", sizes)
    whole = map_certificate(sums, shares, 0.05, top=0.3, p=0.8)
    assert whole.flat_share.tolist() == [[1 / 400, 0], [0, 0]]
    assert whole.flat_share.dtype == whole.rbo.dtype == torch.float64
    assert whole.rbo.shape == whole.overlap.shape == (2, 2, 3)
    for image in range(2):
        m = int(sizes[image])
        for cam in range(2):
            alone = map_certificate(item_sums(scores[:, image, cam, :m]), shares, 0.05, top=0.3, p=0.8)
            order = whole.order[image, cam, :m]
            assert order.equal(alone.order)
            assert sorted(order.tolist()) == [*range(m)]
            for place in range(3):
                L, U = whole.lower[image, cam, place], whole.upper[image, cam, place]
                shared = reference.overlaps(L[order].tolist(), U[order].tolist())
                K = math.ceil(0.3 * m)
                raw = reference.rbo(shared, 0.8)
                assert whole.overlaps[image, cam, place, :m].tolist() == shared
                found = [getattr(whole, name)[image, cam, place].item() for name in ("rbo", "rbo_adjusted", "overlap")]
                assert found == pytest.approx([raw, reference.adjusted(raw, m, 0.8), shared[K - 1] / K], abs=1e-12)
                members = reference.membership(L[:m].tolist(), U[:m].tolist(), K)
                assert whole.membership[image, cam, place].tolist() == members + [0] * (8 - m)
                shares_of = [whole.share(value)[image, cam, place].item() for value in (IN, OUT, UNDECIDED)]
                assert shares_of == pytest.approx([members.count(value) / m for value in (IN, OUT, UNDECIDED)])
            for name in ("rbo", "rbo_adjusted", "overlap"):
                found, wanted = getattr(whole, name)[image, cam], getattr(alone, name)
                assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)
    assert (whole.rbo_adjusted[..., 0] > 0).any()
    assert (whole.rbo.diff(dim=-1) <= 0).all()


def test_equal_estimates_stand_in_the_order_of_their_numbers():
    sums = item_sums(torch.tensor([[1.0, 2.0, 2.0, 0.0, 9.0]]), sizes=torch.tensor(4))
    assert estimated_order(sums).tolist() == [1, 2, 0, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [0.2, 1])
def test_a_map_that_is_always_flat_is_never_certified(kind, top):
    scores = torch.full((1000, 4, 12), 0.7)
    scores[:, 1], scores[:, 2] = 0.0, math.nan
    sums = item_sums(scores, kind, torch.tensor([12, 12, 12, 1]), top)
    certified = map_certificate(sums, torch.tensor([0.0, 0.1]), 0.01, top)
    assert certified.flat.all()
    assert certified.flat_share.tolist() == [1] * 4
    assert not certified.membership.any()
    assert certified.share(UNDECIDED).eq(1).all()
    for values in (certified.rbo, certified.rbo_adjusted, certified.overlap):
        assert values.isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_top_of_all_items_certifies_nobody_in_it(kind):
    """Every item is in it whatever the map, so neither an overlap of 1 nor a white mask may say that it is stable."""
    scores = torch.linspace(3, 0, 3) + 0.01 * torch.randn(1000, 2, 3, generator=stream())
    certified = map_certificate(item_sums(scores, kind, torch.tensor([3, 2]), 0.6), torch.tensor([0.0]), 0.01, 0.6)
    assert certified.overlap[0].item() == 1
    assert certified.overlap[1].isnan().all()
    assert certified.membership[:, 0].tolist() == [[IN, IN, OUT], [UNDECIDED] * 3]
    assert not certified.rbo.isnan().any()


def test_the_rule_of_anani():
    assert [needed_hits(90, 0.75, 0.001, items) for items in (50_176, 49)] == [88, 84]
    assert [round(radius(0.75, sigma), 2) for sigma in (0.15, 0.25, 0.33)] == [0.10, 0.17, 0.22]
    for k in (88, 84):
        chance = binomtest(k, 90, 0.75, "greater").pvalue
        assert chance <= 0.001 / (50_176 if k == 88 else 49) < binomtest(k - 1, 90, 0.75, "greater").pvalue
    assert needed_hits(5, 0.75, 0.001, 49) == 6  # even five of five prove nothing
    inside = torch.tensor([[84, 83, 3, 0, 90, 90], [90, 90, 90, 90, 90, 90]])
    pilot = torch.tensor([[True, True, False, True, False, True]]).expand(2, 6)
    found = majority_membership(pilot, inside, 90 - inside, 90, 0.75, 0.001, torch.tensor([5, 1]))
    least = needed_hits(90, 0.75, 0.001, 5)
    assert least < 84
    assert found.tolist() == [[1, 1, -1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


def test_certified_class():
    hits = torch.tensor([1000, 990, 600, 510, 0])
    certified = certified_class(hits, 1000, 0.001)
    for place, k in enumerate(hits.tolist()):
        bound = proportion_confint(k, 1000, 0.002, "beta")[0] if k else 0
        assert certified.probability[place].item() == pytest.approx(bound, abs=1e-8)
        wanted = normal.ppf(bound) if bound > 0.5 else 0
        assert certified.radius[place].item() == pytest.approx(wanted, abs=1e-6)
    assert certified.abstained.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: item_sums(torch.rand(2, 3), "ranks"), "item must be one of rank, top, got 'ranks'; rank is"),
        (lambda: item_sums(torch.rand(2, 3), "top", top=0), r"top must be above 0 and at most 1 .*, got 0; try 0.2"),
        (lambda: item_sums(torch.rand(0, 3)), r"scores must hold samples of items, got the shape \(0, 3\)"),
        (lambda: item_bounds(item_sums(torch.rand(1, 3)), 0.1), "samples must be at least 2, got 1; hundreds are"),
        (lambda: item_bounds(item_sums(torch.rand(2, 3)), 1), r"alpha must be between 0 and 1 .*, got 1; try 0.01"),
        (lambda: item_bounds(item_sums(torch.rand(2, 3)), 0.1, "normal"), "bound must be one of empirical_bernstein"),
        (lambda: map_certificate(item_sums(torch.rand(2, 3)), torch.tensor([-1.0]), 0.1), "radii must be finite"),
        (lambda: certified_rbo(torch.ones(3).long(), 1), "p must be between 0 and 1, got 1"),
        (lambda: needed_hits(90, 0.4, 0.1, 3), r"tau must be at least 0.5 and below 1 .*, got 0.4; try 0.75"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=f"^certify: {sentence}"):
        call()


@pytest.mark.parametrize(
    "module", ["bounds", "certificate", "classes", "items", "membership", "overlap", "smoothing"]
)  # fmt: skip
def test_the_examples_run(module):
    failed, attempted = doctest.testmod(import_module(f"camrobust.core.certify.{module}"))
    assert attempted > 0 == failed
