"""The run's own stages with the science replaced by constants, and stages that hand out what they made before.

`StubLoad`, `StubPerturb` and `StubExplain` are the stages of a run: they report to its ledger, pass on the same columns
and the same bytes, and take the same sizes. Only the functions of `SCIENCE` are replaced while they work. The replayed
stages do nothing but return the table that their stub made for as many rows; a stream of them is Ray Data alone, with
the blocks, bytes and operators of the run.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from camrobust.core.perturb import Variant
from camrobust.io.images import Photo
from camrobust.measure.image import Explained
from camrobust.measure.image_batch import ImageBatch
from camrobust.measure.model import Model
from camrobust.measure.score_rows import PER_ROW, Columns, score_rows
from camrobust.measure.settings import ImageVariants, MeasureSettings
from camrobust.run.pipeline import Kinds
from camrobust.run.stages.commit import Commit
from camrobust.run.stages.explain import Explain
from camrobust.run.stages.load import Load
from camrobust.run.stages.perturb import Perturb

SEGMENTS = 36
CHARACTERISTICS = ("brightness", "contrast", "colourfulness", "edge_density", "high_frequency")


def no_bytes(_uri: str, *_arguments: object) -> bytes:
    """An image file that nobody reads."""
    return b""


@cache
def photo(_content: bytes, _resize: int, crop: int, channels: int, **_how: object) -> Photo:
    """A grey photograph."""
    return Photo(np.full((channels, crop, crop), 128, np.uint8), crop, crop)


@cache
def _squares(crop: int) -> Tensor:
    row = torch.arange(crop) * 6 // crop
    return row[:, None] * 6 + row[None, :]


def squares(images: Tensor, _method: str, **_parameters: object) -> Tensor:
    """36 square segments of every image, (B, H, W) int64."""
    return _squares(images.shape[-1]).expand(len(images), -1, -1)


def no_characteristics(_pixels: object) -> dict[str, float]:
    """Characteristics that nobody computes."""
    return dict.fromkeys(CHARACTERISTICS, 0.5)


def grey(images: Tensor, planned: Sequence[Variant], *_arguments: object) -> Tensor:
    """Variants that are grey, (B, V+1, 3, H, W) uint8; the stage still writes each one out."""
    return _grey(len(images), len(planned) + 1, *images.shape[1:])


@cache
def _grey(*shape: int) -> Tensor:
    return torch.full(shape, 128, dtype=torch.uint8)


def constant_rows(
    model: Model,
    images: Sequence[ImageVariants],
    settings: MeasureSettings,
    _renew: Callable[[], None],
    keep: Set[int],
) -> tuple[Columns, dict[int, Explained]]:
    """The score rows of images whose maps all agree by one half; made as in a run, without maps for the gallery."""
    if keep:
        raise ValueError("bench: the stub has no maps; set gallery_images to 0")
    batch = ImageBatch(images)
    half = np.full((len(batch), len(settings.cams)), 0.5, np.float32)
    names = ("rbo", "rbo_adjusted", *(one.name for one in settings.measures()))
    compared = dict.fromkeys(names, half) | {"flat": half * 0, "finite": half * 2}
    return score_rows(model.name, batch, settings.cams, np.zeros((len(PER_ROW), len(batch))), compared), {}


SCIENCE: Mapping[str, Mapping[str, Any]] = {
    "camrobust.run.stages.load": {
        "read_object": no_bytes, "decode": photo, "segment": squares, "characteristics": no_characteristics,
    },
    "camrobust.run.stages.perturb": {"make_variants": grey},
    "camrobust.run.stages.explain": {"measure": constant_rows},
}  # fmt: skip
"""Module of a stage, and the functions there that are replaced: all that is science, and nothing else."""


@contextmanager
def without_science() -> Iterator[None]:
    """Replace the science of all stages in this process."""
    with ExitStack() as stack:
        for module, functions in SCIENCE.items():
            stack.enter_context(patch.multiple(module, **functions))
        yield


class _WithoutScience:
    """What the stubs add to the stages of a run."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """What the stage makes of the batch with constants in the place of its science."""
        with without_science():
            return super().__call__(batch)  # type: ignore[misc]


class StubLoad(_WithoutScience, Load):
    """Load without reading, decoding and segmenting."""


class StubPerturb(_WithoutScience, Perturb):
    """Perturb without perturbations."""


class StubExplain(_WithoutScience, Explain):
    """Explain without a network, CAMs and comparisons."""


class RehearsedExplain(Explain):
    """Explain without a network, CAMs and comparisons; all other stages of a rehearsal are those of a run."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """What the stage makes of the batch with constant rows."""
        with patch("camrobust.run.stages.explain.measure", constant_rows):
            return super().__call__(batch)


class TimedCommit(Commit):
    """Commit as it is, with its processor time in one column more."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `MEASURED` to one row of `COMMITTED` and `cpu_s`."""
        before = time.process_time()
        done = super().__call__(batch)
        return done.append_column("cpu_s", [[time.process_time() - before]])


_MADE: dict[tuple[type, int], pa.Table] = {}
"""What a stub has made in this process for so many rows."""


class Replayed:
    """Returns what a stub made for as many rows, without looking at the rows."""

    stub: type

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.stage = self.stub(*arguments, **keywords)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows that the stub makes of the first batch of this length."""
        key = type(self), batch.num_rows
        if key not in _MADE:
            _MADE[key] = self.stage(batch)
        return _MADE[key]


class ReplayedLoad(Replayed):
    """In the place of Load."""

    stub = StubLoad


class ReplayedPerturb(Replayed):
    """In the place of Perturb."""

    stub = StubPerturb


class ReplayedExplain(Replayed):
    """In the place of Explain."""

    stub = StubExplain


class ReplayedCommit(Replayed):
    """In the place of Commit."""

    stub = TimedCommit


STUBS = Kinds(StubLoad, StubPerturb, StubExplain, TimedCommit)
REHEARSED = Kinds(explain=RehearsedExplain)
REPLAYED = Kinds(ReplayedLoad, ReplayedPerturb, ReplayedExplain, ReplayedCommit)
