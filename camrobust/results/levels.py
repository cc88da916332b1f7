"""Which strengths of perturbations are compared: those that everything was measured under.

A mean over some strengths cannot stand beside a mean over others on one leaderboard.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from camrobust.contract.errors import UserError
from camrobust.contract.run_record import RunRecord, VariantRecord
from camrobust.summary.rows import Block, Rows

Level = tuple[str, str]
"""Perturbation and strength."""


def levels_of(run: RunRecord) -> set[Level]:
    """The strengths of a run."""
    return {variant.level for variant in run.variants}


def at_levels(blocks: Iterator[Block], levels: set[Level]) -> Iterator[Block]:
    """Only the rows at some strengths."""
    for block in blocks:
        yield Block(block.dataset, block.images, _at(block.rows, levels))


def _at(rows: Iterator[tuple[str, Rows]], levels: set[Level]) -> Iterator[tuple[str, Rows]]:
    for model, every in rows:
        names, strengths = every.text["perturbation"], every.text["strength"]
        wanted = np.array([[(name, strength) in levels for strength in strengths.values] for name in names.values])
        kept = wanted[names.codes, strengths.codes]
        if not kept.any():
            continue
        yield model, every.where(kept)


def common_levels(runs: Sequence[RunRecord], counted: str = "apart") -> set[Level]:
    """The strengths under which every CAM of every model was measured on every dataset of some runs.

    A CAM of a model on a dataset may be spread over several runs; it has the strengths of all of them. A strength at
    which not all have the same replicates is none in common. Attacks on maps are not averaged with other perturbations,
    unless `counted` says so: they are always among the result.

    Args:
        runs: run.json of each.
        counted: `summary.map_attacks`.

    Returns:
        Only attacks on maps if there is no such strength.
    """
    common: set[tuple[Level, frozenset[int]]] | None = None
    for members in _memberships(runs):
        replicates: dict[Level, set[int]] = {}
        for run in members:
            for variant in run.variants:
                replicates.setdefault(variant.level, set()).add(variant.replicate)
        here = {(level, frozenset(numbers)) for level, numbers in replicates.items()}
        common = here if common is None else common & here
    return {level for level, _ in common or ()} | _apart(runs, counted)


def pooled_levels(runs: Mapping[str, RunRecord], counted: str = "apart") -> set[Level]:
    """The same for a leaderboard.

    Args:
        runs: run.json by the address of its run.
        counted: `summary.map_attacks`.

    Raises:
        UserError: there is no strength in common.
    """
    levels = common_levels([*runs.values()], counted)
    if not levels - _apart(runs.values(), counted):
        names = [*runs]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        raise UserError(
            f"aggregate: {' and '.join(names[:2])}{more} have no strength of a perturbation in common, so their means "
            "cannot be compared; aggregate them apart, or pool what there is with --strengths all"
        )
    return levels


def _apart(runs: Iterable[RunRecord], counted: str) -> set[Level]:
    """The strengths of attacks on maps, where these are not averaged with other perturbations."""
    return {one.level for run in runs for one in run.variants if counted == "apart" and one.attacked}


def _memberships(runs: Sequence[RunRecord]) -> Iterator[list[RunRecord]]:
    """The different sets of runs that together hold a CAM of a model on a dataset."""
    named = (
        [{entry.name for entry in run.numbers.datasets} for run in runs],
        [{*run.models} for run in runs],
        [{*run.cams} for run in runs],
    )
    places = [
        {frozenset(place for place, names in enumerate(sets) if name in names) for name in set[str]().union(*sets)}
        for sets in named
    ]
    seen = {dataset & model & cam for dataset, model, cam in product(*places)}
    yield from ([runs[place] for place in sorted(members)] for members in seen if members)


def uncommon(runs: Sequence[RunRecord], levels: set[Level]) -> list[VariantRecord]:
    """The variants of some runs at other strengths, each once."""
    every = dict.fromkeys(variant for run in runs for variant in run.variants)
    return [variant for variant in every if variant.level not in levels]
