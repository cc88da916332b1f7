"""Fetch, decode, crop, segment."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from camrobust.contract.config import RunConfig
from camrobust.core.segments import segment
from camrobust.io.ceiling import ceiling, private_bytes
from camrobust.io.codecs import MIB
from camrobust.io.images import MAX_BYTES, Photo, characteristics, decode
from camrobust.io.objects import DeniedObjectError, MissingObjectError, TooLargeObjectError
from camrobust.io.refusals import ImageError
from camrobust.io.store import read_object
from camrobust.run.ledger import Watch
from camrobust.run.stages.batches import ERROR, KEYS, QUARANTINED, Batch

FETCHES = ((16 * MIB, 8), (64 * MIB, 2), (MAX_BYTES, 1))
"""Largest file and how many such are fetched at once: 128 MiB wait for decoding at most, or one file."""
LOAD_BYTES = 992 * MIB
"""By how much a Load worker may grow: less than 1 GiB."""


class Load:
    """Fetch, decode, crop, segment: one row per image; an image that cannot be used goes on as a failure."""

    def __init__(self, config: RunConfig, ledger: Any = None) -> None:
        self.config = config
        self.watch = Watch("load", ledger, config.cluster.image_timeout_s)
        self.access = {one.name: one.access for one in config.datasets}

    def __call__(self, batch: Batch) -> Batch:
        """Rows of the manifest to rows with pixels (3, H, W) and segments (H, W)."""
        idle = private_bytes()
        most = None if idle is None else idle + LOAD_BYTES
        rows: dict[int, dict[str, Any]] = {}
        for dataset in dict.fromkeys(batch["dataset"]):
            places = np.flatnonzero(batch["dataset"] == dataset).tolist()
            uris = [str(batch["uri"][place]) for place in places]
            names = [str(batch["image_id"][place]) for place in places]
            work = partial(self._load_some, str(dataset), uris, most)
            rows |= zip(places, self.watch.over_all(str(dataset), names, work, self._refused), strict=True)
        loaded = {name: np.stack([rows[place][name] for place in range(len(rows))]) for name in rows[0]}
        return {name: batch[name] for name in KEYS} | loaded

    def _load_some(
        self, dataset: str, uris: Sequence[str], most: int | None, places: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Fetch several images at once, decode one after the other; large files wait until the small are gone."""
        rows: dict[int, dict[str, Any]] = {}
        left = list(places)
        for size, together in FETCHES:
            larger: list[int] = []
            for start in range(0, len(left), together):
                group = left[start : start + together]
                with ThreadPoolExecutor(together) as pool:
                    contents = list(pool.map(lambda place: self._fetch(uris[place], dataset, size), group))  # noqa: B023
                for place in group:
                    self.watch.renew()
                    if size < MAX_BYTES and _is_larger(contents[0]):
                        larger.append(place)
                        contents.pop(0)
                    else:
                        # No name here holds the bytes, so that they are gone when the next file is fetched.
                        rows[place] = self._load(contents.pop(0), most)
            left = larger
        return [rows[place] for place in places]

    def _fetch(self, uri: str, dataset: str, most: int) -> bytes | ImageError:
        """The bytes; that an object is gone or forbidden is its failure, a failing store the run's."""
        try:
            return read_object(uri, self.access[dataset], most)
        except MissingObjectError as error:
            return ImageError(str(error), "missing")
        except TooLargeObjectError as error:
            return ImageError(str(error), "too_large")
        except DeniedObjectError as error:
            return ImageError(str(error), "denied")

    def _load(self, content: bytes | ImageError, most: int | None) -> dict[str, Any]:
        image = self.config.image
        try:
            if isinstance(content, ImageError):
                raise content
            with ceiling(most):
                photo = decode(content, image.resize, image.crop)
        except ImageError as error:
            return self._failed(error.kind, error.message)
        settings = self.config.segments
        labels = segment(torch.from_numpy(photo.pixels)[None], settings.method, **settings.parameters)
        return self._row(photo, labels[0].numpy().astype(np.int32), ("", "", ""))

    def _refused(self, why: str) -> dict[str, Any]:
        return self._failed(QUARANTINED, why)

    def _failed(self, kind: str, message: str) -> dict[str, Any]:
        crop = self.config.image.crop
        empty = Photo(np.zeros((3, crop, crop), np.uint8), 0, 0)
        return self._row(empty, np.zeros((crop, crop), np.int32), ("load", kind, message))

    def _row(self, photo: Photo, segments: NDArray[np.int32], error: tuple[str, str, str]) -> dict[str, Any]:
        row: dict[str, Any] = {"pixels": photo.pixels, "segments": segments}
        row |= {"width": photo.width, "height": photo.height}
        row |= characteristics(photo.pixels)
        return row | dict(zip(ERROR, error, strict=True))


def _is_larger(content: bytes | ImageError) -> bool:
    """Whether a file was left unread, as it is larger than was asked for."""
    return isinstance(content, ImageError) and content.kind == "too_large"
