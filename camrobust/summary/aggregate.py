"""Scores to summary tables: blocks of whole images, one pass, memory that does not grow with the run.

Consistency is the mean agreement r over pairs that kept their class, responsiveness the mean of 1 - r over pairs whose
class flipped, robustness (RM) their product; raw from `rbo`, adjusted from `rbo_adjusted`. `macro` averages within an
image first, `micro` over all pairs. Where a group has no such pair the measure is null, never 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.schema import SUMMARIES, SUMMARY_COUNTS, SUMMARY_MEASURES, SUMMARY_SPREAD, partition_of
from camrobust.summary.intervals import RatioSums, covariance, image_weights, interval, percentiles, product_variance
from camrobust.summary.moments import SIDES, Groups, medians
from camrobust.summary.pairs import FORMS, Array, PairSums, Placed, starts_of
from camrobust.summary.profiles import Profile, Profiles
from camrobust.summary.rows import CERTAINTY, COLUMNS, Block, Rows, blocks_of

RANGE = {"": (0.0, 1.0), "_adjusted": (-np.inf, np.inf)}
"""Raw measures lie in [0, 1]. Adjusted ones are not clipped: less agreement than chance is below 0, and so 1 - r is
above 1."""
RESAMPLES = 1000
"""Of the bootstrap over images."""
KEPT = 10_000
"""Images of a dataset that tests and characteristics look at; estimates and their intervals are made from all."""
SPARSE, SPARSE_FLOOR = 16, 3_000_000
"""Images times variants of a block may be so many times its rows, and so many more."""


@dataclass(frozen=True)
class SummarySettings:
    """How rows become summaries.

    Attributes:
        average: "macro" (per image first) or "micro" (over all pairs).
        controls: CAMs that explain nothing; they stay out of by_model and by_dataset, which average over CAMs.
        intervals: "delta" or "bootstrap".
        seed: of the bootstrap.
        level: confidence of the intervals, (0, 1).
        families: perturbation to family, for characteristics; a perturbation that is not named is its own family.
        alone: a profile of every perturbation, instead of one of all together.
    """

    average: str = "macro"
    controls: tuple[str, ...] = ("random",)
    intervals: str = "delta"
    seed: int = 0
    level: float = 0.95
    families: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Reduction:
    """What the rows of a run come to.

    Attributes:
        tables: by name of `schema.SUMMARIES`.
        profiles: per image measures of every dataset and model, for tests and characteristics.
    """

    tables: dict[str, pl.DataFrame]
    profiles: list[Profile]


def scan_scores(files: Sequence[str], storage_options: dict[str, Any] | None = None) -> pl.LazyFrame:
    """The score rows of some files.

    Args:
        files: their addresses; dataset and model are the two folders that hold a file, whatever stands above them.
        storage_options: what polars needs to open them.

    Raises:
        UserError: there are none.
    """
    if not files:
        raise UserError("scores: the run holds no score rows; see its failures, or run it again")
    parts: dict[tuple[str, str], list[str]] = {}
    for file in files:
        parts.setdefault(partition_of(file), []).append(file)
    # Names are what they are: a folder above may be called run[1], and lr=0.1 there is no column.
    scans = [
        pl.scan_parquet(some, glob=False, hive_partitioning=False, storage_options=storage_options).select(
            pl.lit(dataset).alias("dataset"), pl.lit(model).alias("model"), pl.all()
        )
        for (dataset, model), some in parts.items()
    ]
    return pl.concat(scans)


def summarise(
    scores: pl.LazyFrame, average: str = "macro", controls: Sequence[str] = ("random",), level: float = 0.95
) -> dict[str, pl.DataFrame]:
    """The summary tables of rows in memory, see `reduce_scores`.

    Args:
        scores: rows as `schema.SCORES`.
        average: "macro" (per image first) or "micro" (over all pairs).
        controls: CAMs that stay out of by_model and by_dataset.
        level: confidence of the intervals, (0, 1).

    Raises:
        ValueError: another average.
    """
    return reduce_frame(scores, SummarySettings(average, tuple(controls), level=level)).tables


def reduce_frame(scores: pl.LazyFrame, settings: SummarySettings) -> Reduction:
    """`reduce_scores` of rows that fit into memory."""
    known = [name for name in ("dataset", "model", *COLUMNS) if name in scores.collect_schema().names()]
    return reduce_scores(blocks_of(scores.select(known).collect()), settings)


def reduce_scores(
    blocks: Iterable[Block], settings: SummarySettings, shares: Mapping[str, float] | None = None
) -> Reduction:
    """All summary tables in one pass over the rows.

    Args:
        blocks: whole images each; read when they are asked for.
        settings: how to average, and which intervals.
        shares: of the images of a dataset, chosen by a hash of their id, that are kept for tests and characteristics;
            all where none is given.

    Returns:
        Per table of `schema.SUMMARIES`: the group's columns, every measure of `schema.SUMMARY_MEASURES` with `_lower`
        and `_upper`, spread and counts. The intervals are clustered by image: Student's t around linearised ratio
        estimates with the delta method for RM, or percentiles of a bootstrap over images.

    Raises:
        ValueError: another average, or other intervals.
    """
    if settings.average not in ("macro", "micro"):
        raise ValueError(f"summarise: average must be macro or micro, got '{settings.average}'")
    if settings.intervals not in ("delta", "bootstrap"):
        raise ValueError(f"summarise: intervals must be delta or bootstrap, got '{settings.intervals}'")
    resamples = RESAMPLES if settings.intervals == "bootstrap" else 0
    groups = {name: Groups(settings.average, resamples) for name in SUMMARIES}
    profiles = Profiles(settings.families, settings.alone)
    for block in blocks:
        weights = image_weights(block.dataset, block.images, settings.seed, resamples) if resamples else None
        profiles.begin(block, _kept(block.images, (shares or {}).get(block.dataset, 1.0)))
        _add_block(block, groups, settings.controls, weights, profiles)
    for one in groups.values():
        one.trim()
    tables = {name: _table(groups[name], keys, settings.level) for name, keys in SUMMARIES.items()}
    return Reduction(tables, profiles.finished())


def shares_kept(images: Mapping[str, int]) -> dict[str, float]:
    """Which share of a dataset's images is kept for tests and characteristics, given how many each dataset has."""
    return {dataset: min(1.0, KEPT / max(1, count)) for dataset, count in images.items()}


