"""The science on one page: an image's variants in, columns of score rows out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.special import entr

from camrobust.contract.schema import SCORES, Column
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import Choose, collect, explain, predicted
from camrobust.core.memory import halving_on_oom
from camrobust.core.perturb import Variant, attack
from camrobust.core.ranks import agreement
from camrobust.core.segments import segment_matrix
from camrobust.core.similarity import SIMILARITIES, Similarity, flat
from camrobust.core.similarity.sensitivity import InputChange, PassOutput, change_between
from camrobust.measure.model import Model

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class MeasureSettings:
    """The settings that change numbers, beside model, image and variants.

    Attributes:
        cams: names of the methods, K of them.
        seed: of the CAMs that draw random numbers.
        rbo_p: persistence of rank-biased overlap.
        ties: tie rule of rank-biased overlap.
        explained_class: "predicted" explains each variant's own class, "clean" the clean image's class on all.
        batch: variants in one forward pass; halved when the device runs out of memory.
        similarities: names of the measures beside rank-biased overlap; None for all cheap ones.
        precision: of the layers, one of `defaults.PRECISIONS`; maps are float32 in all of them.
    """

    cams: tuple[str, ...]
    seed: int = 0
    rbo_p: float = 0.9
    ties: str = "b"
    explained_class: str = "predicted"
    batch: int = 32
    similarities: tuple[str, ...] | None = None
    precision: str = "fp32"

    def measures(self) -> list[Similarity]:
        """The measures beside rank-biased overlap; raises UserError for an unknown name."""
        if self.similarities is None:
            return [similarity for similarity in SIMILARITIES if similarity.default]
        return [SIMILARITIES[name] for name in self.similarities]

    def columns(self) -> tuple[Column, ...]:
        """Of the score rows: those of every run, then one for each measure from a user's own package."""
        known = {column.name for column in SCORES}
        return (*SCORES, *(one.column for one in self.measures() if one.name not in known))


@dataclass(frozen=True)
class Sample:
    """One image: its key, and the segments over which its maps are ranked.

    Attributes:
        dataset: name of its dataset.
        image_id: unique within the dataset.
        label: true class, None where unknown.
        segments: (H, W) int64, 0 … m-1.
    """

    dataset: str
    image_id: str
    label: int | None
    segments: Tensor


@dataclass(frozen=True)
class Explained:
    """Maps and predictions of an image's variants, on the model's device; variant 0 is the clean one.

    Attributes:
        pixels: (V+1, 3, H, W) uint8 on the CPU, the explained images, attacks on this model included.
        maps: (V+1, K, h, w) float32.
        predictions: (V+1,) int64.
        confidences: (V+1,) float32, softmax probability of the prediction.
        entropy: scalar, of the softmax on the clean image, nats.
        change: how far the V perturbed variants are from the clean one; None where that is unknown.
    """

    pixels: Tensor
    maps: Tensor
    predictions: Tensor
    confidences: Tensor
    entropy: Tensor
    change: InputChange | None = None


def explain_variants(
    model: Model, sample: Sample, pixels: Tensor, variants: Sequence[Variant], settings: MeasureSettings
) -> Explained:
    """All maps of one image's variants, in forward passes of at most `settings.batch`.

    A pass that runs out of memory is repeated in halves; the model remembers how many images fitted.

    Args:
        model: the classifier.
        sample: the image.
        pixels: (V+1, 3, H, W) uint8, the clean variant first; attacks replace the pixels of variants that need a model.
        variants: the V perturbed variants.
        settings: the CAMs, and which class they explain.
    """
    functions = [CAMS[name].function for name in settings.cams]
    pixels = attacked(model, sample, pixels, variants, settings)
    strengths = [
        "clean", *(f"{variant.perturbation}:{variant.strength}:{variant.replicate}" for variant in variants)
    ]  # fmt: skip
    choose = _choose(settings.explained_class)
    clean: PassOutput | None = None
    entropy = torch.tensor(torch.nan)
    network = replace(model.network, precision=settings.precision)

    def one_pass(places: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, InputChange]:
        nonlocal clean, entropy
        chunk = slice(places[0], places[-1] + 1)
        images = pixels[chunk].to(model.device)
        draws = _draws(sample, strengths[chunk], settings.seed, model.device)
        # No step before the score rows waits for the device, so it computes while the host prepares the next pass.
        evidence = collect(network, model.inputs(images, settings.precision), choose, draws)
        maps = explain(evidence, functions)
        output = PassOutput(images, evidence.logits, evidence.activations)
        if clean is None:
            clean, entropy = output.first(), entr(evidence.logits[0].softmax(dim=0)).sum()
        change = change_between(clean, output)
        classes = predicted(evidence.logits)
        return maps, classes, evidence.logits.softmax(dim=1).gather(1, classes[:, None])[:, 0], change

    batch = min(settings.batch, model.fits.images or settings.batch)
    passes = list(halving_on_oom(range(len(pixels)), batch, one_pass, partial(setattr, model.fits, "images")))
    maps, classes, confidences, changes = zip(*passes, strict=True)
    change = InputChange.cat(changes).without_first()
    return Explained(pixels, torch.cat(maps), torch.cat(classes), torch.cat(confidences), entropy, change)


def attacked(
    model: Model, sample: Sample, pixels: Tensor, variants: Sequence[Variant], settings: MeasureSettings
) -> Tensor:
    """The pixels, with attacks on the model in the places of the variants that need one."""
    groups: dict[str, list[int]] = {}
    for place, variant in enumerate(variants, start=1):
        if variant.needs_model:
            groups.setdefault(variant.perturbation, []).append(place)
    if not groups:
        return pixels
    pixels = pixels.clone()
    clean = pixels[:1].to(model.device).float() / 255
    for places in groups.values():
        planned = [variants[place - 1] for place in places]
        images, names = clean.expand(len(places), -1, -1, -1), [sample.image_id] * len(places)
        made = attack(model, images, planned, names, sample.dataset, settings.seed)
        pixels[places] = (made * 255).round().to(torch.uint8).to(pixels.device)
    return pixels


