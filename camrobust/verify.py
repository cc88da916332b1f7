"""Proof that a run is complete: every planned row exactly once, or its image named in failures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from camrobust.aggregate import scan_scores
from camrobust.io.results import Committed
from camrobust.io.runs import RunFolder

UNIT = ["dataset", "image_id", "model"]
VARIANT = ["cam", "perturbation", "parameter", "replicate"]


@dataclass(frozen=True)
class Verdict:
    """What was planned and what is there; a unit is one image under one model.

    Attributes:
        planned_rows: score rows that the plan asks for.
        score_rows: score rows that are there.
        failed_rows: planned rows whose image is named in failures.
        missing: units without all their rows and not named in failures.
        surplus: units with a row twice, a row that was not planned, or all rows and a failure.
        images: images planned.
        failed_images: images named in failures, for at least one model.
        examples: the first few missing or surplus units, as text.
    """

    planned_rows: int
    score_rows: int
    failed_rows: int
    missing: int
    surplus: int
    images: int
    failed_images: int
    examples: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Scored and failed rows add up to the plan, each exactly once."""
        return not self.missing and not self.surplus and self.score_rows + self.failed_rows == self.planned_rows

    @property
    def failure_share(self) -> float:
        """Share of the images named in failures."""
        return self.failed_images / self.images if self.images else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json and done.json."""
        return {"complete": self.complete, **asdict(self), "examples": list(self.examples)}


def verify(folder: RunFolder) -> Verdict:
    """Compare a run folder with its plan; reads every score row once, streaming.

    Raises:
        UserError: there is no run in that folder.
    """
    run = folder.run()
    committed = folder.committed()
    manifest = folder.manifest().select("dataset", "image_id")
    failures = folder.table("failures", committed).select(UNIT)
    models = pl.DataFrame({"model": run["models"]}, schema={"model": pl.String})
    planned = manifest.join(models, how="cross")
    failed = _failed_units(planned, failures)
    found = _found_units(folder, run, committed)
    rows = run["planned"]["rows"] // max(1, planned.height)
    joined = planned.join(found, on=UNIT, how="full", coalesce=True).join(failed, on=UNIT, how="left")
    joined = joined.with_columns(pl.col("rows", "wrong").fill_null(0), pl.col("failed").fill_null(value=False))
    unplanned = found.join(planned, on=UNIT, how="anti")
    missing = joined.filter(~pl.col("failed") & (pl.col("rows") < rows))
    # An image that travels in parts may have rows of some and failures of others.
    surplus = joined.filter(
        (pl.col("wrong") > 0) | (pl.col("rows") >= pl.when("failed").then(rows).otherwise(rows + 1))
    )
    surplus = pl.concat([surplus.select(UNIT), unplanned.select(UNIT)]).unique()
    examples = [" / ".join(row) for row in pl.concat([missing.select(UNIT), surplus]).head(5).rows()]
    return Verdict(
        planned_rows=planned.height * rows,
        score_rows=int(found["rows"].sum()),
        failed_rows=int(joined.filter("failed").select((rows - pl.col("rows")).clip(0).sum()).item()),
        missing=missing.height,
        surplus=surplus.height,
        images=manifest.height,
        failed_images=failed.select("dataset", "image_id").unique().height,
        examples=tuple(examples),
    )


def _failed_units(planned: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
    """Units named in failures; a failure without a model names the image's units under every model."""
    every = failures.filter(pl.col("model").is_null()).select("dataset", "image_id").unique()
    one = failures.drop_nulls("model").unique()
    named = pl.concat(
        [planned.join(every, on=["dataset", "image_id"], how="semi"), planned.join(one, on=UNIT, how="semi")]
    )
    return named.unique().with_columns(failed=pl.lit(value=True))


def _found_units(folder: RunFolder, run: Mapping[str, Any], committed: Committed) -> pl.DataFrame:
    """Rows of each unit, and how many of them are not exactly the planned variants once.

    A row's variant is found in the plan by joining; a variant that occurs twice shows as fewer different variants than
    rows.
    """
    schema = {"dataset": pl.String, "image_id": pl.String, "model": pl.String, "rows": pl.Int64, "wrong": pl.Int64}
    if not committed.tables("scores"):
        return pl.DataFrame(schema=schema)
    variants = _planned_variants(run["cams"], run["variants"])
    scores = scan_scores(*folder.score_files(committed)).select(*UNIT, *VARIANT)
    numbered = scores.join(variants.lazy(), on=VARIANT, how="left")
    groups = numbered.group_by(UNIT).agg(
        rows=pl.len().cast(pl.Int64),
        wrong=(pl.len() - pl.col("number").drop_nulls().n_unique()).cast(pl.Int64),
    )
    return groups.collect(engine="streaming").select(list(schema))


def _planned_variants(cams: Sequence[str], variants: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    rows = [{"cam": cam, **{key: variant[key] for key in VARIANT[1:]}} for cam in cams for variant in variants]
    schema = {"cam": pl.String, "perturbation": pl.String, "parameter": pl.String, "replicate": pl.Int16}
    return pl.DataFrame(rows, schema=schema).with_row_index("number")
