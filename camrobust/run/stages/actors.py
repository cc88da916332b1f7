"""What runs on the cluster's machines: thin, load once, call the science.

Batches are dictionaries of numpy arrays and may be read-only (Ray hands out shared memory), so nothing writes in place.
"""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.config import RunConfig
from camrobust.contract.schema import CLEAN, FAILURES, IMAGES, MAPS, SCORES
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import Variant, make_variants
from camrobust.core.segments import segment
from camrobust.io.decoding_memory import MIB
from camrobust.io.image_characteristics import characteristics
from camrobust.io.image_errors import ImageError
from camrobust.io.images import MAX_BYTES, Photo, decode
from camrobust.io.memory_limit import memory_limit, private_bytes
from camrobust.io.objects import DeniedObjectError, MissingObjectError, TooLargeObjectError
from camrobust.io.store import read_object
from camrobust.measure.image import Columns, Explained, Sample, measure
from camrobust.measure.model import Model, bytes_per_image
from camrobust.results.arrow import make_table, pack, unpack
from camrobust.results.commits import Unit, write_commit
from camrobust.results.folder import open_run
from camrobust.run.ledger import Watch
from camrobust.run.plan import build, settings_of

Batch = dict[str, Any]
UNKNOWN_LABEL = -1
FETCHES = ((16 * MIB, 8), (64 * MIB, 2), (MAX_BYTES, 1))
"""Largest file and how many such are fetched at once: 128 MiB wait for decoding at most, or one file."""
LOAD_BYTES = 992 * MIB
"""By how much a Load worker may grow: less than 1 GiB."""
QUARANTINED = "quarantined"
GALLERY_VARIANTS = 12
"""Most variants of a gallery image whose maps are kept."""
GPUS_PER_EXPLAINER = 0.8
AUTO_BATCH = {"cpu": 8, "cuda": 64}
"""Most variants in one forward pass, where memory holds them."""
MEMORY_SHARE = 0.5
"""Of the memory that is free when a worker starts: what one forward pass may take."""

PROPERTIES = ("brightness", "contrast", "colourfulness", "edge_density", "high_frequency")
KEYS = ("dataset", "image_id", "label", "parts")
ERROR = ("stage", "kind", "message")


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
            with memory_limit(most):
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


@dataclass(frozen=True)
class _Row:
    """One image's part as it reaches the Explain actor; the first of those that are still to be measured."""

    sample: Sample
    part: int
    first: bool
    pixels: torch.Tensor
    properties: dict[str, Any]
    error: dict[str, str] | None


@dataclass(frozen=True)
class _Failed:
    """Why one model has no scores of one image."""

    kind: str
    message: str


