"""Variants to result tables, for all models of the run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from camrobust.contract.config import RunConfig
from camrobust.contract.schema import FAILURES, IMAGES, MAPS, SCORES
from camrobust.core.perturb import Variant
from camrobust.measure.image import Columns, Explained, Sample, measure
from camrobust.measure.model import Model, bytes_per_image
from camrobust.results.arrow import make_table, pack
from camrobust.run.ledger import Watch
from camrobust.run.plan import build, settings_of
from camrobust.run.stages.batches import ERROR, PROPERTIES, QUARANTINED, UNKNOWN_LABEL, Batch
from camrobust.run.stages.gallery import map_rows

GPUS_PER_EXPLAINER = 0.8
AUTO_BATCH = {"cpu": 8, "cuda": 64}
"""Most variants in one forward pass, where memory holds them."""
MEMORY_SHARE = 0.5
"""Of the memory that is free when a worker starts: what one forward pass may take."""


@dataclass(frozen=True)
class _Row:
    """One image's part as it reaches the Explain actor; the first of those that are still to be measured."""

    sample: Sample
    part: int
    first: bool
    pixels: torch.Tensor
    properties: dict[str, Any]
    error: dict[str, str] | None


@dataclass(frozen=True)
class _Failed:
    """Why one model has no scores of one image."""

    kind: str
    message: str


def auto_batch(models: Sequence[Model], config: RunConfig, device: str, free_bytes: int | None = None) -> int:
    """Variants in one forward pass, by the memory that a worker has.

    Args:
        models: of the run, loaded.
        config: of the run.
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
    """All models of the run on one device: variants in, packed result tables out, one row per image and part."""

    def __init__(
        self,
        config: RunConfig,
        parts: Sequence[Sequence[Variant]],
        gallery: frozenset[tuple[str, str]],
        weights: Mapping[str, str | None],
        device: str,
        ledger: Any = None,
    ) -> None:
        self.config, self.parts, self.gallery = config, parts, gallery
        self.watch = Watch("explain", ledger, config.cluster.image_timeout_s)
        self.models = [build(one, config.image.crop, device, sha256=weights.get(one.name)) for one in config.models]
        batch = config.cluster.batch
        self.settings = settings_of(config, auto_batch(self.models, config, device) if batch == "auto" else batch)

    def __call__(self, batch: Batch) -> Batch:
        """Rows with variants to rows of four packed tables, named as the fields of `results.commits.Unit`."""
        rows = [self._measure(_row(batch, number)) for number in range(len(batch["image_id"]))]
        return {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}

    def _measure(self, row: _Row) -> dict[str, Any]:
        scores: list[pa.Table] = [make_table(SCORES, [])]
        failures: list[dict[str, Any]] = []
        maps: list[dict[str, Any]] = []
        sample, variants = row.sample, self.parts[row.part]
        loaded = row.error is None or row.error["stage"] != "load"
        if row.error is not None:
            # What failed in loading failed for every part, and is said once.
            failures += [_failure(sample, None, row.error)] if row.first or loaded else []
        else:
            for model in self.models:
                found = self._guarded(model, row, variants)
                if isinstance(found, _Failed):
                    error = {"stage": "explain", "kind": found.kind, "message": found.message}
                    failures.append(_failure(sample, model.name, error))
                    continue
                columns, explained = found
                scores.append(make_table(SCORES, columns))
                if row.part == 0 and (sample.dataset, sample.image_id) in self.gallery:
                    first = model is self.models[0]
                    maps += map_rows(model, sample, variants, explained, first=first, config=self.config)
        image = [row.properties] if row.part == 0 and loaded else []
        return {
            "dataset": sample.dataset,
            "image_id": sample.image_id,
            "part": row.part,
            "scores": pack(pa.concat_tables(scores)),
            "images": pack(make_table(IMAGES, image)),
            "failures": pack(make_table(FAILURES, failures)),
            "maps": pack(make_table(MAPS, maps)),
        }

    def _guarded(self, model: Model, row: _Row, variants: Sequence[Variant]) -> tuple[Columns, Explained] | _Failed:
        return self.watch.over(
            row.sample.dataset,
            row.sample.image_id,
            lambda: self._one_model(model, row, variants),
            lambda why: _Failed(QUARANTINED, why),
            part=row.part,
            model=model.name,
        )

    def _one_model(self, model: Model, row: _Row, variants: Sequence[Variant]) -> tuple[Columns, Explained] | _Failed:
        """Scores and maps, or what went wrong: one model's trouble with one image must not end the run."""
        try:
            return measure(model, row.sample, row.pixels[: len(variants) + 1], variants, self.settings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - model code may raise anything; it becomes a failure row
            return _Failed("error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _row(batch: Batch, number: int) -> _Row:
    cells = {name: values[number] for name, values in batch.items()}
    label = None if int(cells["label"]) == UNKNOWN_LABEL else int(cells["label"])
    segments = torch.from_numpy(cells["segments"].astype(np.int64))
    sample = Sample(str(cells["dataset"]), str(cells["image_id"]), label, segments)
    properties: dict[str, Any] = {
        "dataset": sample.dataset,
        "image_id": sample.image_id,
        "label": label,
        "width": int(cells["width"]),
        "height": int(cells["height"]),
        "n_segments": int(segments.max()) + 1,
        **{name: float(cells[name]) for name in PROPERTIES},
    }
    error = {name: str(cells[name]) for name in ERROR} if cells["kind"] else None
    pixels = torch.from_numpy(cells["variants"].copy())
    return _Row(sample, int(cells["part"]), bool(cells["first"]), pixels, properties, error)


def _failure(sample: Sample, model: str | None, error: dict[str, str]) -> dict[str, Any]:
    return {"dataset": sample.dataset, "image_id": sample.image_id, "model": model, **error}
