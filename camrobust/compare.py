"""`camrobust compare RUN RUN`: what changed, in settings, versions and scores."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from camrobust.coded import Block, Coded, Rows
from camrobust.combine import otherwise_found
from camrobust.config import differing_keys
from camrobust.errors import UserError
from camrobust.io.blocks import image_counts, score_blocks
from camrobust.io.objects import Store
from camrobust.io.results import Committed
from camrobust.io.runs import RunFolder
from camrobust.summary.aggregate import KEPT, Settings, reduce_scores, shares_kept
from camrobust.summary.differences import differences
from camrobust.summary.profiles import Profile

SAME = ("metric", "segments", "image")
"""Settings without which two numbers of one name are not the same quantity."""
SHOWN = 8
"""Names of what only one run has that a line spells out."""
NAMED = ("models", "cams")
Document = Mapping[str, Any]
Level = tuple[str, str]
"""Perturbation and parameter."""


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what not.

    Attributes:
        table: `schema.DIFFERENCES`.
        settings: keys of the configuration that differ, and weights or target layers of models of one name.
        versions: library to its version in either run, where they differ.
        only_first: what only the first run has, in words.
        only_second: what only the second run has.
        levels: perturbations at strengths that both have, and that were compared.
        sampled: datasets of so many images that only a sample, the same of both runs, was compared.
    """

    table: pl.DataFrame
    settings: list[str]
    versions: dict[str, tuple[str | None, str | None]]
    only_first: list[str]
    only_second: list[str]
    levels: int
    sampled: list[str]

    def lines(self) -> list[str]:
        """What does not stand in the table, in sentences."""
        told = [f"compared at the {self.levels} strengths that both have, per image first", *self._images()]
        for which, names in (("first", self.only_first), ("second", self.only_second)):
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            told += [f"only in the {which}: {', '.join(names[:SHOWN])}{more}"] if names else []
        told += [f"settings that differ: {', '.join(self.settings)}"] if self.settings else []
        versions = [f"{name} {one or '–'} → {other or '–'}" for name, (one, other) in self.versions.items()]
        return [*told, f"versions that differ: {', '.join(versions)}"] if versions else told

    def _images(self) -> list[str]:
        """How many images were paired and how many were not, by dataset and model."""
        counts = self.table.select("dataset", "model", "n_images", "n_first", "n_second").unique(maintain_order=True)
        told = [
            f"images of {dataset}, {model}: {both} in both, {first - both} only in the first, {second - both} only in "
            "the second"
            for dataset, model, both, first, second in counts.sort("dataset", "model").iter_rows()
            if both < max(first, second)
        ]
        more = f"a sample of about {KEPT:,} images, the same of both runs"
        return [*told, *(f"compared on {more}: {name}" for name in self.sampled)]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "table": self.table.to_dicts()}


def compare_runs(first: RunFolder, second: RunFolder) -> Comparison:
    """Differences, second minus first, over the images, models, CAMs and strengths that both runs have.

    Raises:
        UserError: a folder holds no run, the runs measured differently, or they have nothing in common.
    """
    one, other = first.run(), second.run()
    settings = differing_keys(one["numbers"], other["numbers"])
    keys = [key for key in settings if key.partition(".")[0] in SAME]
    if keys:
        raise UserError(
            f"compare: {first.uri} and {second.uri} measured differently (different: {', '.join(keys[:5])}); compare "
            "runs of the same metric, segments and image settings only"
        )
    levels = _levels(one) & _levels(other)
    if not levels:
        raise UserError(f"compare: {first.uri} and {second.uri} share no perturbation at the same strength")
    runs = [[(folder.store, folder.committed())] for folder in (first, second)]
    counts = [image_counts(run) for run in runs]
    # One share for both runs, so that an image is in the samples of both or of neither.
    shares = shares_kept({name: max(count.get(name, 0) for count in counts) for name in {**counts[0], **counts[1]}})
    table = differences(_profiles(runs[0], one, levels, shares), _profiles(runs[1], other, levels, shares))
    if table.is_empty():
        raise UserError(
            f"compare: {first.uri} and {second.uri} share no CAM of a model of the same name on a dataset of the same "
            "name; name what corresponds alike"
        )
    mine, theirs = one.get("versions", {}), other.get("versions", {})
    versions = {
        name: (mine.get(name), theirs.get(name))
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    }
    settings += otherwise_found(one, other)
    compared = {*table["dataset"]}
    sampled = sorted(name for name, share in shares.items() if share < 1 and name in compared)
    return Comparison(table, settings, versions, _without(one, other), _without(other, one), len(levels), sampled)


def _levels(document: Document) -> set[Level]:
    return {(entry["perturbation"], entry["parameter"]) for entry in document.get("variants", ())}


def _without(one: Document, other: Document) -> list[str]:
    """What one run has and the other has not."""
    found = [f"{what[:-1]} {name}" for what in NAMED for name in one[what] if name not in other[what]]
    datasets = [[entry["name"] for entry in document["numbers"]["datasets"]] for document in (one, other)]
    found += [f"dataset {name}" for name in datasets[0] if name not in datasets[1]]
    return [*found, *(f"{name} at {parameter}" for name, parameter in sorted(_levels(one) - _levels(other)))]


def _profiles(
    run: Sequence[tuple[Store, Committed]], document: Document, levels: set[Level], shares: Mapping[str, float]
) -> list[Profile]:
    blocks: Iterable[Block] = score_blocks(run)
    if levels != _levels(document):
        blocks = (Block(block.dataset, block.images, _at(block.rows, levels)) for block in blocks)
    return reduce_scores(blocks, Settings(), shares).profiles


def _at(rows: Iterator[tuple[str, Rows]], levels: set[Level]) -> Iterator[tuple[str, Rows]]:
    """Only the rows at some strengths."""
    for model, some in rows:
        names, parameters = some.text["perturbation"], some.text["parameter"]
        wanted = np.array([[(name, parameter) in levels for parameter in parameters.values] for name in names.values])
        kept = wanted[names.codes, parameters.codes]
        yield (
            model,
            Rows(
                image=some.image[kept],
                text={name: Coded(column.codes[kept], column.values) for name, column in some.text.items()},
                severity=some.severity[kept],
                same=some.same[kept],
                numbers={name: values[kept] for name, values in some.numbers.items()},
            ),
        )
