"""Variants to result rows, for all models of the run: actors on GPUs, or on cores."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from camrobust.contract.config import RunConfig
from camrobust.contract.schema import FAILURES, IMAGES, MAPS
from camrobust.core.perturb import Variant
from camrobust.measure.image import Columns, Explained, Sample, measure
from camrobust.measure.model import Model, bytes_per_image
from camrobust.measure.plugins import load_plugins
from camrobust.results.arrow import make_table
from camrobust.run.ledger import ImagePart, Watch
from camrobust.run.plan import build, settings_of
from camrobust.run.stages.batches import QUARANTINED, Failure, batch_of, measured_fields, rows_column
from camrobust.run.stages.gallery import map_rows
from camrobust.run.stages.perturb import Perturb, PerturbedRow, perturbed_rows

GPUS_PER_EXPLAINER = 0.8
AUTO_BATCH = {"cpu": 8, "cuda": 64}
"""Most variants in one forward pass, where memory holds them."""
MEMORY_SHARE = 0.5
"""One forward pass may take this share of the memory that is free when a worker starts."""


@dataclass(frozen=True)
class _Measured:
    """The result rows of one part; scores as columns, one set per model."""

    scores: list[Columns] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)


def auto_batch(models: Sequence[Model], config: RunConfig, device: str, free_bytes: int | None = None) -> int:
    """Variants in one forward pass, by the memory that a worker has.

    Args:
        models: the run's models, already loaded.
        config: the run's configuration.
        device: cpu or cuda.
        free_bytes: this worker's share of the device's memory, None to look.
    """
    if free_bytes is None:
        free_bytes = _free_bytes(config, device)
    need = max(bytes_per_image(model, config.image.crop) for model in models)
    return int(max(1, min(AUTO_BATCH[device], MEMORY_SHARE * free_bytes // max(1, need))))


def _free_bytes(config: RunConfig, device: str) -> int:
    """Free memory of the device; a GPU is shared by fractions, a machine's memory by its cores."""
    if device == "cuda":
        share = config.cluster.gpus_per_explainer or GPUS_PER_EXPLAINER
        return int(torch.cuda.mem_get_info()[0] * min(1.0, share))
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return available // (os.cpu_count() or 1)


class Explain:
    """Measures variants under all models of the run, which lie on one device."""

    def __init__(
        self,
        config: RunConfig,
        parts: Sequence[Sequence[Variant]],
        gallery: frozenset[tuple[str, str]],
        weights: Mapping[str, str | None],
        device: str,
        ledger: Any = None,
        sources: Mapping[str, str] | None = None,
        *,
        perturbs: bool = False,
    ) -> None:
        load_plugins(config.plugins, sources)
        self.perturb = Perturb(config, parts, device, ledger, sources) if perturbs else None
        self.config, self.parts, self.gallery = config, parts, gallery
        self.watch = Watch("explain", ledger, config.cluster.image_timeout_s)
        self.models = [
            build(model, config.image.crop, device, sha256=weights.get(model.name)) for model in config.models
        ]
        batch = config.cluster.batch
        self.settings = settings_of(config, auto_batch(self.models, config, device) if batch == "auto" else batch)
        self.columns = self.settings.columns()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `PERTURBED`, or of `LOADED` where this worker perturbs, to rows of `MEASURED`."""
        rows = perturbed_rows(batch, self.config.image.crop) if self.perturb is None else self.perturb.rows(batch)
        measured = [self._measure(row) for row in rows]
        # An image's own row goes with its part 0, unless there is no image.
        pictured = [int(row.part == 0 and row.segments is not None) for row in rows]
        images = [
            {"dataset": row.dataset, "image_id": row.image_id, "label": row.label, **row.properties}
            for row, one in zip(rows, pictured, strict=True) if one
        ]  # fmt: skip
        failures = [row for part in measured for row in part.failures]
        maps = [row for part in measured for row in part.maps]
        counts = {
            "scores": [sum(len(columns["rbo"]) for columns in part.scores) for part in measured],
            "images": pictured,
            "failures": [len(part.failures) for part in measured],
            "maps": [len(part.maps) for part in measured],
        }
        tables = {
            "scores": make_table(self.columns, _joined([columns for part in measured for columns in part.scores])),
            "images": make_table(IMAGES, images),
            "failures": make_table(FAILURES, failures),
            "maps": make_table(MAPS, maps),
        }
        keys = {name: [getattr(row, name) for row in rows] for name in ("dataset", "image_id", "part")}
        cells = {name: rows_column(table, counts[name]) for name, table in tables.items()}
        return batch_of(measured_fields(self.columns), keys | cells)

    def _measure(self, row: PerturbedRow) -> _Measured:
        measured = _Measured()
        if row.variants is None or row.segments is None:
            # An image that failed in loading failed for every part, and is named once.
            if row.failure is not None and (row.first or row.segments is not None):
                measured.failures.append(_failure_row(row, None, row.failure))
            return measured
        # Copies, because torch wants memory that may be written.
        segments = torch.from_numpy(row.segments.astype(np.int64))
        pixels = row.variants
        sample, variants = Sample(row.dataset, row.image_id, row.label, segments), self.parts[row.part]
        for model in self.models:
            result = self._guarded(model, row, sample, pixels)
            if isinstance(result, Failure):
                measured.failures.append(_failure_row(row, model.name, result))
                continue
            columns, explained = result
            measured.scores.append(columns)
            if row.part == 0 and (row.dataset, row.image_id) in self.gallery:
                first = model is self.models[0]
                measured.maps.extend(map_rows(model, sample, variants, explained, first=first, cams=self.config.cams))
        return measured

    def _guarded(
        self, model: Model, row: PerturbedRow, sample: Sample, pixels: torch.Tensor
    ) -> tuple[Columns, Explained] | Failure:
        """Scores and maps of one part under one model, unless workers have died at it."""
        (result,) = self.watch.over_all(
            [ImagePart(row.dataset, row.image_id, row.part)],
            lambda _: [self._one_model(model, sample, pixels, self.parts[row.part])],
            lambda why: Failure("explain", QUARANTINED, why),
            model=model.name,
        )
        return result

    def _one_model(
        self, model: Model, sample: Sample, pixels: torch.Tensor, variants: Sequence[Variant]
    ) -> tuple[Columns, Explained] | Failure:
        """Scores and maps, or what went wrong: one model's trouble with one image must not end the run."""
        try:
            return measure(model, sample, pixels, variants, self.settings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - model code may raise anything; it becomes a failure row
            return Failure("explain", "error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _joined(parts: Sequence[Columns]) -> Columns | list[dict[str, Any]]:
    """The columns of several parts, one after the other; no rows at all for none."""
    return {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]} if parts else []


def _failure_row(row: PerturbedRow, model: str | None, failure: Failure) -> dict[str, Any]:
    return {"dataset": row.dataset, "image_id": row.image_id, "model": model, **failure._asdict()}
