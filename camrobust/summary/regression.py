"""Shares of explained variance, intervals of correlations, and least squares with robust errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from camrobust.summary.intervals import LEVEL

Array = NDArray[np.float64]
COLLINEAR = 1e-8
"""Directions of standardised columns with a smaller share of the variance are left out as collinear."""


def shares(S: Array, r: Array) -> tuple[float, Array]:
    """R² = rᵀ S⁻¹ r of a regression on standardised columns, and how much R² drops without each column.

    Args:
        S: (k, k) correlations between the columns.
        r: (k,) correlations of the columns with the target.

    Returns:
        R² and the drops, (k,); the drop is 0 for columns that are linear combinations of others.
    """
    values, vectors = np.linalg.eigh(S)
    if values[0] > COLLINEAR:
        inverse = (vectors / values) @ vectors.T
        weights = inverse @ r
        return float(np.clip(r @ weights, 0, 1)), weights**2 / np.diag(inverse)
    R2 = _explained_by(S, r)
    rests = [np.delete(np.arange(len(r)), place) for place in range(len(r))]
    losses = [R2 - (_explained_by(S[np.ix_(rest, rest)], r[rest]) if rest.size else 0.0) for rest in rests]
    return R2, np.maximum(losses, 0)


def _explained_by(S: Array, r: Array) -> float:
    return float(np.clip(r @ np.linalg.pinv(S, rcond=COLLINEAR, hermitian=True) @ r, 0, 1))


def rank_of(S: Array) -> int:
    """The number of columns without those that are linear combinations of others, from their correlations (k, k)."""
    values = np.linalg.eigvalsh(S)
    return int((values > COLLINEAR * values[-1]).sum())


def spearman_interval(rho: Array, n: int, level: float = LEVEL) -> tuple[Array, Array]:
    """Intervals of rank correlations by Fisher's z with the variance of Bonett and Wright.

    Args:
        rho: correlations over the same n images.
        n: number of images, at least 4.
        level: confidence, (0, 1).

    References:
        Bonett & Wright 2000, Psychometrika 65: Var z = (1 + ρ²/2)/(n - 3).
    """
    z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = special.ndtri((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return np.tanh(z - half), np.tanh(z + half)


def share_interval(R2: float, n: int, k: int, level: float = LEVEL) -> tuple[float, float]:
    """Large-sample interval of R².

    Args:
        R2: share of explained variance, [0, 1].
        n: number of images.
        k: number of columns.
        level: confidence, (0, 1).

    References:
        Olkin & Finn 1995, Psychological Bulletin 118: Var R² = 4R²(1 - R²)²(n - k - 1)²/((n² - 1)(n + 3)).
    """
    variance = 4 * R2 * (1 - R2) ** 2 * (n - k - 1) ** 2 / ((n**2 - 1) * (n + 3))
    half = float(special.ndtri((1 + level) / 2)) * np.sqrt(variance)
    return max(0.0, R2 - half), min(1.0, R2 + half)


def spearman_p(rho: Array, n: int) -> Array:
    """Probability of rank correlations at least as large over n unrelated images, by Student's t."""
    t = rho * np.sqrt((n - 2) / np.maximum(1 - rho**2, 1e-300))
    p: Array = 2 * special.stdtr(n - 2, -np.abs(t))
    return p


def adjusted_difference(values: Array, columns: Sequence[Array]) -> tuple[float, float, float, int] | None:
    """Coefficient of the first column in a least-squares fit with a constant; its error allows for unequal variances.

    Args:
        values: (n,) the target.
        columns: (n,) each; constant columns are left out.

    Returns:
        The coefficient, its standard error (HC1), the share of the variance that the first column explains beyond the
        others, and the degrees of freedom; None if the first column is constant or collinear with the others.

    References:
        MacKinnon & White 1985 (HC1).
    """
    kept = [column for column in columns if column.min() < column.max()]
    if not kept or kept[0] is not columns[0]:
        return None
    scaled = [(column - column.mean()) / column.std() for column in kept[1:]]
    X = np.stack([kept[0], np.ones(len(values)), *scaled], axis=1)
    freedom = len(values) - X.shape[1]
    gram = X.T @ X
    size = np.sqrt(np.diag(gram))
    if freedom < 1 or np.linalg.eigvalsh(gram / np.outer(size, size))[0] < COLLINEAR:
        return None
    inverse = np.linalg.inv(gram)
    beta = inverse @ (X.T @ values)
    residuals = values - X @ beta
    meat = (X * residuals[:, None] ** 2).T @ X
    error = float(np.sqrt((inverse @ meat @ inverse)[0, 0] * len(values) / freedom))
    others = X[:, 1:]
    without = values - others @ np.linalg.solve(gram[1:, 1:], others.T @ values)
    total = float(((values - values.mean()) ** 2).sum())
    return float(beta[0]), error, float(without @ without - residuals @ residuals) / total, freedom
