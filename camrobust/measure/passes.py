"""Forward passes of one fixed size, filled with the variants of many images.

Every pass has the same shape: the last one is filled up with copies of its last row. So the bits of a row depend on the
size of the passes, and neither on its place in a pass nor on its neighbours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short
from camrobust.core.channels import held, unit
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.readout import Readout
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import attack
from camrobust.core.perturb.attacks.on_rank import Ranking
from camrobust.core.similarity.sensitivity import InputChange, PassOutput, change_between
from camrobust.measure.comparison import Pairs
from camrobust.measure.image_batch import ImageBatch
from camrobust.measure.model import Model
from camrobust.measure.prepared import prepare
from camrobust.measure.settings import ImageVariants, MeasureSettings
from camrobust.measure.transfer import to_device


@dataclass(frozen=True)
class PassResult:
    """One pass over P rows of a batch, on the model's device; rows after the first `count` only fill it up.

    Attributes:
        rows: which rows of the batch.
        pixels: (P, C, H, W), as they are measured.
        maps: (P, K, h, w) float32.
        change: how far every row is from its clean image, (P, 1) each.
        agreement: of every map with that of its clean image, as `comparison.Comparison` gives it; empty where it was
            not asked for. Clean rows are compared with themselves.
        classes: (P,) int64, the predictions; of a multi-label network the explained labels.
        confidences: (P,) float32, probability of the prediction; NaN for values.
        entropies: (P,) float32, nats; NaN for values.
        kept: (P,) bool, whether the decision is that on the clean image.
        values: (P,) float32, the explained values; NaN where there are classes.
    """

    rows: range
    pixels: Tensor
    maps: Tensor
    change: InputChange
    agreement: Mapping[str, Tensor]
    classes: Tensor
    confidences: Tensor
    entropies: Tensor
    kept: Tensor
    values: Tensor


def passes(
    model: Model,
    batch: ImageBatch,
    settings: MeasureSettings,
    renew: Callable[[], None] = lambda: None,
    *,
    compare: bool = True,
) -> Iterator[PassResult]:
    """The passes over all rows of a batch, in order.

    No step of ours waits for the device, so it computes one pass while the host works on the results of the one before.
    A pass that runs out of memory is repeated in halves; the model remembers how many images fitted.

    Args:
        model: the classifier.
        batch: images and their variants.
        settings: the CAMs, which class they explain, and how many images a pass holds.
        renew: called before each pass.
        compare: compare the maps of each pass with those of their clean images.
    """
    if settings.explained_class == "label":
        _check_labels(batch, model.network.readout)
    pixels = [_on_host(attacked(model, image, settings, renew)) for image in batch.images]
    clean, readout = _CleanRows(), model.network.readout

    def one_pass(chosen: Sequence[int]) -> PassResult:
        renew()
        rows = range(chosen[0], chosen[-1] + 1)
        filled = [*rows, *[rows[-1]] * (model.pass_size(settings.batch) - len(rows))]
        pieces = [pixels[image][part] for image, part in batch.slices(rows)]
        images = to_device([*pieces, *[pieces[-1][-1:]] * (model.pass_size(settings.batch) - len(rows))], model.device)
        owners = batch.owner[filled]
        places = np.stack([owners, (batch.clean[filled] - rows.start + 1).clip(min=0), batch.labels[owners]])
        owner, reference, labels = to_device([places], model.device).unbind()

        def choose(logits: Tensor) -> Tensor:
            own = readout.predicted(logits)
            if readout.is_fixed or settings.explained_class == "clean":
                return clean.of("class", own, reference)
            return readout.positions(labels) if settings.explained_class == "label" else own

        inputs = model.inputs(images, settings.precision)
        ready = prepare(model, settings, inputs)
        evidence = collect(ready.network, inputs, choose, batch.draws(filled, settings.seed, model.device))
        maps, ambiguous = ready.maps.marked(evidence)
        logits = evidence.logits
        clean_logits = clean.of("logits", logits, reference)
        output = PassOutput(images, readout.outputs_of(logits), evidence.activations)
        origin = PassOutput(
            clean.of("pixels", images, reference),
            readout.outputs_of(clean_logits),
            clean.of("activations", evidence.activations, reference),
        )
        classes = evidence.targets if readout.is_fixed else readout.predicted(logits)
        confidences, values = readout.confidence(logits, classes), readout.values(logits, classes)
        certain = (confidences if readout.has_classes else values).isfinite()
        change = change_between(origin, output)

        def agreement() -> Mapping[str, Tensor]:
            matrices, sizes = batch.segments(rows, model.device, *maps.shape[-2:])
            pairs = Pairs(
                clean.of("maps", maps, reference),
                maps,
                matrices.index_select(0, owner),
                sizes.index_select(0, owner),
                certain & clean.of("certain", certain, reference),
                None if ambiguous is None else ambiguous | clean.of("ambiguous", ambiguous, reference),
                change,
            )
            return ready.compare(pairs)

        result = PassResult(
            rows=rows,
            pixels=images,
            maps=maps,
            change=change,
            agreement=agreement() if compare else {},
            classes=readout.numbers(classes),
            confidences=confidences,
            entropies=readout.entropy(logits, classes),
            kept=readout.kept(logits, clean_logits, classes),
            values=values,
        )
        clean.carry()
        return result

    yield from halving_on_oom(range(len(batch)), model.pass_size(settings.batch), one_pass, model.remember, filled=True)


def _check_labels(batch: ImageBatch, readout: Readout) -> None:
    """Raise UserError where the true class cannot be explained: it is unknown, no class, or not what is attacked."""
    if readout.is_fixed:
        raise UserError(
            f"explained_class: label needs a model that chooses one class, got head: {readout.head}; explain the clean "
            "image's label or value"
        )
    if any(variant.attacked_cam for image in batch.images for variant in image.variants):
        raise UserError(
            "explained_class: label cannot be combined with attacks on maps, which attack that of the predicted class; "
            "leave them out"
        )
    place = int(batch.labels.argmin())
    if batch.labels[place] < 0:
        image = short(batch.images[place].sample.image_id)
        raise UserError(
            f"explained_class: label needs the label of every image, and '{image}' has none; add it, or explain the "
            "predicted class"
        )


def _on_host(pixels: Tensor) -> Tensor | np.ndarray:
    """Pixels on the host as an array, because slices of arrays cost next to nothing; others stay where they are."""
    return pixels.numpy() if pixels.device.type == "cpu" else pixels


class _CleanRows:
    """Finds what a pass gave for the clean row of every row's image, which may lie in an earlier pass.

    Only the last image of a pass can go on in the next one, so one row of each tensor is carried over.
    """

    def __init__(self) -> None:
        self._carried: dict[str, Tensor] = {}
        self._next: dict[str, Tensor] = {}

    def of(self, name: str, values: Tensor, reference: Tensor) -> Tensor:
        """The values (P, …) of every row's clean row; `reference` (P,) is 0 for the one carried over, else 1 + row."""
        found = torch.cat([self._carried.get(name, values[:1]), values]).index_select(0, reference)
        # A copy, so that the memory of the others can be freed.
        self._next[name] = found[-1:].clone()
        return found

    def carry(self) -> None:
        """The pass is complete: keep its last image's clean row. A pass that is repeated must not come here twice."""
        self._carried = self._next
        self._next = {}


def attacked(
    model: Model, image: ImageVariants, settings: MeasureSettings, renew: Callable[[], None] = lambda: None
) -> Tensor:
    """The pixels of an image's variants, with attacks on the model in the places of the variants that need one.

    Args:
        model: the classifier.
        image: with its variants.
        settings: of the run.
        renew: called before the attacks of each perturbation.
    """
    groups: dict[tuple[str, str | None], list[int]] = {}
    for place, variant in enumerate(image.variants, start=1):
        if variant.needs_model:
            groups.setdefault((variant.perturbation, variant.attacked_cam), []).append(place)
    if not groups:
        return image.pixels
    sample, pixels = image.sample, image.pixels.clone()
    clean = unit(pixels[:1].to(model.device))
    for places in groups.values():
        planned = [image.variants[place - 1] for place in places]
        count = len(places)
        images, names = clean.expand(count, -1, -1, -1), [sample.image_id] * count
        segments = sample.segments[None].expand(count, -1, -1)
        ranking = Ranking(segments, [sample.count] * count, settings.rbo_p, settings.ties)
        renew()
        made = attack(model, images, planned, names, sample.dataset, settings.seed, ranking)
        pixels[places] = held(made).to(pixels.device)
    return pixels
