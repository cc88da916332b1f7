"""The summary tables of one run, or of several runs with the same settings."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain, combinations
from typing import TypeVar

import polars as pl

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.config import differing_keys
from camrobust.contract.errors import UserError
from camrobust.contract.heads import chooses_class
from camrobust.contract.image_config import OWN
from camrobust.contract.quoting import short
from camrobust.contract.record import new_record
from camrobust.contract.recorded_config import RecordedNumbers
from camrobust.contract.registry import JOIN
from camrobust.contract.run_record import CombinedRecord, DescribedRecord, RunRecord
from camrobust.io.objects import Store
from camrobust.results.block_plan import image_counts
from camrobust.results.blocks import score_blocks
from camrobust.results.counted import Committed
from camrobust.results.folder import RunFolder
from camrobust.results.levels import at_levels, common_levels, pooled_levels, uncommon
from camrobust.results.scan import check_scores
from camrobust.results.tables import read_frame
from camrobust.summary.aggregate import SummarySettings, reduce_scores, shares_kept
from camrobust.summary.certified import USED, certified_consistency
from camrobust.summary.characteristics import characterise
from camrobust.summary.map_attacks import MapAttacks
from camrobust.summary.significance import significance_tests
from camrobust.summary.treatments import merged

Entry = TypeVar("Entry")
LONGEST_DIGEST = 4000
"""Characters of the digests of several runs that a record spells out."""
OWN_IMAGE = {f"image.{name}" for name in OWN}
"""Settings in which runs of different models may differ if each has what its models' published weights want."""
CERTIFIED_ONCE = ("dataset", "model", "cam")
"""What only one of several runs certifies."""
FREE = ("datasets", "models", "cams", "perturbations", "seed")
"""Keys of the configuration in which runs of one leaderboard may differ."""


def reduce_runs(
    folders: Sequence[RunFolder], intervals: str | None = None, strengths: str = "common", only: str | None = None
) -> dict[str, pl.DataFrame]:
    """The tables of `schema.SUMMARIES`, tests, characteristics and any certificates over all rows of some runs.

    Args:
        folders: one run, or several that can be combined.
        intervals: delta or bootstrap; None for the setting of the first run.
        strengths: of several runs, "common" pools the strengths of perturbations that everything was measured under,
            "all" what there is.
        only: correct or all; None for the setting of the first run.

    Raises:
        UserError: a folder holds no run or no scores, or the runs cannot be combined.
    """
    for uri, count in Counter(folder.uri for folder in folders).items():
        if count > 1:
            raise UserError(f"aggregate: {uri} is given twice, and its rows would count twice; give it once")
    documents = [folder.run() for folder in folders]
    by_uri = {folder.uri: document for folder, document in zip(folders, documents, strict=True)}
    check_combinable(by_uri)
    runs = [(folder.store, folder.committed()) for folder in folders]
    check_scores([key for _, committed in runs for key in committed.tables("scores")])
    images = [folder.table("images", held) for folder, (_, held) in zip(folders, runs, strict=True)]
    labelled, config = any(table["label"].count() for table in images), documents[0].config
    only = only or config.summary.only
    if only == "correct" and not labelled:
        raise UserError("aggregate: only correct images needs labels, and no image has one; give --only all")
    strange = sorted(classless(documents)) if only == "correct" else []
    if strange:
        raise UserError(
            f"aggregate: only correct images needs models that choose one class, and '{short(strange[0])}' does not; "
            "give --only all"
        )
    settings = SummarySettings(
        average=config.metric.average,
        controls=tuple(dict.fromkeys(cam for document in documents for cam in document.controls)),
        intervals=intervals or config.summary.intervals,
        seed=config.seed,
        families={name: family for document in documents for name, family in document.families.items()},
        attacks=attacks_of(documents, config.summary.map_attacks),
        only=only,
        classless=classless(documents),
    )
    blocks = score_blocks(runs, labelled=labelled)
    if len(folders) > 1 and strengths == "common":
        blocks = at_levels(blocks, pooled_levels(by_uri, config.summary.map_attacks))
    reduction = reduce_scores(blocks, settings, shares_kept(image_counts(runs)))
    certified = {"certificates": certified_consistency(_certificates(runs))} if config.certify else {}
    with ThreadPoolExecutor(2) as pool:
        tests = pool.submit(significance_tests, reduction.profiles, settings.controls, settings.attacks.same_as)
        characteristics = pool.submit(characterise, reduction.profiles, _by_model(images, documents))
        return {**reduction.tables, "tests": tests.result(), "characteristics": characteristics.result(), **certified}


