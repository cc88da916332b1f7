import numpy as np
import pytest
from scipy import stats

from camrobust.summary.ranktests import cliffs_delta, holm, kruskal, wilcoxon

TWO_BLOCKS = np.array([[1, 8, 6, 4, 7, 2, 5, 3, 9], [1, 6, 3, 9, 7, 2, 8, 4, 5]], float)


def ties(n=30, k=4, seed=0):
    return np.round(np.random.default_rng(seed).random((n, k)) + np.arange(k) * 0.1, 1)


def loops(d):
    """The rank-biserial correlation by its definition, zeros ranked and then left out."""
    ranks = stats.rankdata(np.abs(d))
    plus, minus = ranks[d > 0].sum(), ranks[d < 0].sum()
    return (plus - minus) / (plus + minus), plus


def normal_p(d):
    """Two-sided p of Wilcoxon's test from the normal distribution, with Pratt's zeros and corrected for ties."""
    n, zeros = len(d), (d == 0).sum()
    _, ties = np.unique(np.abs(d[d != 0]), return_counts=True)
    variance = n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1) - (ties**3 - ties).sum() / 2
    signed = (np.sign(d) * stats.rankdata(np.abs(d))).sum()
    return 2 * stats.norm.sf(abs(signed) / 2 / np.sqrt(variance / 24))


@pytest.mark.parametrize(("seed", "n"), [(3, 14), (1, 60), (2, 200)])
def test_wilcoxon_is_scipys_with_pratts_zeros_and_ties(seed, n):
    d = np.round(np.random.default_rng(seed).normal(0.1, 0.3, n), 1)
    assert (d == 0).any()
    found = wilcoxon(d)
    wanted = stats.wilcoxon(d, zero_method="pratt", method="approx", correction=False)
    assert found.p == pytest.approx(wanted.pvalue, abs=1e-15)
    assert found.p == pytest.approx(normal_p(d), rel=1e-12)
    assert (found.effect, found.statistic) == pytest.approx(loops(d))
    assert wilcoxon(-d).effect == pytest.approx(-found.effect)


def test_few_images_get_the_exact_distribution():
    d = np.random.default_rng(0).normal(0.3, 1, 9)
    assert wilcoxon(d).p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)


def test_differences_of_one_sign_or_none():
    same = wilcoxon(np.arange(1.0, 9.0))
    assert same.effect == 1
    assert np.isnan([same.lower, same.upper]).all()
    none = wilcoxon(np.zeros(5))
    assert (none.effect, none.p) == (0, 1)


def test_intervals_of_the_effect_sizes_cover_the_truth():
    # Logistic differences shifted by s: the mean sign of d_i + d_j; normal samples: P(x > y) is known.
    generator = np.random.default_rng(0)
    many = generator.logistic(0.5, 1, 40_000)
    truth = wilcoxon(many).effect
    delta = 2 * stats.norm.cdf(0.5 / np.sqrt(2)) - 1
    paired, free = [], []
    for _ in range(400):
        found = wilcoxon(generator.logistic(0.5, 1, 60))
        paired.append(found.lower <= truth <= found.upper)
        found = cliffs_delta(generator.normal(0.5, 1, 50), generator.normal(0, 1, 40))
        free.append(found.lower <= delta <= found.upper)
    assert 0.92 <= np.mean(paired) <= 0.98
    assert 0.92 <= np.mean(free) <= 0.98


def test_cliffs_delta_by_loops():
    generator = np.random.default_rng(1)
    x, y = np.round(generator.random(17), 1), np.round(generator.random(11) + 0.2, 1)
    found = cliffs_delta(x, y)
    assert found.effect == pytest.approx(np.mean([[np.sign(a - b) for b in y] for a in x]))
    assert found.p == pytest.approx(stats.mannwhitneyu(x, y).pvalue)
    apart = cliffs_delta(x + 5, y)
    assert apart.effect == 1
    assert np.isnan([apart.lower, apart.upper]).all()
    assert np.isnan(cliffs_delta(x[:1], y).lower)


def test_kruskal_is_scipys():
    groups = [ties(n=9, k=1, seed=s)[:, 0] + s / 10 for s in range(3)]
    found, wanted = kruskal(groups), stats.kruskal(*groups)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert found.effect == pytest.approx(wanted.statistic / 26)
    assert np.isnan(kruskal([np.ones(3), np.ones(4)]).p)


def test_holm_of_the_example_and_with_gaps():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    gaps = holm(np.array([0.5, np.nan, 0.9]))
    assert gaps[[0, 2]] == pytest.approx([1, 1])
    assert np.isnan(gaps[1])