def _kept(images: Sequence[str], share: float) -> NDArray[np.bool_]:
    if share >= 1:
        return np.ones(len(images), bool)
    return np.array([crc32(image.encode()) < share * 2**32 for image in images], bool)


def _add_block(
    block: Block, groups: Mapping[str, Groups], controls: Sequence[str], weights: Array | None, profiles: Profiles
) -> None:
    over_models: PairSums | None = None
    for model, rows in block.rows:
        where = (block.dataset, model)
        placed = Placed.of(rows)
        images, keys = len(block.images), [(*where, *cell) for cell in placed.cells]
        _check_dense(images * len(keys), len(rows.image), where)
        starts, strengths = starts_of([cell[:2] for cell in placed.cells])
        if weights is None and placed.single(images):
            groups["by_level"].add_single(keys, placed)
            perturbations = placed.sums(images, starts)
        else:
            levels = placed.sums(images, range(len(keys)))
            groups["by_level"].add(keys, levels, weights)
            perturbations = levels.rolled(starts)
        groups["by_perturbation"].add([(*where, *key) for key in strengths], perturbations, weights)
        starts, cams = starts_of([key[:1] for key in strengths])
        by_cam = perturbations.rolled(starts)
        groups["by_cam"].add([(*where, *key) for key in cams], by_cam, weights)
        profiles.add(model, perturbations, [(str(cam), str(name)) for cam, name in strengths], _certainty(rows, block))
        explaining = np.array([key[0] not in controls for key in cams], bool)
        if explaining.any():
            over_cams = by_cam.of(explaining).rolled([0])
            groups["by_model"].add([where], over_cams, weights)
            over_models = over_cams if over_models is None else over_models + over_cams
    if over_models is not None:
        groups["by_dataset"].add([(block.dataset,)], over_models, weights)


def _check_dense(cells: int, rows: int, where: tuple[str, str]) -> None:
    """Refuse rows that would take far more memory as a table of images and variants than they do as rows."""
    if cells > SPARSE * rows + SPARSE_FLOOR:
        dataset, model = where
        raise UserError(
            f"scores: nearly every image of {short(dataset)} under {short(model)} lacks nearly every variant, as in no "
            "run; `camrobust verify` says more"
        )


