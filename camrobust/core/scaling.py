"""Quotients and scaling that do not fail on constant values."""

import torch
from torch import Tensor


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient of finite values, and 0 where the denominator is 0. There is no ε, which would shift small values."""
    return numerator / denominator.masked_fill(denominator == 0, torch.inf)


def min_max(values: Tensor, dims: tuple[int, ...], *, constant: float = 0.0, tolerance: float = 0.0) -> Tensor:
    """(x - min)/(max - min) with minimum and maximum over some dimensions, [0, 1].

    Args:
        values: of any shape, in floating point.
        dims: the dimensions that are scaled together.
        constant: the result where all values over these dimensions are equal.
        tolerance: values count as equal if max - min is at most this share of the maximum.

    Returns:
        The shape and type of `values`; NaN where a minimum or maximum is NaN.
    """
    low, high = values.amin(dim=dims, keepdim=True), values.amax(dim=dims, keepdim=True)
    spread = high - low
    equal = spread <= tolerance * high
    return torch.where(equal, constant, (values - low) / torch.where(equal, 1.0, spread))
