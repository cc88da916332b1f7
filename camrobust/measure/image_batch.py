"""Several images with their variants as one sequence of rows, and what all models share of it."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from camrobust.core.draws import Draws
from camrobust.core.segments import segment_matrices
from camrobust.core.segments.matrix import TILE
from camrobust.measure.settings import ImageVariants
from camrobust.measure.transfer import to_device

SEGMENT_BYTES = 64 * 2**20
"""Most memory for turning segments into matrices."""
BYTES_PER_PIXEL = 56
"""What that takes for each pixel of an image."""


def _room(segments: int, device: torch.device) -> int:
    """Rows of a matrix for so many segments: whole tiles; on a GPU a power of two of them, so that shapes are few."""
    tiles = -(-segments // TILE)
    return TILE * (2 ** (tiles - 1).bit_length() if device.type == "cuda" else tiles)


class ImageBatch:
    """B images whose variants follow one another, N rows in all; every image begins with its clean row.

    Segments are turned into matrices once for all passes.

    Args:
        images: the images; all of one size in pixels.
    """

    def __init__(self, images: Sequence[ImageVariants]) -> None:
        self.images = tuple(images)
        self.starts = np.cumsum([0, *(len(image.pixels) for image in images)])
        self.owner = np.repeat(np.arange(len(images)), np.diff(self.starts))
        self.clean = self.starts[self.owner]
        self._segments: dict[tuple[torch.device, int, int], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.owner)

    @cached_property
    def is_noisy(self) -> np.ndarray:
        """Which rows hold a perturbed variant, (N,) bool."""
        noisy: np.ndarray = self.clean != np.arange(len(self))
        return noisy

    @cached_property
    def labels(self) -> np.ndarray:
        """The true class of every image, (B,) int64, -1 where unknown."""
        return np.array([-1 if image.sample.label is None else image.sample.label for image in self.images])

    @cached_property
    def sizes(self) -> np.ndarray:
        """The number of segments of every image, (B,) int64."""
        return np.array([image.sample.count for image in self.images])

    def segments(self, rows: range, device: torch.device, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What turns the maps (h, w) of some rows into scores of segments.

        Returns:
            The images' matrices (B, M, h·w), M at least the largest number of segments among these rows; and the
            numbers of segments of all images (B,).
        """
        key = (device, height, width)
        if key not in self._segments:
            self._segments[key] = self._matrices(device, height, width), to_device([self.sizes], device)
        matrices, sizes = self._segments[key]
        most = int(self.sizes[self.owner[rows.start] : self.owner[rows.stop - 1] + 1].max())
        return matrices[:, : _room(most, device)], sizes

    def _matrices(self, device: torch.device, height: int, width: int) -> Tensor:
        """The matrices of all images; only so many are made together as `SEGMENT_BYTES` allow."""
        matrices = torch.zeros(len(self.images), _room(int(self.sizes.max()), device), height * width, device=device)
        step = max(1, SEGMENT_BYTES // (BYTES_PER_PIXEL * self.images[0].sample.segments.numel()))
        for start in range(0, len(self.images), step):
            some = slice(start, start + step)
            labels = torch.stack([image.sample.segments for image in self.images[some]]).numpy()
            on_device = to_device([labels], device).long()
            made = segment_matrices(on_device, height, width, self.sizes[some].tolist())
            matrices[some, : made.shape[1]] = made
        return matrices

    def slices(self, rows: range) -> list[tuple[int, slice]]:
        """Consecutive rows as pieces of images: the number of each image, and where in it the piece lies."""
        pieces = []
        for image in range(self.owner[rows.start], self.owner[rows.stop - 1] + 1):
            first, stop = self.starts[image], self.starts[image + 1]
            pieces.append((image, slice(max(rows.start, first) - first, min(rows.stop, stop) - first)))
        return pieces

    @cached_property
    def _strengths(self) -> list[str]:
        """The name of every row's random stream within its image."""
        return [
            name
            for image in self.images
            for name in ("clean", *(f"{one.perturbation}:{one.strength}:{one.replicate}" for one in image.variants))
        ]

    def draws(self, rows: Sequence[int], seed: int, device: torch.device) -> Draws:
        """One random stream per row, for CAMs that draw."""
        samples = [self.images[self.owner[row]].sample for row in rows]
        return Draws.join(
            [
                Draws.of(seed, sample.dataset, [sample.image_id], "cam", self._strengths[row], 0, device)
                for sample, row in zip(samples, rows, strict=True)
            ]
        )