def _certainty(rows: Rows, block: Block) -> dict[str, Array]:
    """(images,) each: what every row of an image repeats."""
    found = {name: np.full(len(block.images), np.nan) for name in CERTAINTY}
    for name, column in CERTAINTY.items():
        found[name][rows.image] = rows.numbers[column]
    return found


def _table(groups: Groups, keys: Sequence[str], level: float) -> pl.DataFrame:
    """Estimates with their intervals, in the order of the schema, sorted by group."""
    found = _spread(groups)
    for form, suffix in enumerate(FORMS):
        same, flipped = (RatioSums(*groups.moments[:, form, side, :6].T) for side in range(len(SIDES)))
        C, R = same.estimate, flipped.estimate
        bounds = (
            _resampled(groups, form, (same, flipped), level)
            if groups.resamples
            else _linearised(groups, form, (same, flipped), level, RANGE[suffix])
        )
        for name, estimate in {"consistency": C, "responsiveness": R, "robustness": C * R}.items():
            low, high = bounds[name]
            found |= {f"{name}{suffix}": estimate, f"{name}{suffix}_lower": low, f"{name}{suffix}_upper": high}
    names = [f"{one.name}{end}" for one in SUMMARY_MEASURES for end in ("", "_lower", "_upper")]
    names += [one.name for one in SUMMARY_SPREAD]
    table = pl.DataFrame({name: found[name] for name in names}, schema=dict.fromkeys(names, pl.Float64)).fill_nan(None)
    schema = {key: pl.Int8 if key == "severity" else pl.String for key in keys}
    labels = pl.DataFrame(list(groups.keys), schema=schema, orient="row")
    return pl.concat([labels, table, _counts(groups.counts)], how="horizontal").sort(keys, nulls_last=True)


def _spread(groups: Groups) -> dict[str, Array]:
    """Median and standard deviation over images of the mean of each image."""
    found = {f"{name}_median": values for name, values in medians(groups.histogram).items()}
    for form, suffix in enumerate(FORMS):
        for side, name in enumerate(SIDES):
            n, total, squares = (groups.moments[:, form, side, place] for place in (0, 6, 7))
            several = np.where(n > 1, n, np.nan)
            variance = (squares - total**2 / several) / (several - 1)
            found[f"{name}{suffix}_sd"] = np.sqrt(np.maximum(variance, 0))
    return found


def _linearised(
    groups: Groups, form: int, sides: tuple[RatioSums, RatioSums], level: float, span: tuple[float, float]
) -> dict[str, tuple[Array, Array]]:
    same, flipped = sides
    C, R = same.estimate, flipped.estimate
    var_c, var_r = same.variance(), flipped.variance()
    ac, ad, bc, bd = groups.crossed[:, form].T
    cov = covariance(same, flipped, (ac, ad, bc, bd), groups.counts[:, 0])
    fewer = np.minimum(same.images, flipped.images)
    return {
        "consistency": interval(C, var_c, same.images, level, *span),
        "responsiveness": interval(R, var_r, flipped.images, level, *span),
        "robustness": interval(C * R, product_variance(C, R, var_c, var_r, cov), fewer, level, *span),
    }


def _resampled(
    groups: Groups, form: int, sides: tuple[RatioSums, RatioSums], level: float
) -> dict[str, tuple[Array, Array]]:
    a, b, c, d = groups.resampled[:, form].transpose(1, 0, 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        C, R = a / b, c / d
    images = [side.images for side in sides]
    return {
        "consistency": percentiles(C, images[0], level),
        "responsiveness": percentiles(R, images[1], level),
        "robustness": percentiles(C * R, np.minimum(*images), level),
    }


def _counts(counts: Array) -> pl.DataFrame:
    images, pairs, same, flipped, *events = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [images, pairs, same, flipped, *(event / pairs for event in events)]
    types = {one.name: pl.Int64 if one.type == "int64" else pl.Float64 for one in SUMMARY_COUNTS}
    return pl.DataFrame(
        {name: column.astype(np.int64) if kind == pl.Int64 else column
         for (name, kind), column in zip(types.items(), columns, strict=True)},
        schema=types,
    )  # fmt: skip
