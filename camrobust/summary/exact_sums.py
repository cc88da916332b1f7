"""Sums whose bits do not depend on the order in which the numbers are added up.

Floating-point addition rounds, so the same numbers in another order give another last bit. Here every number is first
split into parts that are multiples of fixed powers of two. A sum of such multiples is exact as long as it is below 2⁵³
of them, so each part is added up by itself, in any order and in any groups, and the sums of the parts meet at the end.
So a run has the same summary whichever images its blocks, its commits or its shards hold.

What is below the finest power of two, 2⁻⁵², is dropped: at most 2⁻⁵³ of a number, which is what rounding takes from a
number near 1. The sums are exact for at least 16 million numbers.

References:
    Demmel & Nguyen 2013, "Fast Reproducible Floating-Point Summation", pre-rounding with fixed boundaries.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SMALL = (2.0**-22, 2.0**-52)
"""Powers of two for numbers like an agreement and its square: sums up to 2³¹."""
LARGE = (2.0**8, *SMALL)
"""Powers of two for sums over all pairs of an image, and for their products: sums up to 2⁶¹."""
ROUNDS = 1.5 * 2.0**52
"""Added to a number and taken off again, this many units round the number to a multiple of the unit."""


def split(values: Array, units: Sequence[float]) -> Iterator[Array]:
    """The parts of some numbers, one array per unit, from the coarsest to the finest.

    Args:
        values: finite numbers of any shape; they are not changed.
        units: powers of two, falling.
    """
    rest = values
    for place, unit in enumerate(units):
        part = rest + ROUNDS * unit
        part -= ROUNDS * unit
        yield part
        if place + 1 < len(units):
            rest = rest - part


def column_sums(values: Array, units: Sequence[float]) -> Array:
    """Sums over the first axis, by part.

    Args:
        values: (I, G).
        units: as for `split`.

    Returns:
        (G, units).
    """
    return np.stack([part.sum(axis=0) for part in split(values, units)], axis=-1)


def counted(counts: Array, units: Sequence[float]) -> Array:
    """Whole numbers that are sums already, in the form of `column_sums`: (G,) to (G, units)."""
    parts = np.zeros((*counts.shape, len(units)))
    parts[..., 0] = counts
    return parts


def sums_at(places: NDArray[np.int64], values: Array, size: int, units: Sequence[float]) -> Array:
    """Sums of the values of each place, by part.

    Args:
        places: (N,) from 0 to size - 1.
        values: (N,).
        size: number of places.
        units: as for `split`.

    Returns:
        (size, units).
    """
    parts: Array = np.stack([np.bincount(places, part, size) for part in split(values, units)], axis=-1)
    return parts.astype(np.float64, copy=False)


def added(parts: Array) -> Array:
    """The sums, from their parts on the last axis; the finest parts are added first."""
    total: Array = parts[..., -1].copy()
    for place in range(parts.shape[-1] - 2, -1, -1):
        total += parts[..., place]
    return total
