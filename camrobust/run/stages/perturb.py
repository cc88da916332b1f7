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
        rows = batch.drop_columns(["pixels", "parts"]).take(images)
        pixels = tensors_of(batch["pixels"], 3, crop, crop)
        datasets, names, failures = rows["dataset"].to_pylist(), rows["image_id"].to_pylist(), failures_of(rows)
        groups: dict[tuple[str, int], list[int]] = {}
        for place, failure in enumerate(failures):
            if failure is None:
                groups.setdefault((datasets[place], parts[place]), []).append(place)
        variants: list[Pixels | None] = [None] * len(wanted)
        for (dataset, part), places in groups.items():
            group = [names[place] for place in places]
            work = partial(
                self._variants, dataset, self.parts[part], group, [pixels[images[place]] for place in places]
            )
            made = self.watch.over_all(dataset, group, work, _quarantined, part=part)
            for place, result in zip(places, made, strict=True):
                if isinstance(result, Failure):
                    failures[place] = result
                else:
                    variants[place] = result
        columns = {name: rows[name] for name in (*KEYS, *PROPERTIES, "segments")} | failure_columns(failures)
        columns |= {"part": parts, "first": np.diff(images, prepend=-1) > 0}
        return batch_of(PERTURBED, columns | {"variants": tensor_column(variants, "uint8")})

    def _variants(
        self,
        dataset: str,
        planned: Sequence[Variant],
        names: Sequence[str],
        pixels: Sequence[Pixels],
        some: Sequence[int],
    ) -> list[Pixels | Failure]:
        """The variants of some of the images, (P+1, 3, H, W) each."""

        def one_pass(places: Sequence[int]) -> Pixels:
            images = torch.from_numpy(np.stack([pixels[place] for place in places])).to(self.device)
            called = [names[place] for place in places]
            made = make_variants(images, planned, called, dataset, self.config.seed, self.config.resave_jpeg_quality)
            return made.cpu().numpy()

        return [made for passed in halving_on_oom(some, len(some), one_pass) for made in passed]


def _quarantined(why: str) -> Failure:
    return Failure("perturb", QUARANTINED, why)
