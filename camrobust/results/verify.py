"""Is a run complete? Every planned row must be there exactly once, or its image must be named in failures."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from camrobust.contract.certificates import CERTIFICATE_KEYS, CERTIFICATES
from camrobust.contract.columns import Column
from camrobust.contract.recorded_config import RecordedCertify
from camrobust.contract.run_files import partition_of
from camrobust.contract.run_record import VariantRecord
from camrobust.contract.schema import SCORE_FILE
from camrobust.results.counted import IMAGE
from camrobust.results.folder import RunFolder
from camrobust.results.row_counts import PlannedRows, RowCounts, by_pair, count_rows, grouped, planned_rows
from camrobust.results.tables import read_frame

VARIANT = ["cam", "perturbation", "strength", "replicate"]
EXAMPLES = 5
USED = tuple(column for column in SCORE_FILE if column.name in ("image_id", *VARIANT))
CERTIFIED = tuple(column for column in CERTIFICATES if column.name in CERTIFICATE_KEYS)
ROWS_AT_ONCE = 2_000_000
BYTES_AT_ONCE = 256 * 2**20
"""Score rows that are counted together; these and the list of images bound the memory for runs of any size."""


@dataclass(frozen=True)
class Completeness:
    """How many rows were planned and how many are there; a pair is one image under one model.

    Attributes:
        planned_rows: score rows that the plan asks for.
        score_rows: score rows that are there.
        failed_rows: planned rows without a score whose pair is named in failures.
        missing: pairs that lack rows and are not named in failures.
        surplus: pairs with a row twice, with a row that was not planned, or with all rows and a failure.
        images: images planned.
        failed_images: images named in failures, for at least one model.
        planned_certificates: rows of certificates that the plan asks for.
        certificate_rows: rows of certificates that are there.
        failed_certificates: planned ones without a row whose pair is named in failures.
        examples: the first few missing or surplus pairs, as text.
    """

    planned_rows: int
    score_rows: int
    failed_rows: int
    missing: int
    surplus: int
    images: int
    failed_images: int
    examples: tuple[str, ...]
    planned_certificates: int = 0
    certificate_rows: int = 0
    failed_certificates: int = 0

    @property
    def complete(self) -> bool:
        """Whether scored and failed rows add up to the plan, each exactly once."""
        return (
            not self.missing
            and not self.surplus
            and self.score_rows + self.failed_rows == self.planned_rows
            and self.certificate_rows + self.failed_certificates == self.planned_certificates
        )

    @property
    def failure_share(self) -> float:
        """Share of the images named in failures."""
        return self.failed_images / self.images if self.images else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json and done/NUMBER.json."""
        return {"complete": self.complete, **asdict(self), "examples": list(self.examples)}


@dataclass(frozen=True)
class _Tally:
    """The counts of `Completeness` for one dataset and model."""

    score_rows: int
    failed_rows: int
    certificate_rows: int
    failed_certificates: int
    missing: int
    surplus: int
    examples: list[str]


def verify(folder: RunFolder) -> Completeness:
    """Compare a run with its plan. Every row is read once, one dataset and model after the other.

    Of a run in shards every shard is compared with the images that belong to it. The shards have one list of images,
    and a hash puts each image on one of them, so a run is complete if all its shards are.

    Raises:
        UserError: there is no run in that folder.
    """
    return in_all([_verify(one) for one in folder.folders])


def in_all(parts: Sequence[Completeness]) -> Completeness:
    """The counts of several folders with different images, added up."""
    counts = {
        name: sum(getattr(part, name) for part in parts)
        for name in Completeness.__dataclass_fields__
        if name != "examples"
    }
    return Completeness(**counts, examples=tuple(example for part in parts for example in part.examples)[:EXAMPLES])


