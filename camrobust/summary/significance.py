"""Are the differences more than chance? CAMs and models within images, datasets between them: summary/tests."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from camrobust.contract.schema import TESTS
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import (
    Effect,
    Omnibus,
    RankSums,
    block_ranks,
    cliffs_delta,
    conover,
    critical_difference,
    friedman,
    holm,
    kruskal,
    nemenyi,
    wilcoxon,
)

MEASURES = ("consistency_adjusted", "responsiveness_adjusted", "robustness_adjusted")
FEWEST = 2
"""Complete images below which nothing is tested."""
Values = NDArray[np.floating[Any]]
Line = dict[str, Any]
OMNIBUS = ("friedman", "iman_davenport", "kruskal_wallis")


def significance_tests(profiles: Sequence[Profile]) -> pl.DataFrame:
    """The table `schema.TESTS`: tests of all at once, mean ranks, then every pair.

    The image is the block: each gives one value per CAM and model, its mean over perturbations. An image that lacks one
    of the values that are compared is left out and counted.

    Args:
        profiles: one per dataset and model.
    """
    lines: list[Line] = []
    for measure in MEASURES:
        for group, names, values in _within(profiles, measure):
            lines += _blocks({**group, "measure": measure}, names, values)
        for group, names, samples in _between(profiles, measure):
            lines += _independent({**group, "measure": measure}, names, samples)
    types = {"string": pl.String, "float64": pl.Float64, "int64": pl.Int64}
    table = pl.DataFrame(lines, schema={one.name: types[one.type] for one in TESTS}, orient="row")
    return _corrected(table.with_columns(pl.col(pl.Float64).fill_nan(None)))


def _within(profiles: Sequence[Profile], measure: str) -> Iterator[tuple[Line, list[str], Values]]:
    """Groups, what is compared in them, and (n, k) values: CAMs of a model, then models of a CAM."""
    for one in profiles:
        yield {"factor": "cam", "dataset": one.dataset, "model": one.model, "cam": None}, one.cams, one.measure(measure)
    for dataset in dict.fromkeys(one.dataset for one in profiles):
        here = [one for one in profiles if one.dataset == dataset]
        for cam in sorted({cam for one in here for cam in one.cams}):
            having = [one for one in here if cam in one.cams]
            values = np.stack([one.measure(measure)[:, one.cams.index(cam)] for one in having], axis=1)
            group = {"factor": "model", "dataset": dataset, "model": None, "cam": cam}
            yield group, [one.model for one in having], values


def _between(profiles: Sequence[Profile], measure: str) -> Iterator[tuple[Line, list[str], list[Values]]]:
    for model, cam in sorted({(one.model, cam) for one in profiles for cam in one.cams}):
        having = [one for one in profiles if one.model == model and cam in one.cams]
        samples = [one.measure(measure)[:, one.cams.index(cam)] for one in having]
        group = {"factor": "dataset", "dataset": None, "model": model, "cam": cam}
        yield group, [one.dataset for one in having], samples


def _blocks(group: Line, names: Sequence[str], values: Values) -> list[Line]:
    known = ~np.isnan(values).any(axis=1)
    whole = values[known].astype(np.float64)
    n, k = whole.shape
    if n < FEWEST or k < 2:
        return []
    counts = {"n_groups": k, "n_images": n, "n_dropped": len(values) - n}
    ranks = RankSums.of(block_ranks(whole))
    lines = []
    if k > 2:
        lines += [
            _line(group, counts, name, "kendall_w", result)
            for name, result in zip(("friedman", "iman_davenport"), friedman(ranks), strict=True)
        ]
    half = critical_difference(k, n)
    lines += [
        {**group, **counts, "test": "mean_rank", "first": name, "effect_name": "mean_rank", "effect": mean,
         "effect_lower": mean - half / 2, "effect_upper": mean + half / 2}
        for name, mean in zip(names, ranks.means.tolist(), strict=True)
    ]  # fmt: skip
    for first, second in combinations(range(k), 2):
        pair = {**group, "first": names[first], "second": names[second]}
        d = whole[:, first] - whole[:, second]
        pair |= _difference(float(d.mean()), float(d.var(ddof=1)) / n, n - 1)
        lines.append(_line(pair, counts, "wilcoxon", "rank_biserial", wilcoxon(d)))
        if k > 2:
            name = "mean_rank_difference"
            lines.append(_line(pair, counts, "nemenyi", name, nemenyi(ranks, first, second, half)))
            lines.append(_line(pair, counts, "conover", name, conover(ranks, first, second)))
    return lines


def _independent(group: Line, names: Sequence[str], samples: Sequence[Values]) -> list[Line]:
    known = [one[~np.isnan(one)].astype(np.float64) for one in samples]
    kept = [(name, one) for name, one in zip(names, known, strict=True) if len(one) >= FEWEST]
    if len(kept) < 2:
        return []
    counts = {"n_groups": len(kept), "n_images": sum(len(one) for _, one in kept)}
    counts["n_dropped"] = sum(map(len, samples)) - counts["n_images"]
    lines = []
    lines.append(_line(group, counts, "kruskal_wallis", "epsilon_squared", kruskal([one for _, one in kept])))
    for (first, x), (second, y) in combinations(kept, 2):
        parts = [float(one.var(ddof=1)) / len(one) for one in (x, y)]
        squares = sum(part**2 / (len(one) - 1) for part, one in zip(parts, (x, y), strict=True))
        # Welch's degrees of freedom.
        freedom = sum(parts) ** 2 / squares if squares else len(x) + len(y) - 2
        pair = {**group, "first": first, "second": second}
        pair |= _difference(float(x.mean() - y.mean()), sum(parts), freedom)
        both = {**counts, "n_images": len(x) + len(y)}
        lines.append(_line(pair, both, "cliffs_delta", "cliffs_delta", cliffs_delta(x, y)))
    return lines


def _difference(mean: float, variance: float, freedom: float) -> Line:
    half = float(stdtrit(freedom, 0.975) * np.sqrt(variance))
    return {"difference": mean, "difference_lower": mean - half, "difference_upper": mean + half}


def _line(group: Mapping[str, Any], counts: Mapping[str, int], test: str, name: str, found: Omnibus | Effect) -> Line:
    line = {**group, **counts, "test": test, "effect_name": name, "effect": found.effect,
            "statistic": found.statistic if np.isfinite(found.statistic) else np.nan, "p": found.p}  # fmt: skip
    if isinstance(found, Omnibus):
        return line | {"df": float(found.df)}
    return line | {"effect_lower": found.lower, "effect_upper": found.upper}


def _corrected(table: pl.DataFrame) -> pl.DataFrame:
    """p_corrected: Nemenyi's p is corrected as it is; others by Holm within their family."""
    family = ["factor", "measure", "test"]
    group = [*family, "dataset", "model", "cam"]
    omnibus = pl.col("test").is_in(OMNIBUS)
    parts = []
    for some, keys in ((table.filter(omnibus), family), (table.filter(~omnibus), group)):
        for rows in some.partition_by(keys, maintain_order=True):
            p = rows["p"].cast(pl.Float64).fill_null(np.nan).to_numpy()
            corrected = p if rows["test"][0] == "nemenyi" else holm(p)
            parts.append(rows.with_columns(p_corrected=pl.Series(corrected).fill_nan(None)))
    order = {name: place for place, name in enumerate(("cam", "model", "dataset"))}
    found = pl.concat([table.clear(), *parts])
    place = pl.col("factor").replace_strict(order, return_dtype=pl.Int8)
    return found.sort(place, "dataset", "model", "cam", "measure", nulls_last=True, maintain_order=True)
