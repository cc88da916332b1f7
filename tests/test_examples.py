"""The examples in the docstrings of the public functions, run as they stand."""

import doctest

import pytest

import camrobust
from camrobust.contract import heads, spelling, units
from camrobust.core.perturb import perturb
from camrobust.core.rank_lists import rbo_lists
from camrobust.core.ranks import agreement, rbo
from camrobust.core.segments import quickshift, segment, segment_matrix
from camrobust.interface import amounts
from camrobust.interface.evaluation import Evaluation
from camrobust.interface.maps import Maps
from tests.results.test_reduce import write_run

NO_EXAMPLE = ("__version__", "cam", "perturbation", "similarity")
"""The decorators would register methods in this process; docs/examples shows them, and a test runs it."""
PUBLIC = [
    *(getattr(camrobust, name) for name in camrobust.__all__ if name not in NO_EXAMPLE),
    *(Evaluation.chart, Evaluation.report, Evaluation.save, Maps.certain),
    *(agreement, perturb, quickshift, rbo, rbo_lists, segment, segment_matrix),
]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_the_example_of_a_public_function_runs(function, tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={})
    assert 3 <= len(example.examples) <= 6
    printed = []
    results = doctest.DocTestRunner().run(example, out=printed.append)
    assert (results.attempted, "".join(printed)) == (len(example.examples), "")


@pytest.mark.parametrize("module", [amounts, heads, spelling, units], ids=lambda module: module.__name__)
def test_the_examples_of_small_functions_run(module):
    results = doctest.testmod(module)
    assert (results.attempted > 0, results.failed) == (True, 0)
