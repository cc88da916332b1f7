"""Score rows to summary tables in one pass over blocks of whole images, so that memory does not grow with the run.

Consistency is the mean agreement r over pairs that kept their class. Responsiveness is the mean of 1 - r over pairs
whose class flipped. Robustness (RM) is their product. Raw measures come from `rbo`, adjusted ones from `rbo_adjusted`.
`macro` averages within an image first, `micro` over all pairs. A measure is null, never 0, for a group that has no such
pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.schema import SUMMARIES
from camrobust.summary.answers import COLUMNS as ANSWERS
from camrobust.summary.estimates import estimate_table
from camrobust.summary.intervals import image_weights
from camrobust.summary.map_attacks import OWN, TRANSFER, MapAttacks, with_attacks
from camrobust.summary.moments import Groups
from camrobust.summary.pairs import Array, PairSums, Placed, starts_of
from camrobust.summary.profiles import Profile, Profiles
from camrobust.summary.rows import CERTAINTY, COLUMNS, Block, Rows, blocks_of

RESAMPLES = 1000
"""Resamples of the bootstrap over images."""
KEPT = 10_000
"""Tests and characteristics use about so many images of a dataset; estimates and their intervals use all of them."""
ATTACKS = {"attacked": OWN, "transferred": TRANSFER}
"""Groups of pairs under attacks on maps, by CAM."""
SPARSE, SPARSE_FLOOR = 16, 3_000_000
"""A block may have up to SPARSE × rows + SPARSE_FLOOR cells (images × variants)."""


@dataclass(frozen=True)
class SummarySettings:
    """How rows become summaries.

    Attributes:
        average: "macro" (per image first) or "micro" (over all pairs).
        controls: CAMs that explain nothing; by_model and by_dataset, which average over CAMs, leave them out.
        intervals: "delta" or "bootstrap".
        seed: seed of the bootstrap.
        level: confidence of the intervals, (0, 1).
        families: perturbation to family, for characteristics; a perturbation that is not named is its own family.
        alone: one profile per perturbation, instead of one for all perturbations together.
        attacks: the attacks on maps, and which of their pairs enter the measures.
        only: "all", or "correct" to leave out the images that a model gets wrong before they are perturbed, and those
            without a label.
        classless: models that predict no class that could be right, because they put out labels or values.
    """

    average: str = "macro"
    controls: tuple[str, ...] = ("random",)
    intervals: str = "delta"
    seed: int = 0
    level: float = 0.95
    families: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    attacks: MapAttacks = field(default_factory=MapAttacks)
    only: str = "all"
    classless: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reduction:
    """The result of a pass over the rows.

    Attributes:
        tables: summary tables by name of `schema.SUMMARIES`.
        profiles: measures of every image, by dataset and model, for tests and characteristics.
    """

    tables: dict[str, pl.DataFrame]
    profiles: list[Profile]


def summarise(
    scores: pl.LazyFrame, average: str = "macro", controls: Sequence[str] = ("random",), level: float = 0.95
) -> dict[str, pl.DataFrame]:
    """The summary tables of rows in memory; see `reduce_scores`.

    Args:
        scores: rows as `schema.SCORES`.
        average: "macro" (per image first) or "micro" (over all pairs).
        controls: CAMs that by_model and by_dataset leave out.
        level: confidence of the intervals, (0, 1).

    Raises:
        ValueError: average is something else.
    """
    return reduce_frame(scores, SummarySettings(average, tuple(controls), level=level)).tables


def reduce_frame(scores: pl.LazyFrame, settings: SummarySettings) -> Reduction:
    """The same as `reduce_scores`, for rows in memory."""
    wanted = dict.fromkeys(("dataset", "model", *COLUMNS, *ANSWERS))
    known = [name for name in wanted if name in scores.collect_schema().names()]
    settings = replace(settings, attacks=settings.attacks.with_those_of(scores))
    return reduce_scores(blocks_of(scores.select(known).collect()), settings)


def reduce_scores(
    blocks: Iterable[Block], settings: SummarySettings, shares: Mapping[str, float] | None = None
) -> Reduction:
    """All summary tables in one pass over the rows.

    Args:
        blocks: blocks of whole images; each is read when it is its turn.
        settings: how to average, and which intervals.
        shares: by dataset, the share of images that tests and characteristics use, chosen by a hash of the image id;
            all images of a dataset that is not named.

    Returns:
        Every table of `schema.SUMMARIES` has the columns of its group, every measure of `schema.SUMMARY_MEASURES` with
        `_lower` and `_upper`, spread and counts. The intervals are clustered by image: Student's t around linearised
        ratio estimates with the delta method for RM, or percentiles of a bootstrap over images. Pairs under attacks on
        another CAM's map are in by_level and in columns of by_cam alone, those on a CAM's own map in by_perturbation
        too, unless `settings.attacks` counts them.

    Raises:
        ValueError: average, intervals or only is something else.
    """
    if settings.average not in ("macro", "micro"):
        raise ValueError(f"summarise: average must be macro or micro, got '{settings.average}'")
    if settings.intervals not in ("delta", "bootstrap"):
        raise ValueError(f"summarise: intervals must be delta or bootstrap, got '{settings.intervals}'")
    if settings.only not in ("all", "correct"):
        raise ValueError(f"summarise: only must be all or correct, got '{settings.only}'")
    resamples = RESAMPLES if settings.intervals == "bootstrap" else 0
    groups = {name: Groups(settings.average, resamples) for name in (*SUMMARIES, *ATTACKS)}
    profiles = Profiles(settings.families, settings.alone)
    for block in blocks:
        weights = image_weights(block.dataset, block.images, settings.seed, resamples) if resamples else None
        profiles.begin(block, _kept(block.images, (shares or {}).get(block.dataset, 1.0)))
        _add_block(block, groups, settings, weights, profiles)
    for moments in groups.values():
        moments.trim()
    tables = {name: estimate_table(groups[name], keys, settings.level) for name, keys in SUMMARIES.items()}
    tables["by_level"] = settings.attacks.named(tables["by_level"])
    tables["by_cam"] = with_attacks(tables["by_cam"], groups["attacked"], groups["transferred"], settings.level)
    return Reduction(tables, profiles.finished())


def shares_kept(images: Mapping[str, int]) -> dict[str, float]:
    """The share of images that tests and characteristics use, by dataset, from the number of images of each."""
    return {dataset: min(1.0, KEPT / max(1, count)) for dataset, count in images.items()}


def _kept(images: Sequence[str], share: float) -> NDArray[np.bool_]:
    if share >= 1:
        return np.ones(len(images), bool)
    return np.array([crc32(image.encode()) < share * 2**32 for image in images], bool)


def _add_block(
    block: Block, groups: Mapping[str, Groups], settings: SummarySettings, weights: Array | None, profiles: Profiles
) -> None:
    over_models: PairSums | None = None
    for model, rows in block.rows:
        where = (block.dataset, model)
        asked = replace(rows, answers=None) if model in settings.classless else rows
        placed = Placed.of(asked, only_correct=settings.only == "correct")
        images, keys = len(block.images), [(*where, *cell) for cell in placed.cells]
        _check_dense(images * len(keys), len(rows.image), where)
        starts, strengths = starts_of([cell[:2] for cell in placed.cells])
        roles, single = settings.attacks.roles(model, placed.cells), weights is None and placed.single(images)
        if single:
            groups["by_level"].add_single(keys, placed)
        if single and not roles.any():
            perturbations = counted = placed.sums(images, starts)
        else:
            levels = placed.sums(images, range(len(keys)))
            if not single:
                groups["by_level"].add(keys, levels, weights)
            perturbations = levels.rolled(starts)
            counted = levels.where(settings.attacks.enters(roles)).rolled(starts)
            if roles.any():
                perturbations = levels.where((roles != TRANSFER) | settings.attacks.enters(roles)).rolled(starts)
                _add_attacks(groups, where, placed, levels, roles, weights)
        shown = (perturbations.pairs.sum(axis=0) > 0) | (perturbations.events[-1] > 0)
        named = [(*where, *key) for key, there in zip(strengths, shown, strict=True) if there]
        groups["by_perturbation"].add(named, perturbations.of(shown), weights)
        starts, cams = starts_of([key[:1] for key in strengths])
        by_cam = counted.rolled(starts)
        groups["by_cam"].add([(*where, *key) for key in cams], by_cam, weights)
        profiled = perturbations if settings.alone else counted
        profiles.add(model, profiled, [(str(cam), str(name)) for cam, name in strengths], _certainty(rows, block))
        explaining = np.array([key[0] not in settings.controls for key in cams], bool)
        if explaining.any():
            over_cams = by_cam.of(explaining).rolled([0])
            groups["by_model"].add([where], over_cams, weights)
            over_models = over_cams if over_models is None else over_models + over_cams
    if over_models is not None:
        groups["by_dataset"].add([(block.dataset,)], over_models, weights)


def _add_attacks(
    groups: Mapping[str, Groups], where: tuple[str, str], placed: Placed, levels: PairSums, roles: NDArray[np.int8],
    weights: Array | None,
) -> None:  # fmt: skip
    """Add the pairs under attacks on maps, by CAM."""
    for name, role in ATTACKS.items():
        chosen = roles == role
        if chosen.any():
            cells = [cell for cell, wanted in zip(placed.cells, chosen, strict=True) if wanted]
            starts, cams = starts_of([cell[:1] for cell in cells])
            groups[name].add([(*where, *key) for key in cams], levels.of(chosen).rolled(starts), weights)


def _check_dense(cells: int, rows: int, where: tuple[str, str]) -> None:
    """Refuse rows that need far more memory as a table of images × variants than as rows."""
    if cells > SPARSE * rows + SPARSE_FLOOR:
        dataset, model = where
        raise UserError(
            f"scores: nearly every image of {short(dataset)} under {short(model)} lacks nearly every variant, as in no "
            "run; `camrobust verify` says more"
        )


def _certainty(rows: Rows, block: Block) -> dict[str, Array]:
    """(images,) arrays of the values that every row of an image repeats."""
    certainty = {name: np.full(len(block.images), np.nan) for name in CERTAINTY}
    for name, column in CERTAINTY.items():
        certainty[name][rows.image] = rows.numbers[column]
    return certainty
