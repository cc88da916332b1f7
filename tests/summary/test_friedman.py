"""Tests over blocks against published examples, scipy and scikit-posthocs."""

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from camrobust.summary.friedman import RankSums, cliques, conover, critical_difference, friedman, nemenyi

TWO_BLOCKS = np.array([[1, 8, 6, 4, 7, 2, 5, 3, 9], [1, 6, 3, 9, 7, 2, 8, 4, 5]], float)


def ties(n=30, k=4, seed=0):
    return np.round(np.random.default_rng(seed).random((n, k)) + np.arange(k) * 0.1, 1)


def test_the_highest_value_has_rank_1_and_ties_are_averaged():
    values = ties()
    sums = RankSums.of(values)
    ranks = np.array(
        [[1 + sum(y > x for y in row) + (sum(y == x for y in row) - 1) / 2 for x in row] for row in values]
    )
    np.testing.assert_array_equal(sums.means, ranks.mean(axis=0))
    assert sums.squares == (ranks**2).sum()


def test_friedman_and_iman_davenport_of_the_published_example():
    chi2, F = friedman(RankSums.of(-TWO_BLOCKS))
    assert chi2.statistic == pytest.approx(11.7333, abs=1e-4)
    assert chi2.p == pytest.approx(0.163504, abs=1e-6)
    assert (F.statistic, F.df) == (pytest.approx(2.75), 8)
    assert F.p == pytest.approx(0.086969, abs=1e-6)
    assert chi2.effect == F.effect == pytest.approx(11.7333 / (2 * 8), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_friedman_is_scipys_with_ties(seed):
    values = ties(seed=seed)
    found, _ = friedman(RankSums.of(values))
    wanted = stats.friedmanchisquare(*values.T)
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))


def test_blocks_that_agree_fully_or_say_nothing():
    chi2, F = friedman(RankSums.of(np.tile([3.0, 2.0, 1.0], (5, 1))))
    assert chi2.effect == pytest.approx(1)
    assert (F.statistic, F.p) == (np.inf, 0)
    for one in friedman(RankSums.of(np.full((5, 3), 2.0))):
        assert np.isnan([one.statistic, one.p, one.effect]).all()


def test_the_critical_difference_has_infinite_degrees_of_freedom():
    assert critical_difference(9, 2) == pytest.approx(8.494, abs=5e-4)
    q = [critical_difference(k, 6) / np.sqrt(k * (k + 1) / 36) for k in range(2, 11)]
    assert q == pytest.approx([1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164], abs=6e-4)


@pytest.mark.parametrize("seed", range(3))
def test_post_hoc_tests_are_those_of_scikit_posthocs(seed):
    values = ties(seed=seed)
    sums = RankSums.of(values)
    half = critical_difference(4, 30)
    for wanted, test in (
        (scikit_posthocs.posthoc_nemenyi_friedman(values), lambda i, j: nemenyi(sums, i, j, half)),
        (scikit_posthocs.posthoc_conover_friedman(values), lambda i, j: conover(sums, i, j)),
    ):
        for i in range(4):
            for j in range(i):
                assert test(i, j).p == pytest.approx(wanted.iloc[i, j], abs=1e-6)
                assert test(i, j).effect == -test(j, i).effect
    a, b = nemenyi(sums, 0, 3, half), critical_difference(4, 30)
    assert (a.lower, a.upper) == pytest.approx((a.effect - b, a.effect + b))
    assert (a.lower > 0 or a.upper < 0) == (a.p < 0.05)


def test_cliques_join_what_is_not_told_apart():
    assert cliques([1.0, 1.4, 1.9, 3.0], 0.6) == [(0, 1), (1, 2)]
    assert cliques([1.0, 1.2, 1.4], 1) == [(0, 2)]
    assert cliques([1.0, 3.0], 1) == []
