import re
from itertools import permutations

import pytest
import torch

from camrobust.core.rank_lists import rbo_lists
from camrobust.core.ranks import TIES, agreement, average_overlap, rbo, top_weight
from tests.reference import ranks as reference


def scores_of(order, items="abcde"):
    return torch.tensor([-float(order.index(item)) for item in items])


def tied(count, m, seed=0, levels=3):
    return torch.randint(0, levels, (count, m), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize(("order", "wanted"), [("abcde", 1), ("edcba", 0.737775), ("bacde", 0.9), ("abced", 0.981775)])
@pytest.mark.parametrize("ties", TIES)
def test_known_values_without_ties(order, wanted, ties):
    assert float(rbo(scores_of("abcde"), scores_of(order), ties=ties)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("order", "wanted"), [("abcde", 1), ("edcba", 0.416667), ("bacde", 0.8), ("abced", 0.95)])
@pytest.mark.parametrize("ties", TIES)
def test_average_overlap(order, wanted, ties):
    found = average_overlap(scores_of("abcde"), scores_of(order), ties)
    assert float(found) == pytest.approx(wanted, abs=1e-6)
    # At p -> 1 the extrapolation takes all the weight; the average overlap is the weighted rest over its weight.
    p, m = 1 - 1e-7, 5
    limit = float(rbo(scores_of("abcde"), scores_of(order), p, ties))
    assert (limit - p**m) / (1 - p**m) == pytest.approx(float(found), abs=1e-6)


@pytest.mark.parametrize(("ties", "wanted"), [("w", 1), ("a", 0.95), ("b", 1)])
def test_known_values_with_ties(ties, wanted):
    scores = torch.tensor([1.0, 1.0, 0.0])
    assert float(rbo(scores, scores, ties=ties)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_equals_enumeration_under_ties(ties, p):
    m = 4 if ties == "index" else 5  # there both lists' items are renamed: (m!)² pairs
    a, b = tied(6, m, 1), tied(6, m, 2)
    found, adjusted = agreement(a, b, p, ties)
    for one, other, value, corrected in zip(a.tolist(), b.tolist(), found, adjusted, strict=True):
        wanted = reference.rbo(one, other, p, ties)
        assert float(value) == pytest.approx(wanted, abs=1e-9)
        expected = reference.chance(one, other, p, ties)
        assert float(corrected) == pytest.approx((wanted - expected) / (1 - expected), abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
def test_equals_the_loop_for_many_segments(ties):
    a, b = torch.rand(4, 40, generator=torch.Generator().manual_seed(3)), tied(4, 40, 4, levels=40)
    if ties in ("a", "b"):
        b = torch.rand(4, 40, generator=torch.Generator().manual_seed(5))
        orders = (
            [sorted(range(40), key=lambda i, s=s: -s[i]) for s in a.tolist()],
            [sorted(range(40), key=lambda i, s=s: -s[i]) for s in b.tolist()],
        )
        wanted = [reference.overlap(x, y, 0.9) for x, y in zip(*orders, strict=True)]
    else:
        wanted = [reference.rbo(x, y, 0.9, ties) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert rbo(a, b, ties=ties).tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("p", "wanted"),
    [(0.8, (0.45, 0.25, 0.17, 0.10)), (0.9, (0.65, 0.44, 0.32, 0.20)), (0.95, (0.80, 0.64, 0.52, 0.37))],
)
@pytest.mark.parametrize("ties", TIES)
def test_chance_floor_without_ties(p, wanted, ties):
    for m, value in zip((10, 20, 30, 50), wanted, strict=True):
        raw, adjusted = agreement(
            torch.arange(m), torch.randperm(m, generator=torch.Generator().manual_seed(m)), p, ties
        )
        expectation = float((raw - adjusted) / (1 - adjusted))
        formula = sum((1 - p) * p ** (d - 1) * d / m for d in range(1, m + 1)) + p**m
        assert expectation == pytest.approx(formula, abs=1e-9)
        assert round(expectation, 2) == pytest.approx(value)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("tied", [False, True])
def test_independent_rankings_are_0_on_average(ties, tied):
    """For every number of segments: the mean adjusted agreement of random rankings has 0 within 4.5 standard errors.

    With ties, each ranking has its own number of levels, so that small and large tie groups meet.
    """
    generator, count = torch.Generator().manual_seed(0), 150 if ties == "index" else 400
    for m in range(2, 61):
        a, b = torch.rand(2, count, m, generator=generator)
        if tied:
            levels = torch.randint(1, m + 1, (2, count, 1), generator=generator)
            a, b = (a * levels[0]).floor(), (b * levels[1]).floor()
        adjusted = agreement(a, b, 0.9, ties)[1]
        defined = adjusted[adjusted.isfinite()]
        assert len(defined) > count / 4
        error = float(defined.std() / len(defined) ** 0.5)
        assert abs(float(defined.mean())) <= 4.5 * error, m
        assert error < 0.15


@pytest.mark.parametrize("ties", TIES)
def test_adjusted_is_0_over_all_renamings(ties):
    """Exactly, for one pair of tied rankings; the number takes part in "index", so there both lists are renamed."""
    a, b = torch.tensor([3.0, 1, 1, 0, 0]), torch.tensor([2.0, 2, 2, 1, 0])
    orders = torch.tensor(list(permutations(range(5))))
    first = a[orders][:, None] if ties == "index" else a
    adjusted = agreement(first, b[orders], 0.9, ties)[1]
    assert float(adjusted.mean()) == pytest.approx(0, abs=1e-12)
    assert float(agreement(a, a, 0.9, ties)[1]) == pytest.approx(1, abs=1e-9) or ties == "a"


def test_breaking_ties_by_number_inflates_the_raw_agreement():
    a, b = torch.randint(0, 2, (2, 500, 30), generator=torch.Generator().manual_seed(0)).float()
    raw = {ties: float(agreement(a, b, 0.9, ties)[0].mean()) for ties in ("a", "index")}
    assert raw["index"] > raw["a"] + 0.1
    adjusted = {ties: float(agreement(a, b, 0.9, ties)[1].mean()) for ties in ("a", "index")}
    assert abs(adjusted["index"] - adjusted["a"]) < 0.02


@pytest.mark.parametrize("ties", TIES)
def test_images_with_different_numbers_of_segments_in_one_call(ties):
    """Images x variants x CAMs at once: what lies behind an image's own segments changes nothing."""
    sizes = torch.tensor([4, 9, 1, 6])
    a, b = tied(4 * 3 * 2, 9, 1).reshape(4, 3, 2, 9), tied(4 * 2, 9, 2).reshape(4, 1, 2, 9)
    found = agreement(a, b, 0.9, ties, sizes[:, None, None])
    for image, m in enumerate(sizes.tolist()):
        wanted = agreement(a[image, ..., :m], b[image, ..., :m], 0.9, ties)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one[image], other, equal_nan=True, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ties", TIES)
def test_properties(ties):
    a, b = tied(5, 9, 1), tied(5, 9, 2)
    kept = a.clone(), b.clone()
    raw, adjusted = agreement(a, b, 0.9, ties)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
    torch.testing.assert_close(raw, agreement(b, a, 0.9, ties)[0])
    torch.testing.assert_close(raw, rbo(a.exp() * 3, b**3 - 7, 0.9, ties))
    torch.testing.assert_close(raw[2], rbo(a[2], b[2], 0.9, ties))
    grid = agreement(a[:, None], b[None], 0.9, ties)
    torch.testing.assert_close(grid[0].diagonal(), raw)
    torch.testing.assert_close(grid[1].diagonal(), adjusted)
    assert raw.min() >= 0
    assert raw.max() <= 1


def test_chunks_change_nothing(monkeypatch):
    a, b = tied(50, 9, 1), tied(50, 9, 2)
    whole = agreement(a, b, ties="index")
    monkeypatch.setattr("camrobust.core.ranks.CHUNK_BYTES", 9 * 9 * 8 * 7)
    for before, after in zip(whole, agreement(a, b, ties="index"), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("levels", [3, 1000])
def test_equals_the_sum_over_all_items_at_every_depth(ties, levels):
    """Many segments, ties and padding: the four counts of a depth against the contributions of every item."""
    a, b = tied(30, 90, 1, levels), tied(30, 90, 2, levels)
    sizes = torch.randint(1, 91, (30,), generator=torch.Generator().manual_seed(3))
    found, _ = agreement(a, b, 0.9, ties, sizes)
    wanted = [
        reference.rbo_of_shares(x[:m].double().numpy(), y[:m].double().numpy(), 0.9, ties)
        for x, y, m in zip(a, b, sizes.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize("ties", TIES)
def test_scores_that_are_not_finite_do_not_stop_the_others(ties):
    a, b = tied(5, 9, 1), tied(5, 9, 2)
    spoilt = a.clone()
    spoilt[0], spoilt[1, 2], spoilt[3, 3], spoilt[3, 4] = torch.nan, torch.nan, torch.inf, -torch.inf
    for one, other in zip(agreement(spoilt, b, 0.9, ties), agreement(a, b, 0.9, ties), strict=True):
        assert torch.equal(one[[2, 4]], other[[2, 4]])


def test_a_single_segment_and_all_tied():
    raw, adjusted = agreement(torch.zeros(2, 1), torch.ones(2, 1))
    assert raw.tolist() == [1, 1]
    assert adjusted.isnan().all()
    raw, adjusted = agreement(torch.zeros(4), torch.zeros(4))
    assert float(raw) == pytest.approx(1)
    assert adjusted.isnan()


@pytest.mark.parametrize(("p", "depth", "weight"), [(0.9, 10, 0.85558), (0.98, 50, 0.85223)])
def test_weight_of_the_top_ranks(p, depth, weight):
    assert top_weight(p, depth) == pytest.approx(weight, abs=1e-5)
    # Two lists that agree on their first ranks and on nothing later agree by at least this weight.
    same = [str(rank) for rank in range(depth)]
    assert rbo_lists(same, same, p).low == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(3), torch.zeros(4)), "rbo: both lists must score the same items, got 3 and 4; use rbo_lists"),
        ((torch.zeros(3), torch.zeros(3), 1.0), "rbo: p must be between 0 and 1, got 1; 0.9 puts 86 % of the weight"),
        (
            (torch.zeros(3), torch.zeros(3), 0.9, "c"),
            "rbo: ties must be one of b, a, w, index, got 'c'; b is the default",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        rbo(*arguments)


def test_mistakes_in_weights():
    with pytest.raises(ValueError, match=re.escape("top_weight: p must be between 0 and 1, got 1.2; 0.9 puts")):
        top_weight(1.2, 3)
    with pytest.raises(ValueError, match="top_weight: depth must be at least 1, got 0; it counts ranks from the top"):
        top_weight(0.9, 0)
