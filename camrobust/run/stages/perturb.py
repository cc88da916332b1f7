"""Images to their variants: actors on fractions of a GPU or of a core, or a step inside the Explain workers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from camrobust.contract.config import RunConfig
from camrobust.contract.defaults import RGB
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import Variant, make_variants
from camrobust.measure.plugins import load_plugins
from camrobust.run.batch_sizes import images_per_pass
from camrobust.run.ledger import ImagePart, Watch
from camrobust.run.stages.batches import (
    KEYS,
    PROPERTIES,
    QUARANTINED,
    Failure,
    TensorBuffer,
    batch_of,
    cells_of,
    failure_columns,
    failures_of,
    perturbed_fields,
    pixel_type,
    tensor_column,
    tensors_of,
)


@dataclass(frozen=True)
class PerturbedRow:
    """One part of an image with its variants, for Explain: a row of `batches.PERTURBED`, its tensors on a device.

    Attributes:
        dataset: its dataset.
        image_id: the image.
        label: true class, None where unknown.
        properties: the other columns of `schema.IMAGES`; their values are None where loading failed.
        part: number of the part.
        first: whether it is the image's first part that is still to be measured.
        failure: what went wrong before, None where nothing did.
        variants: (P+1, C, H, W) as they are measured, the clean image first; None after a failure.
        segments: (H, W) int32, read-only; None where loading failed.
    """

    dataset: str
    image_id: str
    label: int | None
    properties: Mapping[str, Any]
    part: int
    first: bool
    failure: Failure | None
    variants: Tensor | None
    segments: Tensor | None


class Perturb:
    """Makes the variants of images, clean first: one row per image and part that is still to be measured."""

    def __init__(
        self,
        config: RunConfig,
        parts: Sequence[Sequence[Variant]],
        device: str,
        ledger: Any = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        load_plugins(config.plugins, sources)
        self.config, self.parts, self.device = config, parts, device
        self.watch = Watch("perturb", ledger, config.cluster.image_timeout_s)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `LOADED` to rows of `PERTURBED`."""
        images, rows = _one_per_part(batch)
        channels = self.config.channels
        failures, image_size = failures_of(rows), channels * self.config.image.crop**2
        parts = rows["part"].to_pylist()
        # The sizes are known, so each image is written to its place; all of them in a list would double the memory.
        sizes = [
            0 if failure else (1 + len(self.parts[part])) * image_size
            for part, failure in zip(parts, failures, strict=True)
        ]
        buffer = TensorBuffer(sizes, pixel_type(channels))

        def keep(row: int, variants: Tensor) -> None:
            torch.from_numpy(buffer.place(row)).copy_(variants.flatten())

        failures = self._make(batch, images, rows, keep)
        segments = tensors_of(batch["segments"], -1)
        columns = {name: rows[name] for name in (*KEYS, *PROPERTIES, "part", "first")} | failure_columns(failures)
        columns["segments"] = tensor_column([segments[image] for image in images], "int32")
        columns["variants"] = buffer.column([failure is not None for failure in failures])
        return batch_of(perturbed_fields(channels), columns)

    def rows(self, batch: pa.Table) -> list[PerturbedRow]:
        """Rows of `LOADED` with their variants on this worker's device; nothing passes through Ray's object store."""
        images, rows = _one_per_part(batch)
        made: dict[int, Tensor] = {}
        failures = self._make(batch, images, rows, made.__setitem__)
        segments = cells_of(batch["segments"], from_dlpack, self.config.image.crop, self.config.image.crop)
        variants = [None if failure else made[row] for row, failure in enumerate(failures)]
        return _with_tensors(rows, failures, variants, [segments[image] for image in images])

    def _make(
        self, batch: pa.Table, images: Sequence[int], rows: pa.Table, keep: Callable[[int, Tensor], None]
    ) -> list[Failure | None]:
        """Make the variants of all rows.

        Args:
            batch: rows of `LOADED`.
            images: for each part that is wanted, the row of its image in `batch`.
            rows: the parts, with the columns of `batch` that hold no tensors.
            keep: takes a row's number and its variants, (P+1, C, H, W) on the device.

        Returns:
            What failed, row by row.
        """
        failures = failures_of(rows)
        good = [row for row, failure in enumerate(failures) if failure is None]
        names = [ImagePart(*some) for some in zip(*(rows[key].to_pylist() for key in ImagePart._fields), strict=True)]
        items = [names[row] for row in good]
        channels, crop = self.config.channels, self.config.image.crop
        every = tensors_of(batch["pixels"], channels, crop, crop)
        pixels: list[Any] = [every[images[row]] for row in good]

        def work(places: Sequence[int]) -> list[Failure | None]:
            groups: dict[tuple[str, int], list[int]] = {}
            for place in places:
                groups.setdefault((items[place].dataset, items[place].part), []).append(place)
            for (dataset, part), group in groups.items():
                together = images_per_pass(crop, len(self.parts[part]), self.device, channels)
                for _ in halving_on_oom(group, together, partial(one_pass, dataset, self.parts[part])):
                    pass
            return [None] * len(places)

        def one_pass(dataset: str, planned: Sequence[Variant], group: Sequence[int]) -> None:
            self.watch.renew()
            clean = torch.from_numpy(np.stack([pixels[place] for place in group])).to(self.device)
            called = [items[place].image_id for place in group]
            made = make_variants(clean, planned, called, dataset, self.config.seed, self.config.resave_jpeg_quality)
            for place, variants in zip(group, made, strict=True):
                keep(good[place], variants)

        done = self.watch.over_all(items, work, lambda why: Failure("perturb", QUARANTINED, why))
        for row, failure in zip(good, done, strict=True):
            failures[row] = failure
        return failures


def perturbed_rows(batch: pa.Table, crop: int, channels: int = RGB) -> list[PerturbedRow]:
    """Rows of `PERTURBED`; their variants stay where Ray put them, in memory that nothing may write to.

    Args:
        batch: the rows.
        crop: side of the images, px.
        channels: of the images.
    """
    variants = cells_of(batch["variants"], from_dlpack, -1, channels, crop, crop)
    return _with_tensors(batch, failures_of(batch), variants, cells_of(batch["segments"], from_dlpack, crop, crop))


def _one_per_part(batch: pa.Table) -> tuple[list[int], pa.Table]:
    """For each part that is wanted, the row of its image, and a row without tensors that names the part."""
    wanted = [(image, part) for image, parts in enumerate(batch["parts"].to_pylist()) for part in parts]
    images, parts = map(list, zip(*wanted, strict=True))
    rows = batch.drop_columns(["pixels", "segments", "parts"]).take(images)
    first = pa.array(np.diff(images, prepend=-1) > 0)
    return images, rows.append_column("part", pa.array(parts, pa.int16())).append_column("first", first)


def _with_tensors(
    rows: pa.Table,
    failures: Sequence[Failure | None],
    variants: Sequence[Tensor | None],
    segments: Sequence[Tensor | None],
) -> list[PerturbedRow]:
    plain = rows.select([*KEYS, *PROPERTIES, "part", "first"]).to_pylist()
    return [
        PerturbedRow(
            row["dataset"], row["image_id"], row["label"], {name: row[name] for name in PROPERTIES}, row["part"],
            row["first"], failure, made, labels,
        )
        for row, failure, made, labels in zip(plain, failures, variants, segments, strict=True)
    ]  # fmt: skip
