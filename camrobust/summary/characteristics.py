"""To which extent do the characteristics of images and datasets explain how stable maps are? summary/characteristics.

The image is the unit: its mean agreement over pairs that kept their class, against its own properties. All properties
together explain the share R² of the variance of ranks; a property alone explains its squared rank correlation, and adds
what R² loses without it. Datasets are compared as they are, and at the same number of segments.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from camrobust.contract.schema import CHARACTERISTICS, IMAGES
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import holm

Array = NDArray[np.float64]
KEYS = ("dataset", "image_id", "label")
PROPERTIES = tuple(one.name for one in IMAGES if one.name not in KEYS and one.type != "string")
"""Every number of the images table but the label."""
ALL = "all"
FEWEST = 4
"""Images below which no correlation is taken: its interval needs n > 3."""
LEVEL = 0.95
COLLINEAR = 1e-8
"""Share of the variance of standardised columns below which a direction of them counts as none."""
Line = dict[str, Any]


@dataclass(frozen=True)
class _Property:
    """A property of n images, ready to be ranked among any of them.

    Attributes:
        place: (n,) number of its value among the different values, ascending.
        known: (n,) it is a number.
    """

    place: NDArray[np.int64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Array) -> "_Property":
        known = ~np.isnan(values)
        _, place = np.unique(np.where(known, values, 0), return_inverse=True)
        return cls(place, known)

    def ranks(self, chosen: NDArray[np.bool_]) -> Array:
        """Ranks among the chosen images, ties averaged, without sorting again."""
        place = self.place[chosen]
        counts = np.bincount(place)
        ends = np.cumsum(counts)
        ranks: Array = (ends - (counts - 1) / 2)[place]
        return ranks


def characterise(profiles: Sequence[Profile], images: pl.DataFrame) -> pl.DataFrame:
    """The table `schema.CHARACTERISTICS`.

    Args:
        profiles: one per dataset and model.
        images: rows as `schema.IMAGES`.
    """
    lines: list[Line] = []
    for model in sorted({one.model for one in profiles}):
        having = [one for one in profiles if one.model == model]
        parts = [_properties(one, images) for one in having]
        for one, found in zip(having, parts, strict=True):
            lines += _correlations([one], [found], {"dataset": one.dataset, "model": model})
        if len(having) > 1:
            lines += _correlations(having, parts, {"dataset": None, "model": model})
            lines += _datasets(having, parts, model)
    types = {"string": pl.String, "float64": pl.Float64, "int64": pl.Int64}
    table = pl.DataFrame(lines, schema={one.name: types[one.type] for one in CHARACTERISTICS}, orient="row")
    return table.with_columns(pl.col(pl.Float64).fill_nan(None))


def _properties(profile: Profile, images: pl.DataFrame) -> dict[str, Array]:
    """Every property of the profile's images, NaN where unknown."""
    wanted = pl.DataFrame({"image_id": profile.images}, schema={"image_id": pl.String})
    here = images.filter(pl.col("dataset") == profile.dataset).unique("image_id", keep="first")
    joined = wanted.join(here, on="image_id", how="left", maintain_order="left")
    names = [name for name in PROPERTIES if name in joined.columns]
    found = {name: joined[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names}
    return found | {name: values.astype(np.float64) for name, values in profile.certainty.items()}


def _targets(profiles: Sequence[Profile]) -> Iterator[tuple[Line, Array]]:
    """What is to be explained, over the images of all profiles: adjusted by family, and adjusted and raw in all."""
    for cam in sorted(set.intersection(*(set(one.cams) for one in profiles))):
        for measure in ("consistency_adjusted", "consistency"):
            values = [one.measures[measure][:, one.cams.index(cam)] for one in profiles]
            yield {"cam": cam, "family": ALL, "measure": measure}, np.concatenate(values).astype(np.float64)
        families = set.intersection(*(set(one.families) for one in profiles))
        for family in sorted(families) if len(families) > 1 else ():
            values = [one.by_family[:, one.cams.index(cam), one.families.index(family)] for one in profiles]
            line = {"cam": cam, "family": family, "measure": "consistency_adjusted"}
            yield line, np.concatenate(values).astype(np.float64)


def _correlations(profiles: Sequence[Profile], parts: Sequence[Mapping[str, Array]], group: Line) -> list[Line]:
    names = [name for name in parts[0] if all(name in part for part in parts)]
    properties = {name: _Property.of(np.concatenate([part[name] for part in parts])) for name in names}
    known = np.logical_and.reduce([one.known for one in properties.values() if one.known.any()])
    lines: list[Line] = []
    for line, values in _targets(profiles):
        chosen = known & ~np.isnan(values)
        n = int(chosen.sum())
        if n < FEWEST:
            continue
        ranked = _Property.of(values).ranks(chosen)
        columns = {name: one.ranks(chosen) for name, one in properties.items() if one.known.any()}
        lines += _explained({**group, **line, "n_images": n}, columns, ranked)
    return lines


def _explained(group: Line, columns: Mapping[str, Array], ranked: Array) -> list[Line]:
    """One line per property, one for all together."""
    n = len(ranked)
    varying = {name: ranks for name, ranks in columns.items() if ranks.min() < ranks.max()}
    if not varying or ranked.min() == ranked.max():
        return []
    table = np.stack([*varying.values(), ranked])
    table = table - table.mean(axis=1, keepdims=True)
    table /= np.sqrt((table**2).sum(axis=1, keepdims=True))
    whole = table @ table.T
    S, r = whole[:-1, :-1], np.clip(whole[:-1, -1], -1, 1)
    k = len(varying)
    R2, alone = shares(S, r)
    low, high = spearman_interval(r, n)
    p = _p(r, n)
    columns_of = {"effect": r, "effect_lower": low, "effect_upper": high, "share": r**2, "share_alone": alone, "p": p,
                  "p_corrected": holm(p)}  # fmt: skip
    lines: list[Line] = [
        {
            **group,
            "analysis": "spearman",
            "property": name,
            **{key: float(one[place]) for key, one in columns_of.items()},
        }
        for place, name in enumerate(varying)
    ]
    freedom = n - k - 1
    if freedom > 0:
        adjusted = max(0.0, 1 - (1 - R2) * (n - 1) / freedom)
        least, most = share_interval(adjusted, n, k)
        F = R2 / k / max(1e-300, (1 - R2) / freedom)
        p_all = float(special.fdtrc(k, freedom, F))
        lines.append(
            {**group, "analysis": "all_properties", "property": ALL, "share": adjusted, "share_lower": least,
             "share_upper": most, "p": p_all, "p_corrected": p_all}
        )  # fmt: skip
    return lines


def shares(S: Array, r: Array) -> tuple[float, Array]:
    """R² = rᵀ S⁻¹ r of a regression on standardised columns, and what it loses without each of them.

    Args:
        S: (k, k) correlations of the columns.
        r: (k,) their correlations with what is explained.

    Returns:
        R² and the losses, (k,); of columns that say the same, each loses nothing.
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


def spearman_interval(rho: Array, n: int, level: float = LEVEL) -> tuple[Array, Array]:
    """Intervals of rank correlations by Fisher's z with the variance of Bonett and Wright.

    Args:
        rho: correlations over the same images.
        n: how many, at least 4.
        level: confidence, (0, 1).

    References:
        Bonett & Wright 2000, Psychometrika 65: Var z = (1 + ρ²/2)/(n - 3).
    """
    z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = special.ndtri((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return np.tanh(z - half), np.tanh(z + half)


def share_interval(R2: float, n: int, k: int, level: float = LEVEL) -> tuple[float, float]:
    """Large-sample interval of R².

    References:
        Olkin & Finn 1995, Psychological Bulletin 118: Var R² = 4R²(1 - R²)²(n - k - 1)²/((n² - 1)(n + 3)).
    """
    variance = 4 * R2 * (1 - R2) ** 2 * (n - k - 1) ** 2 / ((n**2 - 1) * (n + 3))
    half = float(special.ndtri((1 + level) / 2)) * np.sqrt(variance)
    return max(0.0, R2 - half), min(1.0, R2 + half)


def _p(rho: Array, n: int) -> Array:
    t = rho * np.sqrt((n - 2) / np.maximum(1 - rho**2, 1e-300))
    p: Array = 2 * special.stdtr(n - 2, -np.abs(t))
    return p


def _datasets(profiles: Sequence[Profile], parts: Sequence[Mapping[str, Array]], model: str) -> list[Line]:
    """Differences of two datasets, as they are and at the same number of segments."""
    lines: list[Line] = []
    for first, second in combinations(range(len(profiles)), 2):
        pair = [profiles[first], profiles[second]]
        segments = np.concatenate([parts[place].get("n_segments", np.array([])) for place in (first, second)])
        belongs = np.repeat([1.0, 0.0], [len(one.images) for one in pair])
        if len(segments) != len(belongs):
            continue
        for line, values in _targets(pair):
            chosen = ~np.isnan(values) & ~np.isnan(segments)
            group = {"dataset": None, "model": model, **line, "property": f"{pair[0].dataset} - {pair[1].dataset}"}
            lines += _difference(group, values[chosen], belongs[chosen], segments[chosen])
    return lines


def _difference(group: Line, values: Array, belongs: Array, segments: Array) -> list[Line]:
    n, of_first = len(values), int(belongs.sum())
    if min(of_first, n - of_first) < 2 or n < FEWEST or values.min() == values.max():
        return []
    designs = {"dataset": [belongs], "dataset_given_segments": [belongs, segments, segments**2]}
    lines = []
    for analysis, columns in designs.items():
        found = adjusted_difference(values, columns)
        if found is None:
            continue
        effect, error, share, freedom = found
        half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
        p = float(2 * special.stdtr(freedom, -abs(effect) / error)) if error else 0.0
        lines.append(
            {**group, "analysis": analysis, "effect": effect, "effect_lower": effect - half,
             "effect_upper": effect + half, "share": share, "p": p, "p_corrected": p, "n_images": n}
        )  # fmt: skip
    return lines


def adjusted_difference(values: Array, columns: Sequence[Array]) -> tuple[float, float, float, int] | None:
    """Coefficient of the first column in a least-squares fit with a constant, robust to unequal variances.

    Args:
        values: (n,).
        columns: (n,) each; ones that do not vary are left out.

    Returns:
        Coefficient, standard error (HC1), the share of the variance that the first column adds to the others, degrees
        of freedom; None where it cannot be told from the other columns.

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
    left = values - X @ beta
    meat = (X * left[:, None] ** 2).T @ X
    error = float(np.sqrt((inverse @ meat @ inverse)[0, 0] * len(values) / freedom))
    others = X[:, 1:]
    without = values - others @ np.linalg.solve(gram[1:, 1:], others.T @ values)
    total = float(((values - values.mean()) ** 2).sum())
    return float(beta[0]), error, float(without @ without - left @ left) / total, freedom
