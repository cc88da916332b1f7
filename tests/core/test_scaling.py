import numpy as np
import pytest
import torch

from camrobust.core.scaling import min_max, ratio


def test_equals_the_loop_over_channels():
    values = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    scaled = min_max(values, (2, 3))
    for image, channel in np.ndindex(3, 4):
        picture = values[image, channel].double().numpy()
        wanted = (picture - picture.min()) / (picture.max() - picture.min())
        np.testing.assert_allclose(scaled[image, channel].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.5])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_values(constant, value):
    assert min_max(torch.full((2, 3), value), (1,), constant=constant).tolist() == [[constant] * 3] * 2
    assert min_max(torch.full((2, 3), value), (1,), constant=torch.nan).isnan().all()


def test_values_within_the_tolerance_are_constant():
    values = torch.tensor([[1, 1 + 1e-6], [1, 1.1]])
    assert min_max(values, (1,), tolerance=1e-5).tolist() == [[0, 0], [0, 1]]
    assert min_max(values, (1,)).tolist() == [[0, 1], [0, 1]]


def test_not_finite_values_spoil_only_their_own_group():
    values = torch.tensor([[0.0, torch.nan, 1], [0, torch.inf, 1], [0, 2, 1]])
    scaled = min_max(values, (1,))
    assert scaled.isnan().any(dim=1).tolist() == [True, True, False]
    assert scaled[2].tolist() == [0, 1, 0.5]


def test_a_ratio_keeps_small_denominators_and_gives_0_for_0():
    numerator, denominator = torch.tensor([1e-20, 5.0, 0.0]), torch.tensor([2e-20, 0.0, 0.0])
    assert ratio(numerator, denominator).tolist() == [0.5, 0, 0]