def _certificates(runs: Sequence[tuple[Store, Committed]]) -> Iterator[pl.DataFrame]:
    """The rows of certificates of some runs, file by file, without masks.

    Runs of other perturbations or another seed certify the same images again, and no image may count twice: of a CAM
    under a model on a dataset, the first run's rows count.
    """
    columns = [column for column in CERTIFICATES if column.name in USED]
    before = pl.DataFrame(schema=dict.fromkeys(CERTIFIED_ONCE, pl.String))
    for store, committed in runs:
        found = [before]
        for key in committed.tables("certificates"):
            rows = read_frame(store, key, columns)[0].join(before, on=CERTIFIED_ONCE, how="anti", maintain_order="left")
            found.append(rows.select(CERTIFIED_ONCE).unique())
            yield rows
        before = pl.concat(found).unique()


def _by_model(images: Sequence[pl.DataFrame], documents: Sequence[RunRecord]) -> pl.DataFrame:
    """The images of some runs; by model, too, where runs have other crops of them."""
    if len({str(document.numbers.plain.get("image")) for document in documents}) < 2:
        return pl.concat(images)
    models = [pl.DataFrame({"model": document.models}) for document in documents]
    return pl.concat([table.join(own, how="cross") for table, own in zip(images, models, strict=True)])


def attacks_of(records: Sequence[DescribedRecord], counted: str = "apart") -> MapAttacks:
    """The attacks on maps of some runs; `counted` says which of their pairs enter the measures."""
    variants = [variant for record in records for variant in record.variants]
    cams = {one.level: one.attacked for one in variants if one.attacked is not None}
    return MapAttacks(cams, merged(record.same_as for record in records), counted)


def classless(records: Sequence[DescribedRecord]) -> frozenset[str]:
    """The models of some runs that predict no class that could be right: they put out labels or values."""
    heads = {name: record.head_of(name) for record in records for name in record.models}
    return frozenset(name for name, head in heads.items() if not chooses_class(head))


def check_combinable(documents: Mapping[str, RunRecord]) -> None:
    """Refuse runs with different settings, with different things of one name, or with the same rows.

    Args:
        documents: run.json by the address of its run.

    Raises:
        UserError: the runs cannot be combined; the message names the keys that differ, or what both runs measured.
    """
    for (first, one), (second, other) in combinations(documents.items(), 2):
        apart = _has_own_image(one) and _has_own_image(other) and not {*one.models} & {*other.models}
        keys = [*_differing(one.numbers, other.numbers, apart=apart), *otherwise_found(one, other)]
        if keys:
            raise UserError(
                f"aggregate: {first} and {second} cannot be combined (different: {', '.join(keys[:5])}); combine runs "
                "of the same metric, segments and image settings only"
            )
        shared = _shared(one, other)
        if shared:
            raise UserError(f"aggregate: {first} and {second} both hold {shared}; leave one of them out")


def _differing(one: RecordedNumbers, other: RecordedNumbers, *, apart: bool) -> list[str]:
    """Settings that differ, and models or datasets of one name that differ; `apart` allows images of other sizes."""
    mine, theirs = ({key: run.plain[key] for key in run.plain if key not in FREE} for run in (one, other))
    keys = [key for key in differing_keys(mine, theirs) if not (apart and key in OWN_IMAGE)]
    for what in ("models", "datasets"):
        mine, theirs = ({entry.name: entry.plain for entry in getattr(numbers, what)} for numbers in (one, other))
        for name in mine.keys() & theirs.keys():
            keys += differing_keys(mine[name], theirs[name], f"{what}.{name}.")
    return sorted(keys)


def otherwise_found(first: RunRecord, second: RunRecord) -> list[str]:
    """What was recorded when the runs began and differs: metric version, weights, target layers, heads, plugins."""
    names = sorted({*first.models} & {*second.models})
    version = ["metric version"] if first.metric != second.metric else []
    return (
        version
        + [
            f"{key}.{name}"
            for key in ("weights_sha256", "target_layers")
            for name in names
            if getattr(first, key).get(name) != getattr(second, key).get(name)
        ]
        + [f"heads.{name}" for name in names if first.head_of(name) != second.head_of(name)]
        + [f"classes_kept.{name}" for name in names if first.classes_kept.get(name) != second.classes_kept.get(name)]
        + _other_networks(first, second)
        + _other_outputs(first, second)
        + _other_code(first, second)
    )


def _has_own_image(run: RunRecord) -> bool:
    """Whether the images of a run are as the published weights of all its models want them."""
    return {*run.preprocessing} == {*run.models} and all(one.source == "weights" for one in run.preprocessing.values())


