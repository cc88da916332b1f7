"""The table summary/tests: do CAMs, models and datasets differ by more than chance?

CAMs and models are compared within images, datasets between images.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.comparison_schema import TESTS
from camrobust.summary.floor import against_the_floor
from camrobust.summary.friedman import RankSums, conover, critical_difference, friedman, nemenyi
from camrobust.summary.intervals import t_interval
from camrobust.summary.line_tables import Line, line_table
from camrobust.summary.profiles import Profile
from camrobust.summary.ranktests import Effect, Omnibus, cliffs_delta, holm, kruskal, wilcoxon
from camrobust.summary.treatments import SameAs, treatments

MEASURES = ("consistency_adjusted", "responsiveness_adjusted", "robustness_adjusted")
FEWEST = 2
"""Complete images that a test needs."""
Values = NDArray[np.floating[Any]]
NO_TWINS: SameAs = {}
OMNIBUS = ("friedman", "iman_davenport", "kruskal_wallis")


def significance_tests(
    profiles: Sequence[Profile], controls: Collection[str] = (), same_as: SameAs = NO_TWINS
) -> pl.DataFrame:
    """The table `comparison_schema.TESTS`: tests of all groups at once, mean ranks, every pair, CAMs against the floor.

    The image is the block: it gives one value per CAM and model, its mean over perturbations. An image without one of
    the compared values is left out and counted. Methods with the same maps are one treatment: they stand in the table
    under one name. Where several models are compared, methods are one only if they coincide under all of them.
    Wilcoxon's pairs are pairs of CAMs that are no controls; those with a control are a family of their own.

    Args:
        profiles: one per dataset and model.
        controls: CAMs that are a floor.
        same_as: by model, CAMs to the CAM that gives the same maps.
    """
    lines: list[Line] = []
    for measure in MEASURES:
        for group, names, values in _within(profiles, measure, same_as):
            lines += _blocks({**group, "measure": measure}, names, values, controls)
        for profile in profiles:
            lines += against_the_floor(profile, measure, _distinct(profile, same_as), controls)
        for group, names, samples in _between(profiles, measure, same_as):
            lines += _independent({**group, "measure": measure}, names, samples)
    return _corrected(line_table(lines, TESTS))


def _distinct(profile: Profile, same_as: SameAs) -> list[str]:
    """The CAMs of a model that differ from one another."""
    return [*treatments(profile.cams, same_as.get(profile.model, {}))]


def _within(profiles: Sequence[Profile], measure: str, same_as: SameAs) -> Iterator[tuple[Line, list[str], Values]]:
    """Comparisons within images: the group, names and (n, k) values; CAMs of a model, then models of a CAM."""
    for profile in profiles:
        group = {"factor": "cam", "dataset": profile.dataset, "model": profile.model, "cam": None}
        cams = _distinct(profile, same_as)
        yield group, cams, profile.measure(measure)[:, [profile.cams.index(cam) for cam in cams]]
    for dataset in dict.fromkeys(profile.dataset for profile in profiles):
        of_dataset = [profile for profile in profiles if profile.dataset == dataset]
        cams = sorted({cam for profile in of_dataset for cam in profile.cams})
        for cam in treatments(cams, *(same_as.get(profile.model, {}) for profile in of_dataset)):
            chosen = [profile for profile in of_dataset if cam in profile.cams]
            values = np.stack([profile.of_cam(measure, cam) for profile in chosen], axis=1)
            group = {"factor": "model", "dataset": dataset, "model": None, "cam": cam}
            yield group, [profile.model for profile in chosen], values


def _between(
    profiles: Sequence[Profile], measure: str, same_as: SameAs
) -> Iterator[tuple[Line, list[str], list[Values]]]:
    """Comparisons between images: the group, names and samples; datasets of a model and CAM."""
    for model, cam in sorted({(profile.model, cam) for profile in profiles for cam in _distinct(profile, same_as)}):
        chosen = [profile for profile in profiles if profile.model == model and cam in profile.cams]
        group = {"factor": "dataset", "dataset": None, "model": model, "cam": cam}
        yield group, [profile.dataset for profile in chosen], [profile.of_cam(measure, cam) for profile in chosen]


def _blocks(group: Line, names: Sequence[str], values: Values, controls: Collection[str]) -> list[Line]:
    known = ~np.isnan(values).any(axis=1)
    whole = values[known].astype(np.float64)
    n, k = whole.shape
    if n < FEWEST or k < 2:
        return []
    counts = {"n_groups": k, "n_images": n, "n_dropped": len(values) - n}
    ranks = RankSums.of(whole)
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
        if not controls or not {names[first], names[second]} & {*controls}:
            lines.append(_line(pair, counts, "wilcoxon", "rank_biserial", wilcoxon(d)))
        if k > 2:
            name = "mean_rank_difference"
            lines.append(_line(pair, counts, "nemenyi", name, nemenyi(ranks, first, second, half)))
            lines.append(_line(pair, counts, "conover", name, conover(ranks, first, second)))
    return lines


def _independent(group: Line, names: Sequence[str], samples: Sequence[Values]) -> list[Line]:
    known = [sample[~np.isnan(sample)].astype(np.float64) for sample in samples]
    kept = [(name, sample) for name, sample in zip(names, known, strict=True) if len(sample) >= FEWEST]
    if len(kept) < 2:
        return []
    counts = {"n_groups": len(kept), "n_images": sum(len(sample) for _, sample in kept)}
    counts["n_dropped"] = sum(map(len, samples)) - counts["n_images"]
    lines = [_line(group, counts, "kruskal_wallis", "epsilon_squared", kruskal([sample for _, sample in kept]))]
    for (first, x), (second, y) in combinations(kept, 2):
        parts = [float(sample.var(ddof=1)) / len(sample) for sample in (x, y)]
        squares = sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, (x, y), strict=True))
        # Welch's interval. scipy's ttest_ind gives the same one, but warns about constant samples.
        freedom = sum(parts) ** 2 / squares if squares else len(x) + len(y) - 2
        pair = {**group, "first": first, "second": second}
        pair |= _difference(float(x.mean() - y.mean()), sum(parts), freedom)
        both = {**counts, "n_images": len(x) + len(y)}
        lines.append(_line(pair, both, "cliffs_delta", "cliffs_delta", cliffs_delta(x, y)))
    return lines


def _difference(mean: float, variance: float, freedom: float) -> Line:
    lower, upper = t_interval(mean, np.sqrt(variance), freedom)
    return {"difference": mean, "difference_lower": lower, "difference_upper": upper}


def _line(group: Mapping[str, Any], counts: Mapping[str, int], test: str, name: str, result: Omnibus | Effect) -> Line:
    line = {**group, **counts, "test": test, "effect_name": name, "effect": result.effect,
            "statistic": result.statistic if np.isfinite(result.statistic) else np.nan, "p": result.p}  # fmt: skip
    if isinstance(result, Omnibus):
        return line | {"df": float(result.df)}
    return line | {"effect_lower": result.lower, "effect_upper": result.upper}


def _corrected(table: pl.DataFrame) -> pl.DataFrame:
    """Add p_corrected: Nemenyi's p as it is, because it is corrected already; Holm's within the family for others."""
    family = ["factor", "measure", "test"]
    group = [*family, "dataset", "model", "cam"]
    omnibus = pl.col("test").is_in(OMNIBUS)
    parts = []
    for tests, keys in ((table.filter(omnibus), family), (table.filter(~omnibus), group)):
        for rows in tests.partition_by(keys, maintain_order=True):
            p = rows["p"].cast(pl.Float64).fill_null(np.nan).to_numpy()
            corrected = p if rows["test"][0] == "nemenyi" else holm(p)
            parts.append(rows.with_columns(p_corrected=pl.Series(corrected).fill_nan(None)))
    order = {name: place for place, name in enumerate(("cam", "model", "dataset"))}
    place = pl.col("factor").replace_strict(order, return_dtype=pl.Int8)
    return pl.concat([table.clear(), *parts]).sort(
        place, "dataset", "model", "cam", "measure", nulls_last=True, maintain_order=True
    )