def auto_batch(models: Sequence[Model], config: RunConfig, device: str, free_bytes: int | None = None) -> int:
    """Variants in one forward pass, by the memory that a worker has.

    Args:
        models: of the run, loaded.
        config: of the run.
        device: cpu or cuda.
        free_bytes: this worker's share of the device's memory, None to look.
    """
    if free_bytes is None:
        free_bytes = _free_bytes(config, device)
    need = max(bytes_per_image(model, config.image.crop) for model in models)
    return int(max(1, min(AUTO_BATCH[device], MEMORY_SHARE * free_bytes // max(1, need))))


def _free_bytes(config: RunConfig, device: str) -> int:
    """Free memory of the device; a GPU is shared by fractions, a machine's memory by its cores."""
    if device == "cuda":
        share = config.cluster.gpus_per_explainer or GPUS_PER_EXPLAINER
        return int(torch.cuda.mem_get_info()[0] * min(1.0, share))
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return available // (os.cpu_count() or 1)


class Explain:
    """All models of the run on one device: variants in, packed result tables out, one row per image and part."""

    def __init__(
        self,
        config: RunConfig,
        parts: Sequence[Sequence[Variant]],
        gallery: frozenset[tuple[str, str]],
        weights: Mapping[str, str | None],
        device: str,
        ledger: Any = None,
    ) -> None:
        self.config, self.parts, self.gallery = config, parts, gallery
        self.watch = Watch("explain", ledger, config.cluster.image_timeout_s)
        self.models = [build(one, config.image.crop, device, sha256=weights.get(one.name)) for one in config.models]
        batch = config.cluster.batch
        self.settings = settings_of(config, auto_batch(self.models, config, device) if batch == "auto" else batch)

    def __call__(self, batch: Batch) -> Batch:
        """Rows with variants to rows of four packed tables, named as the fields of `results.commits.Unit`."""
        rows = [self._measure(_row(batch, number)) for number in range(len(batch["image_id"]))]
        return {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}

    def _measure(self, row: _Row) -> dict[str, Any]:
        scores: list[pa.Table] = [make_table(SCORES, [])]
        failures: list[dict[str, Any]] = []
        maps: list[dict[str, Any]] = []
        sample, variants = row.sample, self.parts[row.part]
        loaded = row.error is None or row.error["stage"] != "load"
        if row.error is not None:
            # What failed in loading failed for every part, and is said once.
            failures += [_failure(sample, None, row.error)] if row.first or loaded else []
        else:
            for model in self.models:
                found = self._guarded(model, row, variants)
                if isinstance(found, _Failed):
                    error = {"stage": "explain", "kind": found.kind, "message": found.message}
                    failures.append(_failure(sample, model.name, error))
                    continue
                columns, explained = found
                scores.append(make_table(SCORES, columns))
                if row.part == 0 and (sample.dataset, sample.image_id) in self.gallery:
                    maps += _gallery(model, row, variants, explained, first=model is self.models[0], config=self.config)
        image = [row.properties] if row.part == 0 and loaded else []
        return {
            "dataset": sample.dataset,
            "image_id": sample.image_id,
            "part": row.part,
            "scores": pack(pa.concat_tables(scores)),
            "images": pack(make_table(IMAGES, image)),
            "failures": pack(make_table(FAILURES, failures)),
            "maps": pack(make_table(MAPS, maps)),
        }

    def _guarded(self, model: Model, row: _Row, variants: Sequence[Variant]) -> tuple[Columns, Explained] | _Failed:
        return self.watch.over(
            row.sample.dataset,
            row.sample.image_id,
            lambda: self._one_model(model, row, variants),
            lambda why: _Failed(QUARANTINED, why),
            part=row.part,
            model=model.name,
        )

    def _one_model(self, model: Model, row: _Row, variants: Sequence[Variant]) -> tuple[Columns, Explained] | _Failed:
        """Scores and maps, or what went wrong: one model's trouble with one image must not end the run."""
        try:
            return measure(model, row.sample, row.pixels[: len(variants) + 1], variants, self.settings)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - model code may raise anything; it becomes a failure row
            return _Failed("error", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _row(batch: Batch, number: int) -> _Row:
    cells = {name: values[number] for name, values in batch.items()}
    label = None if int(cells["label"]) == UNKNOWN_LABEL else int(cells["label"])
    segments = torch.from_numpy(cells["segments"].astype(np.int64))
    sample = Sample(str(cells["dataset"]), str(cells["image_id"]), label, segments)
    properties: dict[str, Any] = {
        "dataset": sample.dataset,
        "image_id": sample.image_id,
        "label": label,
        "width": int(cells["width"]),
        "height": int(cells["height"]),
        "n_segments": int(segments.max()) + 1,
        **{name: float(cells[name]) for name in PROPERTIES},
    }
    error = {name: str(cells[name]) for name in ERROR} if cells["kind"] else None
    pixels = torch.from_numpy(cells["variants"].copy())
    return _Row(sample, int(cells["part"]), bool(cells["first"]), pixels, properties, error)


def _failure(sample: Sample, model: str | None, error: dict[str, str]) -> dict[str, Any]:
    return {"dataset": sample.dataset, "image_id": sample.image_id, "model": model, **error}


def _scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each map from 0 to 1, as it is drawn; so that half precision holds it whatever its magnitude."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def _gallery(
    model: Model, row: _Row, variants: Sequence[Variant], explained: Explained, *, first: bool, config: RunConfig
) -> list[dict[str, Any]]:
    """Rows of `schema.MAPS`: the clean variant and at most `GALLERY_VARIANTS` of the others, evenly chosen."""
    chosen = np.unique(np.linspace(1, len(variants), min(GALLERY_VARIANTS, len(variants))).round().astype(int))
    maps = _scaled(explained.maps).cpu().numpy().astype("<f2")
    rows = []
    for place in (0, *chosen.tolist()):
        variant = variants[place - 1] if place else None
        rows.append(
            {
                "dataset": row.sample.dataset,
                "image_id": row.sample.image_id,
                "model": model.name,
                "perturbation": variant.perturbation if variant else CLEAN,
                "severity": variant.severity if variant else None,
                "strength": variant.strength if variant else "",
                "replicate": variant.replicate if variant else 0,
                "predicted": int(explained.predictions[place]),
                "confidence": float(explained.confidences[place]),
                "photo": _jpeg(explained.pixels[place].numpy()),
                "outlines": _outlines(row.sample.segments.numpy()) if first and not place else None,
                "cams": ",".join(config.cams),
                "height": maps.shape[2],
                "width": maps.shape[3],
                "maps": maps[place].tobytes(),
            }
        )
    return rows


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    sink = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def _outlines(segments: NDArray[np.int64]) -> bytes:
    """A one-bit PNG that is white on the border between two segments."""
    border = np.zeros(segments.shape, bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    sink = BytesIO()
    Image.fromarray(border).save(sink, "PNG", optimize=True)
    return sink.getvalue()


class Commit:
    """Results of some images to the store, as one commit; what goes back to the driver is only counts.

    Args:
        output: address of the run folder.
        number: of the lease under which they count.
    """

    def __init__(self, output: str, number: int) -> None:
        self.output, self.number = output, number

    def __call__(self, batch: Batch) -> Batch:
        """Rows of packed tables to one row of counts."""
        start = time.monotonic()
        units = [
            Unit(
                str(batch["dataset"][row]),
                str(batch["image_id"][row]),
                int(batch["part"][row]),
                *(unpack(batch[name][row]) for name in ("scores", "images", "failures", "maps")),
            )
            for row in range(len(batch["image_id"]))
        ]
        write_commit(open_run(self.output).store, units, self.number)
        return {
            "units": np.array([len(units)]),
            "rows": np.array([sum(unit.scores.num_rows for unit in units)]),
            "failures": np.array([sum(unit.failures.num_rows for unit in units)]),
            "seconds": np.array([time.monotonic() - start]),
        }