def _choose(explained_class: str) -> Choose:
    """A function that chooses the class to explain; one for all passes of an image."""
    if explained_class == "predicted":
        return predicted
    clean: list[Tensor] = []

    def clean_class(logits: Tensor) -> Tensor:
        if not clean:
            clean.append(predicted(logits)[:1])
        return clean[0].expand(len(logits))

    return clean_class


def _draws(sample: Sample, strengths: Sequence[str], seed: int, device: torch.device) -> Draws:
    """One random stream per variant, for CAMs that draw."""
    return Draws.join(
        [Draws.of(seed, sample.dataset, [sample.image_id], "cam", strength, 0, device) for strength in strengths]
    )


def map_agreement(
    explained: Explained, segments: Tensor, settings: MeasureSettings, count: int | None = None
) -> dict[str, Tensor]:
    """Agreement of every perturbed map with its clean one.

    Args:
        explained: maps of V+1 variants.
        segments: (H, W) int64.
        settings: how to compare.
        count: m, None to compute it from the segments.

    Returns:
        One tensor (V, K) per registered similarity, NaN where undefined or not asked for, and the bool
        tensors `flat` and `finite`.
    """
    maps = explained.maps
    weights = segment_matrix(segments.to(maps.device), *maps.shape[-2:], count=count)
    flattened = maps.flatten(2)
    scores = flattened @ weights.T
    clean, noisy = flattened[:1], flattened[1:]
    inputs = {
        "positions": (clean, noisy),
        "grid": (maps[:1], maps[1:], tuple(segments.shape)),
        "segments": (scores[:1], scores[1:]),
        "change": (clean, noisy, explained.change),
    }
    rbo, adjusted = agreement(scores[:1], scores[1:], settings.rbo_p, settings.ties)
    measured = {"rbo": rbo, "rbo_adjusted": adjusted}
    for similarity in settings.measures():
        if similarity.takes != "change" or explained.change is not None:
            measured[similarity.name] = similarity.function(*inputs[similarity.takes])
    # Logits that are not numbers leave no class to explain.
    finite = torch.isfinite(flattened).all(dim=-1) & torch.isfinite(explained.confidences)[:, None]
    finite = finite[:1] & finite[1:]
    constant = flat(flattened) | flat(scores)
    constant = constant[:1] | constant[1:]
    numbers = torch.stack([value.float() for value in measured.values()])
    numbers = torch.where(finite & ~constant, numbers, torch.nan)
    undefined = torch.full_like(numbers[0], torch.nan)
    compared = dict.fromkeys(SIMILARITIES.names(), undefined) | dict(zip(measured, numbers, strict=True))
    return compared | {"flat": constant, "finite": finite}


def measure(
    model: Model, sample: Sample, pixels: Tensor, variants: Sequence[Variant], settings: MeasureSettings
) -> tuple[Columns, Explained]:
    """Score rows of one image under one model: V variants × K CAMs, variant by variant.

    Args:
        model: the classifier.
        sample: the image and its segments.
        pixels: (V+1, 3, H, W) uint8, the clean variant first.
        variants: the V perturbed variants.
        settings: the CAMs, and how to compare their maps.

    Returns:
        Columns by name, at least those of `MeasureSettings.columns`, each of V·K values, undefined numbers as NaN; and
        the maps.
    """
    V, K = len(variants), len(settings.cams)
    if len(pixels) != V + 1:
        raise ValueError(f"measure: pixels must hold {V + 1} variants, got {len(pixels)}; clean comes first")
    count, segments = int(sample.segments.max()) + 1, sample.segments.to(model.device)
    explained = explain_variants(model, sample, pixels, variants, settings)
    compared = map_agreement(explained, segments, settings, count)
    classes, confidences = explained.predictions.cpu().numpy(), explained.confidences.cpu().numpy()

    def each(values: Any, dtype: type = object) -> np.ndarray:
        """V values, each repeated for the K rows of its variant."""
        return np.repeat(np.array(values, dtype), K)

    columns: Columns = {
        "dataset": each([sample.dataset] * V),
        "model": each([model.name] * V),
        "image_id": each([sample.image_id] * V),
        "cam": np.array([*settings.cams] * V, object),
        "perturbation": each([variant.perturbation for variant in variants]),
        "severity": each([variant.severity for variant in variants]),
        "strength": each([variant.strength for variant in variants]),
        "replicate": each([variant.replicate for variant in variants], int),
        "predicted_clean": each(classes[:1].repeat(V), int),
        "predicted_perturbed": each(classes[1:], int),
        "confidence_clean": each(confidences[:1].repeat(V), float),
        "entropy_clean": each([float(explained.entropy)] * V, float),
        "confidence_perturbed": each(confidences[1:], float),
        "label": each([sample.label] * V),
        "kept_class": each(classes[1:] == classes[0], bool),
        "n_segments": each([count] * V, int),
        "status": _status(compared.pop("flat"), compared.pop("finite")),
    }
    numbers = torch.stack([*compared.values()]).flatten(1).cpu().numpy()
    return columns | dict(zip(compared, numbers, strict=True)), explained


def _status(flat_maps: Tensor, finite: Tensor) -> np.ndarray:
    status = np.where(flat_maps.cpu().numpy(), "flat_map", "ok").astype(object)
    status[~finite.cpu().numpy()] = "not_finite"
    return status.reshape(-1)