def _verify(folder: RunFolder) -> Completeness:
    run, committed = folder.run(), folder.committed()
    files, certified = committed.tables("scores"), committed.tables("certificates")
    manifest = folder.manifest().select(IMAGE)
    failures = folder.table("failures", committed).select(*IMAGE, "model")
    del committed
    planned, guarantees = _planned(run.cams, run.variants), _planned_certificates(run.cams, run.config.certify)
    images = {
        str(name): rows.select("image_id") for (name,), rows in manifest.partition_by("dataset", as_dict=True).items()
    }
    keys_of: dict[tuple[str, str], list[str]] = {(dataset, model): [] for dataset in images for model in run.models}
    for key in files:
        keys_of.setdefault(partition_of(key), []).append(key)
    certificates = by_pair(_gathered(folder, certified, CERTIFIED), guarantees)
    tallies = []
    for pair in dict.fromkeys((*keys_of, *certificates)):
        dataset, model = pair
        known = images[dataset] if dataset in images and model in run.models else manifest.clear().select("image_id")
        named = failures.filter(pl.col("dataset") == dataset, pl.col("model").is_null() | (pl.col("model") == model))
        scored = (grouped(rows, planned) for rows in _gathered(folder, keys_of.get(pair, ()), USED))
        counted = [
            _Counted(planned, count_rows(known, scored)),
            _Counted(guarantees, count_rows(known, certificates.get(pair, ()))),
        ]
        tallies.append(_tally(pair, known, counted, named))
    pairs = manifest.height * len(run.models)
    return Completeness(
        planned_rows=pairs * planned.rows,
        score_rows=sum(tally.score_rows for tally in tallies),
        failed_rows=sum(tally.failed_rows for tally in tallies),
        missing=sum(tally.missing for tally in tallies),
        surplus=sum(tally.surplus for tally in tallies),
        images=manifest.height,
        failed_images=failures.select(IMAGE).unique().join(manifest, on=IMAGE, how="semi").height,
        examples=tuple(example for tally in tallies for example in tally.examples)[:EXAMPLES],
        planned_certificates=pairs * guarantees.rows,
        certificate_rows=sum(tally.certificate_rows for tally in tallies),
        failed_certificates=sum(tally.failed_certificates for tally in tallies),
    )


def _planned(cams: Sequence[str], variants: Sequence[VariantRecord]) -> PlannedRows:
    named = [
        {"cam": cam, **{key: getattr(variant, key) for key in VARIANT[1:]}} for cam in cams for variant in variants
    ]
    return planned_rows(
        named, {"cam": pl.String, "perturbation": pl.String, "strength": pl.String, "replicate": pl.Int16}
    )


def _planned_certificates(cams: Sequence[str], asked: RecordedCertify | None) -> PlannedRows:
    named = [] if asked is None else [
        {"cam": cam, "sigma": sigma, "radius_share": share}
        for cam in cams for sigma in asked.sigma for share in asked.radii
    ]  # fmt: skip
    return planned_rows(named, {"cam": pl.String, "sigma": pl.Float64, "radius_share": pl.Float64})


def _gathered(folder: RunFolder, keys: Sequence[str], columns: Sequence[Column]) -> Iterator[pl.DataFrame]:
    """The rows of some files, in tables of about `ROWS_AT_ONCE` rows."""
    waiting: list[pl.DataFrame] = []
    for key in keys:
        waiting.append(read_frame(folder.store, key, columns)[0])
        if sum(table.height for table in waiting) >= ROWS_AT_ONCE or sum(map(_bytes, waiting)) >= BYTES_AT_ONCE:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


def _bytes(table: pl.DataFrame) -> int:
    return int(table.estimated_size())


@dataclass(frozen=True)
class _Counted:
    """The rows of one kind, scores or certificates: what was planned for every image, and what is there."""

    planned: PlannedRows
    counts: RowCounts

    def failed(self, images: NDArray[np.bool_]) -> int:
        """Planned rows without a row, of some images (I,)."""
        return int((self.planned.rows - self.counts.rows[images]).clip(0).sum())


def _tally(pair: tuple[str, str], images: pl.DataFrame, both: Sequence[_Counted], failures: pl.DataFrame) -> _Tally:
    """The counts of one dataset and model; `both` are its scores and its certificates."""
    failed = images["image_id"].is_in(failures["image_id"].unique().implode()).to_numpy()
    scores, certificates = both
    missing = ~failed & np.any([kind.counts.missing(kind.planned) for kind in both], axis=0)
    # An image that travels in parts may have rows of some and failures of others; its certificates are in one part.
    surplus = np.any([kind.counts.surplus(kind.planned) for kind in both], axis=0)
    surplus |= failed & (scores.counts.rows == scores.planned.rows)
    unplanned = dict.fromkeys(name for kind in both for name in kind.counts.unplanned["image_id"])
    wrong = [*images["image_id"].gather(np.flatnonzero(missing | surplus)[:EXAMPLES]), *[*unplanned][:EXAMPLES]]
    dataset, model = pair
    return _Tally(
        score_rows=scores.counts.total,
        failed_rows=scores.failed(failed),
        certificate_rows=certificates.counts.total,
        failed_certificates=certificates.failed(failed),
        missing=int(missing.sum()),
        surplus=int(surplus.sum()) + len(unplanned),
        examples=[f"{dataset} / {image_id} / {model}" for image_id in wrong],
    )
