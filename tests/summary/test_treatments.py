import numpy as np
import pytest

from camrobust.summary.ranktests import least_p, wilcoxon
from camrobust.summary.treatments import first_of, merged, treatments, twins_under


def test_a_chain_of_equal_maps_ends_at_one_cam():
    same = {"c": "b", "b": "a", "x": "y", "y": "x"}
    assert [first_of(cam, same) for cam in "abcd"] == ["a", "a", "a", "d"]
    assert first_of("x", same) in ("x", "y")


def test_twins_are_grouped_in_the_order_of_the_names():
    assert treatments("cbad", {"b": "a", "c": "a"}) == {"a": ["c", "b"], "d": []}
    assert treatments("bc", {"b": "a", "c": "a"}) == {"b": ["c"]}
    assert treatments("ab") == {"a": [], "b": []}


def test_over_several_models_only_those_that_coincide_in_all_are_one():
    m, n = {"b": "a", "c": "a"}, {"b": "a"}
    assert treatments("abc", m, n) == {"a": ["b"], "c": []}
    assert treatments("abc", m, {}) == {"a": [], "b": [], "c": []}
    assert twins_under(["m", "n"], "abc", {"m": m, "n": n}) == [("m", "b"), ("m", "c"), ("n", "b")]


def test_what_two_runs_found_about_one_model_is_put_together():
    first, second = {"m": {"b": "a"}, "n": {}}, {"m": {"d": "c"}}
    assert merged([first, second]) == {"m": {"b": "a", "d": "c"}, "n": {}}


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_smallest_p_is_that_of_differences_of_one_sign(n):
    assert least_p(n) == wilcoxon(np.arange(1.0, n + 1)).p
