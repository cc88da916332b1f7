import re

import pytest
import torch

from camrobust.core.ranks import TIES, agreement, rbo, rbo_lists
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
def test_average_overlap_is_the_limit_for_p_towards_1(order, wanted):
    # At p -> 1 the extrapolation takes all the weight; the average overlap is the weighted rest over its weight.
    p, m = 1 - 1e-7, 5
    found = float(rbo(scores_of("abcde"), scores_of(order), p=p))
    assert (found - p**m) / (1 - p**m) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("ties", "wanted"), [("w", 1), ("a", 0.95), ("b", 1)])
def test_known_values_with_ties(ties, wanted):
    scores = torch.tensor([1.0, 1.0, 0.0])
    assert float(rbo(scores, scores, ties=ties)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_equals_enumeration_under_ties(ties, p):
    a, b = tied(6, 5, 1), tied(6, 5, 2)
    found, adjusted = agreement(a, b, p, ties)
    for one, other, value, corrected in zip(a.tolist(), b.tolist(), found, adjusted, strict=True):
        wanted = reference.rbo(one, other, p, ties)
        assert float(value) == pytest.approx(wanted, abs=1e-9)
        if ties == "index":
            continue  # broken by number in both lists alike: chance is d/m only where nothing is tied
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
def test_chance_floor_of_two_random_permutations(p, wanted):
    generator = torch.Generator().manual_seed(0)
    for m, value in zip((10, 20, 30, 50), wanted, strict=True):
        a, b = torch.rand(4000, m, generator=generator), torch.rand(4000, m, generator=generator)
        raw, adjusted = agreement(a, b, p)
        expectation = (raw[0] - adjusted[0]) / (1 - adjusted[0])
        assert round(float(expectation), 2) == pytest.approx(value, abs=0.0051)
        assert float(raw.mean()) == pytest.approx(float(expectation), abs=0.01)
        assert abs(float(adjusted.mean())) < 0.02


@pytest.mark.parametrize("ties", TIES)
def test_adjusted_is_0_on_average_under_ties(ties):
    a, b = tied(1, 12, 1, levels=4), tied(1, 12, 2, levels=3)
    generator = torch.Generator().manual_seed(0)
    renamed = torch.stack([b[0, torch.randperm(12, generator=generator)] for _ in range(20_000)])
    # "index" breaks ties by the item's number in both lists alike, which is more than chance: its known inflation.
    found = float(agreement(a, renamed, 0.9, ties)[1].mean())
    assert (found > 0.02) if ties == "index" else abs(found) < 0.01


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
    whole = rbo(a, b)
    monkeypatch.setattr("camrobust.core.ranks.CHUNK_BYTES", 9 * 9 * 8 * 7)
    assert torch.equal(whole, rbo(a, b))


def test_a_single_segment_and_all_tied():
    raw, adjusted = agreement(torch.zeros(2, 1), torch.ones(2, 1))
    assert raw.tolist() == [1, 1]
    assert adjusted.isnan().all()
    raw, adjusted = agreement(torch.zeros(4), torch.zeros(4))
    assert float(raw) == pytest.approx(1)
    assert adjusted.isnan()


def test_lists_that_share_only_some_items():
    found = rbo_lists("abcdefg", "zcavwxy", 0.9)
    assert found.ext == pytest.approx(0.288217, abs=1e-6)
    assert found.low == pytest.approx(0.221686, abs=1e-6)
    assert found.high == pytest.approx(0.580676, abs=1e-6)
    assert rbo_lists("abcde", "bacde").ext == pytest.approx(0.9, abs=1e-12)
    longer = rbo_lists("abcd", "acxbyz")
    assert longer == rbo_lists("acxbyz", "abcd")
    assert longer.low < longer.ext < longer.high


@pytest.mark.parametrize(("p", "depth", "weight"), [(0.9, 10, 0.85558), (0.98, 50, 0.85223)])
def test_weight_of_the_top_ranks(p, depth, weight):
    # Agreement on the first `depth` ranks and on nothing later is at least this weight.
    same = list(range(depth))
    first, second = same + [f"a{n}" for n in range(2000)], same + [f"b{n}" for n in range(2000)]
    lower = rbo_lists(first[:depth], second[:depth], p).low
    assert lower == pytest.approx(weight, abs=1e-4)


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


def test_mistakes_in_lists():
    with pytest.raises(ValueError, match=re.escape("each list must hold different items, got ['a', 'a']; drop the")):
        rbo_lists("aa", "ab")
    with pytest.raises(ValueError, match="rbo_lists: p must be between 0 and 1, got 0;"):
        rbo_lists("a", "b", 0)
