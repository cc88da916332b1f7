"""Images to their variants: actors on fractions of a GPU, or of a core."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from camrobust.contract.config import RunConfig
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import Variant, make_variants
from camrobust.measure.plugins import load_plugins
from camrobust.run.ledger import Watch
from camrobust.run.stages.batches import (
    KEYS,
    PERTURBED,
    PROPERTIES,
    QUARANTINED,
    Failure,
    TensorBuffer,
    batch_of,
    failure_columns,
    failures_of,
    tensor_column,
    tensors_of,
)

Pixels = NDArray[np.uint8]


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
        crop = self.config.image.crop
        wanted = [(image, part) for image, parts in enumerate(batch["parts"].to_pylist()) for part in parts]
        images, parts = map(list, zip(*wanted, strict=True))
        rows = batch.drop_columns(["pixels", "segments", "parts"]).take(images)
        pixels, segments = tensors_of(batch["pixels"], 3, crop, crop), tensors_of(batch["segments"], crop, crop)
        datasets, names, failures = rows["dataset"].to_pylist(), rows["image_id"].to_pylist(), failures_of(rows)
        groups: dict[tuple[str, int], list[int]] = {}
        for place, failure in enumerate(failures):
            if failure is None:
                groups.setdefault((datasets[place], parts[place]), []).append(place)
        # The sizes are known, so each group is written to its place; all groups in a list would double the memory.
        image_size = 3 * crop**2
        sizes = [
            0 if failure else (1 + len(self.parts[part])) * image_size
            for part, failure in zip(parts, failures, strict=True)
        ]
        buffer = TensorBuffer(sizes, "uint8")
        for (dataset, part), places in groups.items():
            group = [names[place] for place in places]
            room = [buffer.place(place) for place in places]
            work = partial(
                self._fill, room, dataset, self.parts[part], group, [pixels[images[place]] for place in places]
            )
            results = self.watch.over_all(dataset, group, work, _quarantined, part=part)
            for place, failure in zip(places, results, strict=True):
                failures[place] = failure
        columns = {name: rows[name] for name in (*KEYS, *PROPERTIES)} | failure_columns(failures)
        columns |= {"part": parts, "first": np.diff(images, prepend=-1) > 0}
        columns["segments"] = tensor_column([segments[image] for image in images], "int32")
        columns["variants"] = buffer.column([failure is not None for failure in failures])
        return batch_of(PERTURBED, columns)

    def _fill(
        self,
        room: Sequence[Pixels],
        dataset: str,
        planned: Sequence[Variant],
        names: Sequence[str],
        pixels: Sequence[Pixels],
        some: Sequence[int],
    ) -> list[Failure | None]:
        """Write the variants of some of the images, (P+1, 3, H, W) each, where there is room for them."""

        def one_pass(places: Sequence[int]) -> None:
            images = torch.from_numpy(np.stack([pixels[place] for place in places])).to(self.device)
            called = [names[place] for place in places]
            made = make_variants(images, planned, called, dataset, self.config.seed, self.config.resave_jpeg_quality)
            for place, variants in zip(places, made, strict=True):
                torch.from_numpy(room[place]).copy_(variants.flatten())

        for _ in halving_on_oom(some, len(some), one_pass):
            pass
        return [None] * len(some)


def _quarantined(why: str) -> Failure | None:
    return Failure("perturb", QUARANTINED, why)
