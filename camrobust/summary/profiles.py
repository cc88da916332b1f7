"""What each image gives under each model and CAM: blocks of the tests, and what characteristics are held against."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camrobust.summary.pairs import Array, PairSums, starts_of
from camrobust.summary.rows import CERTAINTY, Block

Kept = NDArray[np.float32]
MEASURES = {
    "consistency": (0, 0),
    "responsiveness": (0, 1),
    "consistency_adjusted": (1, 0),
    "responsiveness_adjusted": (1, 1),
}
"""What is kept of every image: form and side of `pairs.PairSums`."""


@dataclass(frozen=True)
class Profile:
    """Means of N images under one model; NaN where an image has no such pair.

    Attributes:
        dataset: its name.
        model: its name.
        images: N ids, the same for all models of a dataset.
        cams: K names.
        families: F names of perturbation families.
        measures: (N, K) by name of `MEASURES`.
        by_family: (N, K, F) adjusted consistency.
        certainty: (N,) by name of `coded.CERTAINTY`, how sure the model is of the clean image.
        perturbation: whose pairs these are alone; None for all perturbations together.
    """

    dataset: str
    model: str
    images: list[str]
    cams: list[str]
    families: list[str]
    measures: Mapping[str, Kept]
    by_family: Kept
    certainty: Mapping[str, Kept]
    perturbation: str | None = None

    def measure(self, name: str) -> Kept:
        """(N, K); an image's robustness is its consistency times its responsiveness."""
        _, product, suffix = name.partition("robustness")
        if product:
            return self.measures[f"consistency{suffix}"] * self.measures[f"responsiveness{suffix}"]
        return self.measures[name]

    def without(self, images: Collection[str]) -> "Profile":
        """The same of all other images."""
        kept = np.array([image not in images for image in self.images], bool)
        return replace(
            self,
            images=[image for image in self.images if image not in images],
            measures={name: values[kept] for name, values in self.measures.items()},
            by_family=self.by_family[kept],
            certainty={name: values[kept] for name, values in self.certainty.items()},
        )


@dataclass(frozen=True)
class _Piece:
    """A block's part of a profile: vectors by (cam, column)."""

    columns: Mapping[tuple[str, str], Kept]
    certainty: Mapping[str, Kept]


@dataclass
class Profiles:
    """Profiles as they grow, block by block.

    Attributes:
        families: perturbation to family; one that is not named is its own.
        alone: a profile of every perturbation, instead of one of all together.
    """

    families: Mapping[str, str]
    alone: bool = False
    _images: dict[str, list[list[str]]] = field(default_factory=dict)
    _pieces: dict[tuple[str, str, str], dict[int, _Piece]] = field(default_factory=dict)
    _dataset: str = ""
    _kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def begin(self, block: Block, kept: NDArray[np.bool_]) -> None:
        """Take up a block, of which some images are kept."""
        self._dataset, self._kept = block.dataset, kept
        images = [image for image, wanted in zip(block.images, kept, strict=True) if wanted]
        self._images.setdefault(block.dataset, []).append(images)

    def add(
        self, model: str, pairs: PairSums, groups: Sequence[tuple[str, str]], certainty: Mapping[str, Array]
    ) -> None:
        """Take one model's sums over the images of the block, by (CAM, perturbation)."""
        sums, counts = (
            [part if self._kept.all() else part[:, self._kept] for part in parts]
            for parts in (pairs.sums, pairs.counts)
        )
        number = len(self._images[self._dataset]) - 1
        sure = {name: one[self._kept].astype(np.float32) for name, one in certainty.items()}
        for perturbation, places in self._parts(groups):
            here = [groups[place] for place in np.arange(len(groups))[places]]
            total, n = ([part[..., places] for part in parts] for parts in (sums, counts))
            piece = _Piece(self._columns(total, n, here), sure)
            self._pieces.setdefault((self._dataset, model, perturbation), {})[number] = piece

    def _parts(self, groups: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
        """Every perturbation with the places of its groups; no name and all places where they are taken together."""
        if not self.alone:
            yield "", slice(None)
            return
        names = np.array([name for _, name in groups])
        for name in np.unique(names):
            yield str(name), np.flatnonzero(names == name)

    def _columns(
        self, sums: Sequence[Array], counts: Sequence[Array], groups: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], Kept]:
        """Means by (CAM, measure) and (CAM, family)."""
        starts, cams = starts_of([group[:1] for group in groups])
        columns: dict[tuple[str, str], Kept] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [
                np.add.reduceat(total, starts, axis=-1) / np.add.reduceat(n, starts, axis=-1)
                for total, n in zip(sums, counts, strict=True)
            ]
            for place, (cam,) in enumerate(cams):
                for name, (form, side) in MEASURES.items():
                    columns[cam, name] = means[form][side, :, place].astype(np.float32)
            for (cam, family), members in self._by_family(groups).items():
                total, n = (part[1][0][:, members].sum(axis=1) for part in (sums, counts))
                columns[cam, f"family {family}"] = (total / n).astype(np.float32)
        return columns

    def _by_family(self, groups: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = {}
        for place, (cam, perturbation) in enumerate(groups):
            found.setdefault((cam, self.families.get(perturbation, perturbation)), []).append(place)
        return found

    def finished(self) -> list[Profile]:
        """All of them, sorted by dataset, model and perturbation."""
        return [self._profile(*key) for key in sorted(self._pieces)]

    def _profile(self, dataset: str, model: str, perturbation: str) -> Profile:
        pieces, blocks = self._pieces[dataset, model, perturbation], self._images[dataset]
        named = sorted({key for piece in pieces.values() for key in piece.columns})
        cams = sorted({cam for cam, _ in named})
        families = sorted({name.removeprefix("family ") for _, name in named if name.startswith("family ")})
        found = [pieces.get(number, _Piece({}, {})) for number in range(len(blocks))]

        def whole(parts: Iterable[Kept | None]) -> Kept:
            """Over all blocks, NaN for the images of those that lack it."""
            each = zip(parts, blocks, strict=True)
            return np.concatenate([_missing(images) if part is None else part for part, images in each])

        def by_cam(name: str) -> Kept:
            """(N, K)."""
            columns = [whole(one.columns.get((cam, name)) for one in found) for cam in cams]
            return np.stack(columns, axis=1)

        return Profile(
            dataset,
            model,
            [image for images in blocks for image in images],
            cams,
            families,
            {name: by_cam(name) for name in MEASURES},
            np.stack([by_cam(f"family {name}") for name in families], axis=2),
            {name: whole(one.certainty.get(name) for one in found) for name in CERTAINTY},
            perturbation or None,
        )


def _missing(images: Sequence[str]) -> Kept:
    return np.full(len(images), np.nan, np.float32)
