import numpy as np
import pytest
from scipy.stats import t

from camrobust.summary.intervals import RatioSums, covariance, interval, product_variance


def sums(a, b):
    """The sums of one group from the a_i and b_i of its images."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return RatioSums(*(np.array([float(x)]) for x in ((b > 0).sum(), a.sum(), b.sum(), a @ a, a @ b, b @ b)))


def crossed(a, b, c, d):
    return tuple(np.array([float(np.dot(x, y))]) for x, y in ((a, c), (a, d), (b, c), (b, d)))


def test_with_one_pair_per_image_it_is_the_variance_of_a_mean():
    a = np.array([0.2, 0.5, 0.9, 0.4])
    found = sums(a, np.ones(4))
    assert found.estimate[0] == pytest.approx(a.mean())
    assert found.variance()[0] == pytest.approx(a.var(ddof=1) / 4)


def test_a_ratio_by_hand():
    # Σa/Σb = 2/4; residuals (1.5 - 1.5, 0.5 - 0.5) / 4 vanish, then (1 - 0.5, 1 - 1.5) / 4 = ±1/8.
    assert sums([1.5, 0.5], [3, 1]).variance()[0] == 0
    assert sums([1, 1], [1, 3]).variance()[0] == pytest.approx(2 * (1 / 64 + 1 / 64))


def test_nothing_gives_nan_and_one_image_gives_no_variance():
    empty, single = sums([0, 0], [0, 0]), sums([0.5, 0], [1, 0])
    assert np.isnan(empty.estimate[0])
    assert np.isnan(empty.variance()[0])
    assert single.estimate[0] == 0.5
    assert np.isnan(single.variance()[0])


def test_rounding_never_makes_a_negative_variance():
    a, b = np.full(997, 0.1) * np.arange(1, 998), np.arange(1, 998)
    found = sums(a, b)
    assert 0 <= found.variance()[0] < 1e-15
    half = interval(found.estimate, found.variance(), found.images)
    assert np.isfinite(half).all()


def test_covariance_is_that_of_the_residuals():
    generator = np.random.default_rng(3)
    b, d = generator.integers(1, 6, 20).astype(float), generator.integers(0, 4, 20).astype(float)
    a, c = b * generator.random(20), d * generator.random(20)
    e = (a - a.sum() / b.sum() * b) / b.sum()
    f = (c - c.sum() / d.sum() * d) / d.sum()
    found = covariance(sums(a, b), sums(c, d), crossed(a, b, c, d), np.array([20.0]))
    assert found[0] == pytest.approx(20 / 19 * (e @ f))
    itself = covariance(sums(a, b), sums(a, b), crossed(a, b, a, b), np.array([20.0]))
    assert itself[0] == pytest.approx(sums(a, b).variance()[0])


def test_the_delta_method_is_the_gradient():
    C, R, variances = 0.7, 0.4, np.array([[0.01, 0.002], [0.002, 0.03]])
    gradient = np.array([R, C])
    parts = (np.array([x]) for x in (C, R, 0.01, 0.03, 0.002))
    assert product_variance(*parts)[0] == pytest.approx(gradient @ variances @ gradient)
    assert product_variance(*(np.array([x]) for x in (1.0, 1.0, 0.01, 0.01, -0.02)))[0] == 0


def test_the_interval_is_students_and_clipped():
    low, high = interval(np.array([0.5]), np.array([0.01]), np.array([5.0]), 0.9)
    half = t.ppf(0.95, 4) * 0.1
    assert (low[0], high[0]) == pytest.approx((0.5 - half, 0.5 + half))
    low, high = interval(np.array([0.5]), np.array([1.0]), np.array([2.0]), low=0, high=1)
    assert (low[0], high[0]) == (0, 1)
    assert np.isnan(interval(np.array([0.5]), np.array([np.nan]), np.array([1.0]))).all()