def _other_networks(first: RunRecord, second: RunRecord) -> list[str]:
    """Models whose networks differ though their weights files do not; runs of earlier versions do not say."""
    mine, theirs = first.state_sha256, second.state_sha256
    return [
        f"state_sha256.{name}"
        for name in sorted(mine.keys() & theirs.keys())
        if mine[name] != theirs[name] and first.weights_sha256.get(name) == second.weights_sha256.get(name)
    ]


def _other_outputs(first: RunRecord, second: RunRecord) -> list[str]:
    """Models that put out something else, such as probabilities; runs of earlier versions do not say."""
    mine, theirs = first.outputs, second.outputs
    return [f"outputs.{name}" for name in sorted(mine.keys() & theirs.keys()) if mine[name] != theirs[name]]


def _other_code(first: RunRecord, second: RunRecord) -> list[str]:
    """Methods used by both runs whose plugin code differs between them."""
    mine, theirs = _code(first), _code(second)
    both = _methods(first) & _methods(second)
    return [f"plugins.{name}" for name in sorted(both) if mine.get(name) != theirs.get(name)]


def _code(run: RunRecord) -> dict[str, tuple[str, str]]:
    """Where a run has the methods from that are not camrobust's own."""
    return {
        name: (plugin.release, plugin.sha256)
        for plugin in run.plugins.values()
        for name in (*plugin.cams, *plugin.perturbations, *plugin.similarities)
    }


def _methods(run: RunRecord) -> set[str]:
    """Names of the methods that a run used."""
    perturbations = {step for variant in run.variants for step in JOIN.split(variant.perturbation)}
    return {*run.cams, *perturbations, *(similarity.name for similarity in run.similarities)}


def _shared(first: RunRecord, second: RunRecord) -> str | None:
    """An example of rows that both runs measured, in words; None if there are none."""
    examples = []
    for what in ("datasets", "models", "cams", "variants"):
        both = [entry for entry in _names(first, what) if entry in _names(second, what)]
        if not both:
            return None
        examples.append(both[0])
    dataset, model, cam, variant = examples
    return f"{cam} of {model} on {dataset} under {variant}"


def _names(run: RunRecord, what: str) -> list[str]:
    if what == "datasets":
        return [entry.name for entry in run.numbers.datasets]
    if what == "variants":
        return [f"{entry.perturbation} {entry.strength}, replicate {entry.replicate}" for entry in run.variants]
    return list(getattr(run, what))


def combined_record(runs: Mapping[str, RunRecord], finished: str, strengths: str = "common") -> CombinedRecord:
    """One record with the parts of several run.json that the report needs.

    Args:
        runs: run.json by the address of its run.
        finished: the time, as text.
        strengths: "common" or "all", as in `reduce_runs`.
    """
    records = list(runs.values())
    first = records[0]
    variants = _union(run.variants for run in records)
    counted = first.config.summary.map_attacks
    levels = pooled_levels(runs, counted) if strengths == "common" else common_levels(records, counted)
    others = uncommon(records, levels)
    left_out = {*others} if strengths == "common" else set()
    return new_record(
        CombinedRecord,
        digest=_joined([run.digest for run in records]),
        metric=first.metric,
        models=_union(run.models for run in records),
        cams=_union(run.cams for run in records),
        controls=_union(run.controls for run in records),
        families={name: family for run in records for name, family in run.families.items()},
        variants=[variant for variant in variants if variant not in left_out],
        strengths=strengths,
        uncommon=others,
        target_layers={name: layer for run in records for name, layer in run.target_layers.items()},
        heads={name: head for run in records for name, head in run.heads.items()},
        outputs={name: outputs for run in records for name, outputs in run.outputs.items()},
        preprocessing={name: one for run in records for name, one in run.preprocessing.items()},
        classes_kept={name: kept for run in records for name, kept in run.classes_kept.items()},
        same_as=merged(run.same_as for run in records),
        versions=first.versions,
        hardware=first.hardware,
        started=min(run.started for run in records),
        config={
            key: value
            for key, value in first.numbers.plain.items()
            if key not in FREE and all(run.numbers.plain.get(key) == value for run in records)
        },
        combined=list(runs),
        finished=finished,
    )


def _joined(digests: Sequence[str]) -> str:
    """The digests of several runs; of very many runs a hash of them."""
    joined = " + ".join(digests)
    return (
        joined
        if len(joined) <= LONGEST_DIGEST
        else f"sha256 of {len(digests)} digests: {sha256(joined.encode()).hexdigest()}"
    )


def _union(lists: Iterable[Sequence[Entry]]) -> list[Entry]:
    """The different entries of some lists, in the order in which they come first."""
    return list(dict.fromkeys(chain.from_iterable(lists)))
