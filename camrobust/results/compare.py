"""`camrobust compare RUN RUN`: what changed between two runs, in settings, versions and scores."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from camrobust.contract.config import differing_keys
from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.contract.registry import unknown
from camrobust.contract.run_record import RunRecord
from camrobust.io.objects import Store
from camrobust.results.block_plan import image_counts
from camrobust.results.blocks import score_blocks
from camrobust.results.counted import Committed
from camrobust.results.folder import RunFolder
from camrobust.results.levels import Level, at_levels, levels_of
from camrobust.results.reduce import attacks_of, classless, otherwise_found
from camrobust.summary.aggregate import KEPT, SummarySettings, reduce_scores, shares_kept
from camrobust.summary.differences import differences
from camrobust.summary.profiles import Profile
from camrobust.summary.rows import Block
from camrobust.summary.same_photo import other_photos

SAME = ("metric", "segments", "image")
"""Settings that must be equal, because otherwise two numbers of one name are different quantities."""
SHOWN = 8
"""So many names of things that only one run has are listed in a line."""
NAMED = ("models", "cams")


@dataclass(frozen=True)
class Comparison:
    """How two runs differ.

    Attributes:
        table: `comparison_schema.DIFFERENCES`.
        settings: keys of the configuration that differ, and models of one name whose weights or target layers differ.
        versions: libraries of different versions, with the version in each run.
        only_first: models, CAMs, datasets and perturbations that only the first run has, in words.
        only_second: those that only the second run has.
        levels: number of perturbations at strengths that both runs have; these were compared.
        sampled: datasets with so many images that only a sample, the same in both runs, was compared.
        other_photos: by dataset, how many of the common image ids stand for different photos, and how many common ids
            there are. These images are left out; a dataset without any other common image is left out whole.
    """

    table: pl.DataFrame
    settings: list[str]
    versions: dict[str, tuple[str | None, str | None]]
    only_first: list[str]
    only_second: list[str]
    levels: int
    sampled: list[str]
    other_photos: dict[str, tuple[int, int]]

    def lines(self) -> list[str]:
        """Everything that is not in the table, in sentences."""
        lines = [f"compared at the {self.levels} strengths that both have, per image first", *self._images()]
        for which, names in (("first", self.only_first), ("second", self.only_second)):
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines += [f"only in the {which}: {', '.join(names[:SHOWN])}{more}"] if names else []
        lines += [f"settings that differ: {', '.join(self.settings)}"] if self.settings else []
        versions = [f"{name} {first or '–'} → {second or '–'}" for name, (first, second) in self.versions.items()]
        return [*lines, f"versions that differ: {', '.join(versions)}"] if versions else lines

    def _images(self) -> list[str]:
        """How many images were paired, and how many were left out and why."""
        counts = self.table.select("dataset", "model", "n_images", "n_first", "n_second").unique(maintain_order=True)
        lines = [
            f"images of {dataset}, {model}: {both} in both, {first - both} only in the first, {second - both} only in "
            "the second"
            for dataset, model, both, first, second in counts.sort("dataset", "model").iter_rows()
            if both < max(first, second)
        ]
        for dataset, (others, both) in self.other_photos.items():
            what = f"{others} of the {both} image ids that both have stand for different photos (size or properties)"
            lines.append(f"{'dataset' if others == both else 'images of'} {dataset} left out: {what}")
        more = f"a sample of about {KEPT:,} images, the same of both runs"
        return [*lines, *(f"compared on {more}: {name}" for name in self.sampled)]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {**vars(self), "table": self.table.to_dicts()}


def compare_runs(
    first: RunFolder, second: RunFolder, *, by: str | None = None, raw: bool = False, pairs: Sequence[str] = ()
) -> Comparison:
    """Differences, second minus first, over the images, models, CAMs and strengths of both runs.

    Args:
        first: a run.
        second: another run.
        by: "perturbation" to compare each perturbation alone; None for all perturbations together.
        raw: also compare the measures that are not adjusted for chance.
        pairs: models of different names that are compared, each as OLD=NEW: its name in the first run, and in the
            second. The table calls them "OLD → NEW".

    Raises:
        ValueError: by is something else.
        UserError: a pair names a model that its run has not, a folder holds no run, the runs measured differently, they
            have nothing in common, or every common image id stands for different photos.
    """
    if by not in (None, "perturbation"):
        raise ValueError(f"compare: by must be 'perturbation' or None, got {by!r}")
    folders = (first, second)
    records = first.run(), second.run()
    paired = model_pairs(pairs, *records)
    settings, levels = _settings(folders, *records), levels_of(records[0]) & levels_of(records[1])
    if not levels:
        raise UserError(f"compare: {first.uri} and {second.uri} share no perturbation at the same strength")
    runs = [[(folder.store, folder.committed())] for folder in folders]
    counts = [image_counts(run) for run in runs]
    photos = other_photos(*(folder.table("images", run[0][1]) for folder, run in zip(folders, runs, strict=True)))
    others = _tallies(photos)
    left_out = {name for name, (different, both) in others.items() if different == both}
    if left_out and left_out >= counts[0].keys() & counts[1].keys():
        raise UserError(
            f"compare: {first.uri} and {second.uri} share no photo: every image id that both have stands for different "
            "photos (size or properties); compare runs of the same photos"
        )
    # One share for both runs, so that their samples hold the same images.
    shares = shares_kept({name: max(count.get(name, 0) for count in counts) for name in {**counts[0], **counts[1]}})
    only = "correct" if all(record.config.summary.only == "correct" for record in records) else "all"
    profiles = []
    for run, record in zip(runs, records, strict=True):
        chosen = SummarySettings(
            alone=by is not None, attacks=attacks_of([record]), only=only, classless=classless([record])
        )
        profiles.append(reduce_scores(_blocks(run, record, levels, only != "all"), chosen, shares).profiles)
    named = [_renamed(of_run, names) for of_run, names in zip(profiles, _labels(paired), strict=True)]
    table = differences(*(_without_others(of_run, photos, left_out) for of_run in named), raw=raw)
    if table.is_empty():
        raise UserError(
            f"compare: {first.uri} and {second.uri} share no CAM of a model of the same name on a dataset of the same "
            f"name; pair models by --map OLD=NEW (the first has {short(', '.join(records[0].models))}, the second "
            f"{short(', '.join(records[1].models))})"
        )
    compared = {*table["dataset"]}
    sampled = sorted(name for name, share in shares.items() if share < 1 and name in compared)
    return Comparison(
        table, [*settings, *otherwise_found(*records)], _versions(*records),
        _only_in(*records, paired), _only_in(records[1], records[0], paired.values()), len(levels), sampled, others,
    )  # fmt: skip


def model_pairs(pairs: Sequence[str], first: RunRecord, second: RunRecord) -> dict[str, str]:
    """Models of the first run, by name, to those of the second that they are compared with.

    Args:
        pairs: each as OLD=NEW.
        first: a run.
        second: another run.

    Raises:
        UserError: one is not of that form, names a model that its run has not, or a model stands in two pairs.
    """
    found: dict[str, str] = {}
    for text in pairs:
        # A name may hold = itself, so the split is the one that both runs know.
        splits = [(text[:place], text[place + 1 :]) for place, sign in enumerate(text) if sign == "="]
        if not splits:
            raise UserError(f"compare: --map must be OLD=NEW, the names of two models, got '{short(text)}'")
        known = [(old, new) for old, new in splits if old in first.models and new in second.models]
        old, new = (known or splits)[0]
        for which, name, models in (("first", old, first.models), ("second", new, second.models)):
            if name not in models:
                raise UserError(f"compare: --map: {unknown(f'model of the {which} run', name, models)}")
        if old in found or new in found.values():
            raise UserError(f"compare: --map: each model can stand in one pair, got '{short(text)}'; leave one out")
        found[old] = new
    return found


def _labels(paired: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What the paired models are called in the table, by their names in the first run and in the second."""
    labels = {old: f"{old} → {new}" for old, new in paired.items()}
    return labels, {paired[old]: label for old, label in labels.items()}


