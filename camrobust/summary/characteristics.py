"""The table summary/characteristics: do properties of images and datasets explain how stable maps are?

Every image gives one value, its mean agreement over pairs that kept their class, which is compared with its properties.
All properties together explain the share R² of the variance of ranks. A single property explains its squared rank
correlation; beyond the other properties it explains as much as R² drops without it. Datasets are compared as they are,
and at the same number of segments.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from camrobust.contract.comparison_schema import CHARACTERISTICS
from camrobust.contract.schema import IMAGES
from camrobust.summary.intervals import t_interval
from camrobust.summary.line_tables import Line, line_table
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import holm
from camrobust.summary.regression import (
    adjusted_difference,
    rank_of,
    share_interval,
    shares,
    spearman_interval,
    spearman_p,
)

Array = NDArray[np.float64]
KEYS = ("dataset", "image_id", "label")
PROPERTIES = tuple(column.name for column in IMAGES if column.name not in KEYS and column.type != "string")
"""Every numeric column of the images table except the label."""
ALL = "all"
FEWEST = 4
"""Images that a correlation needs: its interval is defined for n > 3."""


@dataclass(frozen=True)
class _Property:
    """A property of n images, prepared so that any choice of images can be ranked without sorting again.

    Attributes:
        place: (n,) position of the value among the distinct values, ascending.
        known: (n,) bool, the value is not NaN.
    """

    place: NDArray[np.int64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Array) -> "_Property":
        known = ~np.isnan(values)
        _, place = np.unique(np.where(known, values, 0), return_inverse=True)
        return cls(place, known)

    def ranks(self, chosen: NDArray[np.bool_]) -> Array:
        """Ranks among the chosen images, ties averaged."""
        place = self.place[chosen]
        counts = np.bincount(place)
        ends = np.cumsum(counts)
        ranks: Array = (ends - (counts - 1) / 2)[place]
        return ranks


def characterise(profiles: Sequence[Profile], images: pl.DataFrame) -> pl.DataFrame:
    """The table `comparison_schema.CHARACTERISTICS`.

    Args:
        profiles: one per dataset and model.
        images: rows as `schema.IMAGES`; with a column model, those of each model.
    """
    lines: list[Line] = []
    for model in sorted({profile.model for profile in profiles}):
        of_model = [profile for profile in profiles if profile.model == model]
        properties = [_properties(profile, images) for profile in of_model]
        for profile, values in zip(of_model, properties, strict=True):
            lines += _correlations([profile], [values], {"dataset": profile.dataset, "model": model})
        if len(of_model) > 1:
            lines += _correlations(of_model, properties, {"dataset": None, "model": model})
            lines += _datasets(of_model, properties, model)
    return line_table(lines, CHARACTERISTICS)


def _properties(profile: Profile, images: pl.DataFrame) -> dict[str, Array]:
    """Every property of the profile's images; unknown values are NaN."""
    wanted = pl.DataFrame({"image_id": profile.images}, schema={"image_id": pl.String})
    mine = images.filter(pl.col("model") == profile.model) if "model" in images.columns else images
    of_dataset = mine.filter(pl.col("dataset") == profile.dataset).unique("image_id", keep="first")
    joined = wanted.join(of_dataset, on="image_id", how="left", maintain_order="left")
    names = [name for name in PROPERTIES if name in joined.columns]
    values = {name: joined[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names}
    return values | {name: column.astype(np.float64) for name, column in profile.certainty.items()}


def _targets(profiles: Sequence[Profile]) -> Iterator[tuple[Line, Array]]:
    """The values to explain, over the images of all profiles: adjusted and raw overall, adjusted also by family."""
    for cam in sorted(set.intersection(*(set(profile.cams) for profile in profiles))):
        for measure in ("consistency_adjusted", "consistency"):
            values = [profile.of_cam(measure, cam) for profile in profiles]
            yield {"cam": cam, "family": ALL, "measure": measure}, np.concatenate(values).astype(np.float64)
        families = set.intersection(*(set(profile.families) for profile in profiles))
        for family in sorted(families) if len(families) > 1 else ():
            values = [profile.of_family(cam, family) for profile in profiles]
            line = {"cam": cam, "family": family, "measure": "consistency_adjusted"}
            yield line, np.concatenate(values).astype(np.float64)


def _correlations(profiles: Sequence[Profile], parts: Sequence[Mapping[str, Array]], group: Line) -> list[Line]:
    names = [name for name in parts[0] if all(name in part for part in parts)]
    properties = {name: _Property.of(np.concatenate([part[name] for part in parts])) for name in names}
    measured = {name: column for name, column in properties.items() if column.known.any()}
    known = np.logical_and.reduce([column.known for column in measured.values()])
    lines: list[Line] = []
    for line, values in _targets(profiles):
        chosen = known & ~np.isnan(values)
        n = int(chosen.sum())
        if n < FEWEST:
            continue
        ranked = _Property.of(values).ranks(chosen)
        columns = {name: column.ranks(chosen) for name, column in measured.items()}
        lines += _explained({**group, **line, "n_images": n}, columns, ranked)
    return lines


def _explained(group: Line, columns: Mapping[str, Array], ranked: Array) -> list[Line]:
    """One line per property, and one for all of them together."""
    n = len(ranked)
    varying = {name: ranks for name, ranks in columns.items() if ranks.min() < ranks.max()}
    if not varying or ranked.min() == ranked.max():
        return []
    table = np.stack([*varying.values(), ranked])
    table = table - table.mean(axis=1, keepdims=True)
    table /= np.sqrt((table**2).sum(axis=1, keepdims=True))
    whole = table @ table.T
    S, r = whole[:-1, :-1], np.clip(whole[:-1, -1], -1, 1)
    k = rank_of(S)
    R2, alone = shares(S, r)
    low, high = spearman_interval(r, n)
    p = spearman_p(r, n)
    columns_of = {"effect": r, "effect_lower": low, "effect_upper": high, "share": r**2, "share_alone": alone, "p": p,
                  "p_corrected": holm(p)}  # fmt: skip
    lines: list[Line] = [
        {
            **group,
            "analysis": "spearman",
            "property": name,
            **{key: float(column[place]) for key, column in columns_of.items()},
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


def _datasets(profiles: Sequence[Profile], parts: Sequence[Mapping[str, Array]], model: str) -> list[Line]:
    """Differences between two datasets, as they are and at the same number of segments."""
    lines: list[Line] = []
    for first, second in combinations(range(len(profiles)), 2):
        pair = [profiles[first], profiles[second]]
        segments = np.concatenate([parts[place].get("n_segments", np.array([])) for place in (first, second)])
        in_first = np.repeat([1.0, 0.0], [len(profile.images) for profile in pair])
        if len(segments) != len(in_first):
            continue
        for line, values in _targets(pair):
            chosen = ~np.isnan(values) & ~np.isnan(segments)
            group = {"dataset": None, "model": model, **line, "property": f"{pair[0].dataset} - {pair[1].dataset}"}
            lines += _difference(group, values[chosen], in_first[chosen], segments[chosen])
    return lines


def _difference(group: Line, values: Array, in_first: Array, segments: Array) -> list[Line]:
    n, of_first = len(values), int(in_first.sum())
    if min(of_first, n - of_first) < 2 or n < FEWEST or values.min() == values.max():
        return []
    designs = {"dataset": [in_first], "dataset_given_segments": [in_first, segments, segments**2]}
    lines = []
    for analysis, columns in designs.items():
        fit = adjusted_difference(values, columns)
        if fit is None:
            continue
        effect, error, share, freedom = fit
        lower, upper = t_interval(effect, error, freedom)
        p = float(2 * special.stdtr(freedom, -abs(effect) / error)) if error else 0.0
        lines.append(
            {**group, "analysis": analysis, "effect": effect, "effect_lower": lower,
             "effect_upper": upper, "share": share, "p": p, "p_corrected": p, "n_images": n}
        )  # fmt: skip
    return lines
