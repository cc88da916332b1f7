"""Variants to result rows, for all models of the run: actors on GPUs, or on cores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.config import RunConfig
from camrobust.contract.run_record import BuilderRecord
from camrobust.contract.schema import FAILURES, IMAGES, MAPS
from camrobust.core.perturb import Variant
from camrobust.io.retries import patient
from camrobust.measure.certificates import certificates
from camrobust.measure.image import Explained, measure
from camrobust.measure.model import Model
from camrobust.measure.plugins import load_plugins
from camrobust.measure.prepared import try_out
from camrobust.measure.settings import ImageVariants, Sample
from camrobust.results.arrow import make_table
from camrobust.run.ledger import ImagePart, Watch
from camrobust.run.plan import build, certify_of, settings_of
from camrobust.run.stages.batches import QUARANTINED, Failure, batch_of, measured_fields, rows_column
from camrobust.run.stages.gallery import map_rows
from camrobust.run.stages.perturb import Perturb, PerturbedRow, perturbed_rows

GPUS_PER_EXPLAINER = 0.8
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class _Scored:
    """The result of one part under one model.

    Attributes:
        table: score rows of several parts.
        rows: those of this part.
        explained: its maps, where the gallery shows them.
        certificates: rows of `certificates.CERTIFICATES`, with part 0 of an image.
    """

    table: pa.Table
    rows: range
    explained: Explained | None
    certificates: list[dict[str, Any]]


class _Wanted(NamedTuple):
    """One part of an image that is to be measured, whether the gallery shows it, and whether it is certified now."""

    image: ImageVariants
    shown: bool
    certified: bool


class _Cells(NamedTuple):
    """The rows of every result table that belong to one part."""

    scores: list[_Scored]
    images: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    maps: list[dict[str, Any]]
    certificates: list[dict[str, Any]]


class Explain:
    """Measures variants under all models of the run, which lie on one device.

    Args:
        config: the run.
        parts: the variants of every part of an image.
        gallery: images whose maps are kept.
        weights: SHA-256 of every model's weights file, where known.
        device: cpu or cuda.
        pass_size: images in every forward pass.
        ledger: of the run.
        sources: SHA-256 of the source of every plugin.
        states: hash of every model's network, where known.
        builders: where every model's builder was from, where known.
        readouts: every model's head and what it puts out, where known.
        kept: numbers of the classes between which a model chooses, where not all.
        perturbs: whether this worker makes the variants itself.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Sequence[Sequence[Variant]],
        gallery: frozenset[tuple[str, str]],
        weights: Mapping[str, str | None],
        device: str,
        pass_size: int,
        ledger: Any = None,
        sources: Mapping[str, str] | None = None,
        *,
        states: Mapping[str, str] = NOTHING,
        builders: Mapping[str, BuilderRecord] = NOTHING,
        readouts: Mapping[str, tuple[str, str | None]] = NOTHING,
        kept: Mapping[str, Sequence[int]] = NOTHING,
        perturbs: bool = False,
    ) -> None:
        load_plugins(config.plugins, sources)
        self.perturb = Perturb(config, parts, device, ledger, sources) if perturbs else None
        self.config, self.parts, self.gallery = config, parts, gallery
        self.watch = Watch("explain", ledger, config.cluster.image_timeout_s)
        with patient(self.watch.tell):
            self.models = [
                build(
                    model,
                    config.image.crop,
                    device,
                    sha256=weights.get(model.name),
                    state=states.get(model.name),
                    builder=builders.get(model.name),
                    readout=readouts.get(model.name),
                    kept=kept.get(model.name, ()),
                    seed=config.seed,
                )
                for model in config.models
            ]
        self.settings, self.certify = settings_of(config, pass_size), certify_of(config)
        self.columns = self.settings.columns()
        if config.compile:
            for model in self.models:
                try_out(model, self.settings, config.image.crop)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `PERTURBED`, or of `LOADED` where this worker perturbs, to rows of `MEASURED`."""
        rows = (
            perturbed_rows(batch, self.config.image.crop, self.config.channels)
            if self.perturb is None
            else self.perturb.rows(batch)
        )
        cells = [_without_models(row) for row in rows]
        ready = {place: image for place, row in enumerate(rows) if (image := self._image(row)) is not None}
        places, images = list(ready), list(ready.values())
        for model in self.models:
            for place, image, result in zip(places, images, self._under(model, rows, places, images), strict=True):
                if isinstance(result, Failure):
                    cells[place].failures.append(_failure_row(rows[place], model.name, result))
                    continue
                cells[place].scores.append(result)
                cells[place].certificates.extend(result.certificates)
                if result.explained is not None:
                    first = model is self.models[0]
                    cells[place].maps.extend(
                        map_rows(model, image.sample, image.variants, result.explained, first=first,
                                 cams=self.config.cams)
                    )  # fmt: skip
        tables = {
            "scores": self._score_table([scored for cell in cells for scored in cell.scores]),
            "images": make_table(IMAGES, [row for cell in cells for row in cell.images]),
            "failures": make_table(FAILURES, [row for cell in cells for row in cell.failures]),
            "maps": make_table(MAPS, [row for cell in cells for row in cell.maps]),
            "certificates": make_table(CERTIFICATES, [row for cell in cells for row in cell.certificates]),
        }
        counts = {name: [len(getattr(cell, name)) for cell in cells] for name in tables if name != "scores"}
        counts["scores"] = [sum(len(scored.rows) for scored in cell.scores) for cell in cells]
        keys = {name: [getattr(row, name) for row in rows] for name in ImagePart._fields}
        columns = {name: rows_column(table, counts[name]) for name, table in tables.items()}
        return batch_of(measured_fields(self.columns), keys | columns)

    def _image(self, row: PerturbedRow) -> ImageVariants | None:
        """The image for measuring; None if an earlier stage failed."""
        if row.variants is None or row.segments is None:
            return None
        sample = Sample(row.dataset, row.image_id, row.label, row.segments)
        return ImageVariants(sample, row.variants, self.parts[row.part])

    def _under(
        self, model: Model, rows: Sequence[PerturbedRow], places: Sequence[int], images: Sequence[ImageVariants]
    ) -> list[_Scored | Failure]:
        """Scores and maps of some parts under one model, except of those at which workers have died."""
        if not places:
            return []
        items = [ImagePart(rows[place].dataset, rows[place].image_id, rows[place].part) for place in places]
        shown = [item.part == 0 and item[:2] in self.gallery for item in items]

        def work(some: Sequence[int]) -> list[_Scored | Failure]:
            chosen = [_Wanted(images[place], shown[place], items[place].part == 0) for place in some]
            return self._measure(model, chosen)

        return self.watch.over_all(items, work, lambda why: Failure("explain", QUARANTINED, why), model=model.name)

    def _measure(self, model: Model, wanted: Sequence[_Wanted]) -> list[_Scored | Failure]:
        """Scores and maps, or what went wrong: one model's trouble with one image must not end the run."""
        # The passes of several images have the timeout each; an image alone has it as a whole.
        renew = self.watch.renew if len(wanted) > 1 else _nothing
        images = [one.image for one in wanted]
        keep = {place for place, one in enumerate(wanted) if one.shown}
        raised = ""
        try:
            columns, explained = measure(model, images, self.settings, renew, keep)
            certified = self._certified(model, wanted)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - model code may raise anything; it becomes a failure row
            raised = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if raised and len(wanted) > 1:
            # The error is gone by now, and with it the memory of the pass that raised it.
            return [result for one in wanted for result in self._alone(model, one)]
        if raised:
            return [Failure("explain", "error", raised)]
        table = make_table(self.columns, columns)
        ends = np.cumsum([0, *(len(image.variants) * len(self.config.cams) for image in images)]).tolist()
        return [
            _Scored(table, range(ends[place], ends[place + 1]), explained.get(place), certified.get(place, []))
            for place in range(len(images))
        ]

    def _certified(self, model: Model, wanted: Sequence[_Wanted]) -> dict[int, list[dict[str, Any]]]:
        """Rows of certificates, by the place of their image. Each pass has the timeout, also of one image."""
        if self.certify is None:
            return {}
        places = [place for place, one in enumerate(wanted) if one.certified]
        drawn = {number for number, place in enumerate(places) if wanted[place].shown}
        images = [wanted[place].image for place in places]
        rows = certificates(model, images, self.settings, self.certify, self.watch.renew, drawn)
        return dict(zip(places, rows, strict=True))

    def _alone(self, model: Model, one: _Wanted) -> list[_Scored | Failure]:
        """The same for one image of a batch that raised an error."""
        self.watch.renew()
        return self._measure(model, [one])

    def _score_table(self, scored: Sequence[_Scored]) -> pa.Table:
        """The score rows of all parts, in their order."""
        tables = list({id(one.table): one.table for one in scored}.values())
        if not tables:
            return make_table(self.columns, [])
        starts = dict(zip(map(id, tables), np.cumsum([0, *(table.num_rows for table in tables[:-1])]), strict=True))
        places = np.concatenate([np.arange(one.rows.start, one.rows.stop) + starts[id(one.table)] for one in scored])
        joined = pa.concat_tables(tables)
        in_order = len(places) == joined.num_rows and (np.diff(places) == 1).all()
        return joined if in_order else joined.take(places)


def _nothing() -> None:
    """An image alone does not get the timeout anew."""


def _without_models(row: PerturbedRow) -> _Cells:
    """What is known of a part before any model sees it: its image's own row, or its failure."""
    cells = _Cells([], [], [], [], [])
    # An image's own row goes with its part 0, unless there is no image.
    if row.part == 0 and row.segments is not None:
        cells.images.append({"dataset": row.dataset, "image_id": row.image_id, "label": row.label, **row.properties})
    # An image that failed in loading failed for every part, and is named once.
    if row.failure is not None and (row.first or row.segments is not None):
        cells.failures.append(_failure_row(row, None, row.failure))
    return cells


def _failure_row(row: PerturbedRow, model: str | None, failure: Failure) -> dict[str, Any]:
    return {"dataset": row.dataset, "image_id": row.image_id, "model": model, **failure._asdict()}