def _renamed(profiles: Sequence[Profile], names: Mapping[str, str]) -> list[Profile]:
    return [replace(profile, model=names.get(profile.model, profile.model)) for profile in profiles]


def _settings(folders: Sequence[RunFolder], first: RunRecord, second: RunRecord) -> list[str]:
    """Keys of the configuration that differ; refuses runs whose numbers are different quantities."""
    settings = differing_keys(first.numbers.plain, second.numbers.plain)
    keys = ["metric version"] if first.metric != second.metric else []
    keys += [key for key in settings if key.partition(".")[0] in SAME]
    if keys:
        uris = " and ".join(folder.uri for folder in folders)
        raise UserError(
            f"compare: {uris} measured differently (different: {', '.join(keys[:5])}); compare runs of "
            "the same metric, segments and image settings only"
        )
    return settings


def _versions(first: RunRecord, second: RunRecord) -> dict[str, tuple[str | None, str | None]]:
    """The versions of every library whose version differs."""
    names = sorted({*first.versions, *second.versions})
    pairs = {name: (first.versions.get(name), second.versions.get(name)) for name in names}
    return {name: (before, after) for name, (before, after) in pairs.items() if before != after}


def _tallies(photos: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """By dataset, how many common ids stand for different photos, and how many common ids there are."""
    counted = photos.group_by("dataset").agg(pl.col("other").sum(), both=pl.len()).sort("dataset")
    return {dataset: (different, both) for dataset, different, both in counted.iter_rows() if different}


def _without_others(profiles: Sequence[Profile], photos: pl.DataFrame, left_out: Collection[str]) -> list[Profile]:
    """Profiles without datasets that are left out, and without images that stand for different photos."""
    others = photos.filter("other")
    kept = []
    for profile in profiles:
        if profile.dataset not in left_out:
            ids = {*others.filter(pl.col("dataset") == profile.dataset)["image_id"]}
            kept.append(profile.without(ids) if ids else profile)
    return kept


def _only_in(run: RunRecord, other: RunRecord, paired: Collection[str] = ()) -> list[str]:
    """Models that are not paired, CAMs, datasets and perturbations that a run has and the other has not, in words."""
    names = [f"{what[:-1]} {name}" for what in NAMED for name in getattr(run, what)
             if name not in getattr(other, what) and not (what == "models" and name in paired)]  # fmt: skip
    datasets = [[entry.name for entry in record.numbers.datasets] for record in (run, other)]
    names += [f"dataset {name}" for name in datasets[0] if name not in datasets[1]]
    return [*names, *(f"{name} at {strength}" for name, strength in sorted(levels_of(run) - levels_of(other)))]


def _blocks(
    run: Sequence[tuple[Store, Committed]], record: RunRecord, levels: set[Level], labelled: bool
) -> Iterator[Block]:
    """The rows of a run at some strengths, with labels or without."""
    blocks = score_blocks(run, labelled=labelled)
    return blocks if levels == levels_of(record) else at_levels(blocks, levels)
