"""The mean agreement of each image under each model and CAM: the data of tests and characteristics."""

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
"""Measures of an image, and the form and side of `pairs.PairSums` that hold them."""


@dataclass(frozen=True)
class Profile:
    """Means of N images under one model; NaN for an image that has no such pair.

    Attributes:
        dataset: name of the dataset.
        model: name of the model.
        images: N image ids, the same for all models of a dataset.
        cams: K names of CAMs.
        families: F names of perturbation families.
        measures: (N, K) means by name of `MEASURES`.
        by_family: (N, K, F) adjusted consistency.
        certainty: (N,) by name of `rows.CERTAINTY`, how certain the model is about the clean image.
        perturbation: the only perturbation of these pairs; None for all perturbations together.
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
        """(N, K) values of a measure; the robustness of an image is its consistency times its responsiveness."""
        _, product, suffix = name.partition("robustness")
        if product:
            return self.measures[f"consistency{suffix}"] * self.measures[f"responsiveness{suffix}"]
        return self.measures[name]

    def of_cam(self, name: str, cam: str) -> Kept:
        """(N,) values of a measure for one CAM."""
        return self.measure(name)[:, self.cams.index(cam)]

    def of_family(self, cam: str, family: str) -> Kept:
        """(N,) adjusted consistency of one CAM under one family of perturbations."""
        return self.by_family[:, self.cams.index(cam), self.families.index(family)]

    def without(self, images: Collection[str]) -> "Profile":
        """The same profile without some images."""
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
    """The part of a profile that one block gives: vectors by (CAM, measure or family)."""

    columns: Mapping[tuple[str, str], Kept]
    certainty: Mapping[str, Kept]


@dataclass
class Profiles:
    """Profiles that grow block by block.

    Attributes:
        families: perturbation to family; a perturbation that is not named is its own family.
        alone: one profile per perturbation, instead of one for all perturbations together.
    """

    families: Mapping[str, str]
    alone: bool = False
    _images: dict[str, list[list[str]]] = field(default_factory=dict)
    _pieces: dict[tuple[str, str, str], dict[int, _Piece]] = field(default_factory=dict)
    _dataset: str = ""
    _kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def begin(self, block: Block, kept: NDArray[np.bool_]) -> None:
        """Start a block; `kept` says which of its images enter the profiles."""
        self._dataset, self._kept = block.dataset, kept
        images = [image for image, wanted in zip(block.images, kept, strict=True) if wanted]
        self._images.setdefault(block.dataset, []).append(images)

    def add(
        self, model: str, pairs: PairSums, groups: Sequence[tuple[str, str]], certainty: Mapping[str, Array]
    ) -> None:
        """Add the sums of one model over the images of the block, by (CAM, perturbation)."""
        sums, counts = (
            [part if self._kept.all() else part[:, self._kept] for part in parts]
            for parts in (pairs.sums, pairs.counts)
        )
        number = len(self._images[self._dataset]) - 1
        certain = {name: values[self._kept].astype(np.float32) for name, values in certainty.items()}
        for perturbation, places in self._parts(groups):
            groups_here = [groups[place] for place in np.arange(len(groups))[places]]
            total, n = ([part[..., places] for part in parts] for parts in (sums, counts))
            piece = _Piece(self._columns(total, n, groups_here), certain)
            self._pieces.setdefault((self._dataset, model, perturbation), {})[number] = piece

    def _parts(self, groups: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
        """Every perturbation with the positions of its groups; an empty name and all positions if taken together."""
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
        members: dict[tuple[str, str], list[int]] = {}
        for place, (cam, perturbation) in enumerate(groups):
            members.setdefault((cam, self.families.get(perturbation, perturbation)), []).append(place)
        return members

    def finished(self) -> list[Profile]:
        """All profiles, sorted by dataset, model and perturbation."""
        return [self._profile(*key) for key in sorted(self._pieces)]

    def _profile(self, dataset: str, model: str, perturbation: str) -> Profile:
        pieces, blocks = self._pieces[dataset, model, perturbation], self._images[dataset]
        images = [image for block in blocks for image in block]
        # In one order, whichever images the blocks hold, as the tests add up over images.
        order = sorted(range(len(images)), key=images.__getitem__)
        named = sorted({key for piece in pieces.values() for key in piece.columns})
        cams = sorted({cam for cam, _ in named})
        families = sorted({name.removeprefix("family ") for _, name in named if name.startswith("family ")})
        by_block = [pieces.get(number, _Piece({}, {})) for number in range(len(blocks))]

        def whole(parts: Iterable[Kept | None]) -> Kept:
            """One vector over all blocks, by image id; NaN for the images of a block without it."""
            each = zip(parts, blocks, strict=True)
            return np.concatenate([_missing(block) if part is None else part for part, block in each])[order]

        def by_cam(name: str) -> Kept:
            """(N, K) values, one column per CAM."""
            columns = [whole(piece.columns.get((cam, name)) for piece in by_block) for cam in cams]
            return np.stack(columns, axis=1)

        return Profile(
            dataset,
            model,
            [images[place] for place in order],
            cams,
            families,
            {name: by_cam(name) for name in MEASURES},
            np.stack([by_cam(f"family {name}") for name in families], axis=2),
            {name: whole(piece.certainty.get(name) for piece in by_block) for name in CERTAINTY},
            perturbation or None,
        )


def _missing(images: Sequence[str]) -> Kept:
    return np.full(len(images), np.nan, np.float32)
