"""The report of scores that were measured in this process, where there is no run folder to read."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from camrobust.contract.record import new_record
from camrobust.contract.run_record import DescribedRecord, VariantRecord
from camrobust.contract.schema import FAILURES, IMAGES, MAPS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.report.page import Report, build_report
from camrobust.results.arrow import empty_frame
from camrobust.results.environment import hardware, utc, versions
from camrobust.summary.aggregate import Reduction
from camrobust.summary.certified import certified_consistency
from camrobust.summary.significance import significance_tests


def described(
    scores: pl.DataFrame, controls: Sequence[str], same_as: Mapping[str, Mapping[str, str]], heads: Mapping[str, str],
    settings: Mapping[str, Any],
) -> DescribedRecord:  # fmt: skip
    """What the report needs to know of scores, from the scores."""
    keys = ["perturbation", "severity", "strength", "replicate", "attacked_cam"]
    variants = scores.select(keys).unique(maintain_order=True).to_dicts()
    return new_record(
        DescribedRecord,
        models=scores["model"].unique(maintain_order=True).to_list(),
        cams=scores["cam"].unique(maintain_order=True).to_list(),
        controls=list(controls),
        families={
            name: PERTURBATIONS[name].family for name in scores["perturbation"].unique() if name in PERTURBATIONS
        },
        variants=[VariantRecord(**variant) for variant in variants],
        same_as={model: dict(cams) for model, cams in same_as.items()},
        heads=dict(heads),
        versions=versions(),
        hardware=hardware(),
        config={
            "seed": settings["seed"],
            "metric": {"average": settings["average"]},
            "summary": {
                "intervals": settings["intervals"],
                "map_attacks": settings["map_attacks"],
                "only": settings["only"],
            },
        },
    )


def report_of(
    scores: pl.DataFrame, reduction: Reduction, record: DescribedRecord, certificates: pl.DataFrame | None
) -> Report:
    """The page and its figures; there is no gallery, as maps are not kept, and no property of an image is known."""
    photos = scores.select("dataset", "image_id").unique(maintain_order=True)
    images = pl.concat([empty_frame(IMAGES), photos], how="diagonal")
    tables = {**reduction.tables, "tests": significance_tests(reduction.profiles, record.controls, record.same_as)}
    if certificates is not None:
        tables["certificates"] = certified_consistency([certificates])
    return build_report(
        record, tables, scores.lazy(), images, empty_frame(FAILURES), empty_frame(MAPS), drawn=utc()
    )  # fmt: skip
