"""Fetch, decode, crop, segment: tasks on CPUs."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from camrobust.contract.config import RunConfig
from camrobust.core.segments import segment
from camrobust.io.decoding_memory import MIB
from camrobust.io.image_characteristics import characteristics
from camrobust.io.image_errors import ImageError
from camrobust.io.images import MAX_BYTES, decode
from camrobust.io.memory_limit import memory_limit, private_bytes
from camrobust.io.objects import DeniedObjectError, MissingObjectError, TooLargeObjectError
from camrobust.io.places import MOST_BYTES, Place, parse_place
from camrobust.io.readings import Reading, readings, too_large
from camrobust.io.retries import patient
from camrobust.io.store import read_object
from camrobust.run.ledger import ImagePart, Watch
from camrobust.run.stages.batches import (
    KEYS,
    PROPERTIES,
    QUARANTINED,
    Failure,
    batch_of,
    failure_columns,
    loaded_fields,
    pixel_type,
    tensor_column,
)

FETCHES = ((16 * MIB, 8), (64 * MIB, 2), (MAX_BYTES, 1))
"""Largest file, and how many files of that size are fetched at once: at most 128 MiB wait for decoding, or one file."""
LOAD_BYTES = 992 * MIB
"""A Load worker may grow by this much: less than 1 GiB."""


@dataclass(frozen=True)
class _Loaded:
    """An image ready to be perturbed, or why there is none.

    Attributes:
        pixels: the crop, (3, H, W) uint8, or (C, H, W) float32 for other numbers of channels.
        segments: (H, W) int32.
        properties: columns of `schema.IMAGES`.
        failure: what went wrong; everything else is empty then.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32] | None = None
    segments: NDArray[np.int32] | None = None
    properties: Mapping[str, float | None] = field(default_factory=dict)
    failure: Failure | None = None


class Load:
    """Fetch, decode, crop and segment images; an image that cannot be used goes on as a failure."""

    def __init__(self, config: RunConfig, ledger: Any = None) -> None:
        self.config = config
        self.watch = Watch("load", ledger, config.cluster.image_timeout_s)
        self.access = {dataset.name: dataset.access for dataset in config.datasets}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `PENDING` to rows of `LOADED`."""
        with patient(self.watch.tell):
            return self._loaded(batch)

    def _loaded(self, batch: pa.Table) -> pa.Table:
        idle = private_bytes()
        most = None if idle is None else idle + LOAD_BYTES
        datasets, names, uris, inside = (batch[name].to_pylist() for name in ("dataset", "image_id", "uri", "place"))
        items = [ImagePart(dataset, name, 0) for dataset, name in zip(datasets, names, strict=True)]
        load = partial(self._load_all, datasets, list(zip(uris, inside, strict=True)), most)
        images = self.watch.over_all(items, load, _quarantined)
        columns = {name: batch[name] for name in (*KEYS, "parts")}
        columns |= {name: [image.properties.get(name) for image in images] for name in PROPERTIES}
        columns["pixels"] = tensor_column([image.pixels for image in images], pixel_type(self.config.channels))
        columns["segments"] = tensor_column([image.segments for image in images], "int32")
        return batch_of(
            loaded_fields(self.config.channels), columns | failure_columns([image.failure for image in images])
        )

    def _load_all(
        self, datasets: Sequence[str], files: Sequence[tuple[str, str | None]], most: int | None, places: Sequence[int]
    ) -> list[_Loaded]:
        """Fetch several images at once, decode one after the other; large files wait until the small are gone."""
        loaded: dict[int, _Loaded] = {}
        jobs, odd = _jobs(datasets, files, places)
        loaded |= {place: self._load(error, most) for place, error in odd.items()}
        with ThreadPoolExecutor(FETCHES[0][1]) as pool:
            for size, together in FETCHES:
                larger: list[_Job] = []
                for start in range(0, len(jobs), together):
                    group = jobs[start : start + together]
                    contents = list(pool.map(partial(self._fetch, most=size), group))
                    for job in group:
                        self.watch.renew()
                        if size < MAX_BYTES and _is_larger(contents[0]):
                            larger.append(job)
                            contents.pop(0)
                            continue
                        # No name here holds the bytes, so that they are gone when the next file is fetched.
                        found = _limited(job.pictures(contents.pop(0)), most)
                        for place, content in zip(job.places, found, strict=True):
                            self.watch.renew()
                            loaded[place] = self._load(content, most)
                jobs = larger
        return [loaded[place] for place in places]

    def _fetch(self, job: "_Job", most: int) -> list[bytes] | ImageError:
        """The bytes. A missing or forbidden object is its own failure; a failing store is the run's."""
        access = self.access[job.dataset]
        try:
            if job.reading is None:
                return [read_object(job.uri, access, most)]
            if job.reading.size_bytes > min(most, MOST_BYTES):
                return too_large(job.uri)
            return job.reading.read(access)
        except MissingObjectError as error:
            return ImageError(str(error), "missing")
        except TooLargeObjectError as error:
            return ImageError(str(error), "too_large")
        except DeniedObjectError as error:
            return ImageError(str(error), "denied")

    def _load(self, content: bytes | ImageError, most: int | None) -> _Loaded:
        image = self.config.image
        try:
            if isinstance(content, ImageError):
                raise content
            with memory_limit(most):
                photo = decode(
                    content, image.resize, image.crop, self.config.channels, interpolation=image.interpolation,
                    squash=image.aspect == "squash",
                )  # fmt: skip
        except ImageError as error:
            return _Loaded(failure=Failure("load", error.kind, error.message))
        settings = self.config.segments
        labels = segment(torch.from_numpy(photo.pixels)[None], settings.method, **settings.parameters)
        segments = labels[0].numpy().astype(np.int32)
        sizes = {"width": photo.width, "height": photo.height, "n_segments": int(segments.max()) + 1}
        return _Loaded(photo.pixels, segments, sizes | characteristics(photo.pixels))


