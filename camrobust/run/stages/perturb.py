"""Images to their variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camrobust.contract.config import RunConfig
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import Variant, make_variants
from camrobust.run.ledger import Watch
from camrobust.run.stages.batches import ERROR, QUARANTINED, Batch


class Perturb:
    """Images to their variants, clean first: one row per image and part that is still to be measured."""

    def __init__(self, config: RunConfig, parts: Sequence[Sequence[Variant]], device: str, ledger: Any = None) -> None:
        self.config, self.parts, self.device = config, parts, device
        self.watch = Watch("perturb", ledger, config.cluster.image_timeout_s)
        self.size = 1 + max(len(part) for part in parts)

    def __call__(self, batch: Batch) -> Batch:
        """Rows with pixels (3, H, W) to rows with variants (P+1, 3, H, W), padded to the largest part."""
        wanted = [(row, int(part)) for row, parts in enumerate(batch["parts"]) for part in str(parts).split(",")]
        rows, parts = map(list, zip(*wanted, strict=True))
        units = {name: values[rows] for name, values in batch.items() if name != "parts"} | {"part": np.array(parts)}
        units["first"] = np.diff(rows, prepend=-1) > 0
        units |= {name: units[name].astype(object) for name in ERROR}
        pixels = units.pop("pixels")
        units["variants"] = np.zeros((len(rows), self.size, *pixels.shape[1:]), np.uint8)
        groups: dict[tuple[str, int, bool], list[int]] = {}
        for place in range(len(rows)):
            failed = bool(units["kind"][place])
            groups.setdefault((str(units["dataset"][place]), parts[place], failed), []).append(place)
        for (dataset, part, failed), places in groups.items():
            names = [str(units["image_id"][place]) for place in places]
            work = partial(self._variants, dataset, () if failed else self.parts[part], names, pixels[places])
            done: list[NDArray[np.uint8] | _Refused] = self.watch.over_all(dataset, names, work, _Refused, part=part)
            for place, made in zip(places, done, strict=True):
                if isinstance(made, _Refused):
                    for name, value in zip(ERROR, ("perturb", QUARANTINED, made.why), strict=True):
                        units[name][place] = value
                else:
                    units["variants"][place, : len(made)] = made
        return units

    def _variants(
        self,
        dataset: str,
        planned: Sequence[Variant],
        names: Sequence[str],
        pixels: NDArray[np.uint8],
        some: Sequence[int],
    ) -> list[NDArray[np.uint8]]:
        """Of some of the images: their variants, (P+1, 3, H, W) each."""

        def one_pass(places: Sequence[int]) -> NDArray[np.uint8]:
            images = torch.from_numpy(pixels[list(places)]).to(self.device)
            called = [names[place] for place in places]
            made = make_variants(images, planned, called, dataset, self.config.seed, self.config.resave_jpeg_quality)
            return made.cpu().numpy()

        return [made for found in halving_on_oom(some, len(some), one_pass) for made in found]


@dataclass(frozen=True)
class _Refused:
    """Why an image's variants are not made."""

    why: str
