"""Shares of variance against least squares, intervals against planted correlations."""

import numpy as np
import pytest
from scipy import stats

from camrobust.summary.regression import adjusted_difference, rank_of, share_interval, shares, spearman_interval


def test_shares_are_those_of_least_squares():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(200, 4)) @ generator.normal(size=(4, 4))
    y = X @ [1, 0, 2, 0.5] + generator.normal(size=200)
    whole = np.corrcoef(np.column_stack([X, y]).T)

    def fitted(columns):
        A = np.column_stack([columns, np.ones(200)])
        left = y - A @ np.linalg.lstsq(A, y, rcond=None)[0]
        return 1 - left @ left / ((y - y.mean()) ** 2).sum()

    R2, alone = shares(whole[:-1, :-1], whole[:-1, -1])
    assert pytest.approx(fitted(X)) == R2
    assert alone == pytest.approx([fitted(X) - fitted(np.delete(X, j, 1)) for j in range(4)])


def test_equal_columns_add_nothing_alone():
    S = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]])
    R2, alone = shares(S, np.array([0.6, 0.6, 0.3]))
    assert pytest.approx(0.36 + 0.09) == R2
    assert alone == pytest.approx([0, 0, 0.09], abs=1e-9)


def test_the_rank_counts_no_column_twice():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(20, 3))
    for columns, rank in (
        (X, 3),
        (np.column_stack([X, X]), 3),
        (np.column_stack([X, X @ [1, 2, 3]]), 3),
        (X[:, :1], 1),
    ):
        assert rank_of(np.corrcoef(columns.T).reshape(columns.shape[1], -1)) == rank


def test_intervals_cover_planted_correlations():
    # Normal with correlation ρ has the rank correlation 6/π·asin(ρ/2).
    generator, rho, n = np.random.default_rng(0), 0.6, 80
    truth = 6 / np.pi * np.arcsin(rho / 2)
    inside, inside_share = [], []
    for _ in range(400):
        x, e = generator.normal(size=(2, n))
        y = rho * x + np.sqrt(1 - rho**2) * e
        low, high = spearman_interval(np.array([stats.spearmanr(x, y).statistic]), n)
        inside.append(low[0] <= truth <= high[0])
        low, high = share_interval(np.corrcoef(x, y)[0, 1] ** 2, n, 1)
        inside_share.append(low <= rho**2 <= high)
    assert 0.92 <= np.mean(inside) <= 0.98
    assert 0.91 <= np.mean(inside_share) <= 0.98


def test_a_difference_that_is_all_segments_vanishes_at_equal_segments():
    generator = np.random.default_rng(1)
    belongs = np.repeat([1.0, 0.0], 300)
    segments = generator.normal(50, 8, 600) + 6 * belongs
    values = 0.01 * segments + generator.normal(0, 0.02, 600)
    plain, given = adjusted_difference(values, [belongs]), adjusted_difference(values, [belongs, segments])
    assert plain[0] == pytest.approx(values[:300].mean() - values[300:].mean())
    # HC1 of a single contrast is Welch's error, but for G/(G - 2) in place of each group's own correction.
    welch = np.sqrt(sum(part.var() / 300 for part in (values[:300], values[300:])) * 600 / 598)
    assert plain[1] == pytest.approx(welch)
    assert abs(given[0]) < 3 * given[1] < 0.02
    assert given[2] < 0.01 < plain[2]
    assert adjusted_difference(values, [belongs, 2 * belongs + 1]) is None
    assert adjusted_difference(values[:300], [belongs[:300]]) is None