def _limited(found: Iterator[bytes | ImageError], most: int | None) -> Iterator[bytes | ImageError]:
    """The same, unpacked within the memory of a worker."""
    while True:
        with memory_limit(most):
            content = next(found, None)
        if content is None:
            return
        yield content


@dataclass(frozen=True)
class _Job:
    """What is fetched at once: a file, or some pictures of a file that holds many.

    Attributes:
        dataset: name of the dataset.
        uri: address of the file.
        places: places of its images in the batch.
        reading: how pictures are read from it; None for a file that is one image.
    """

    dataset: str
    uri: str
    places: tuple[int, ...]
    reading: Reading | None = None

    def pictures(self, contents: list[bytes] | ImageError) -> Iterator[bytes | ImageError]:
        """The bytes of every image; gives up its hold on the contents of a whole file."""
        if isinstance(contents, ImageError):
            yield from [contents] * len(self.places)
        elif self.reading is None:
            yield contents.pop()
        else:
            yield from self.reading.pictures(contents)


def _jobs(
    datasets: Sequence[str], files: Sequence[tuple[str, str | None]], places: Sequence[int]
) -> tuple[list[_Job], dict[int, ImageError]]:
    """What is fetched for the images at some places, and which of them lie where this version cannot read."""
    jobs = [_Job(datasets[place], files[place][0], (place,)) for place in places if files[place][1] is None]
    inside: dict[str, dict[int, tuple[str, Place]]] = {}
    odd: dict[int, ImageError] = {}
    for place in places:
        uri, text = files[place]
        if text is not None:
            try:
                inside.setdefault(datasets[place], {})[place] = (uri, parse_place(text))
            except ImageError as error:
                odd[place] = error
    for dataset, wanted in inside.items():
        jobs += [_Job(dataset, reading.uri, reading.numbers, reading) for reading in readings(wanted)]
    return jobs, odd


def _quarantined(why: str) -> _Loaded:
    return _Loaded(failure=Failure("load", QUARANTINED, why))


def _is_larger(content: list[bytes] | ImageError) -> bool:
    """Whether a file was left unread because it is larger than asked for."""
    return isinstance(content, ImageError) and content.kind == "too_large"
