"""Measure and explain in this process, without Ray: for notebooks, tests and small sets of images.

Gradients are computed even where the caller is under torch.no_grad() or torch.inference_mode().
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any
from warnings import warn

import polars as pl
import pyarrow as pa
import torch
from torch import Tensor, nn

from camrobust.contract.certificates import CERTIFICATES
from camrobust.contract.certify_config import CertifyConfig
from camrobust.contract.defaults import CROP, RESIZE
from camrobust.contract.errors import UserError
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect
from camrobust.core.explain.evidence import explain as all_maps
from camrobust.core.explain.maps import refuse_without_gradient
from camrobust.core.perturb import check_defined, left_out, make_variants, variants
from camrobust.core.perturb.apply import refuse_target
from camrobust.core.segments import segment
from camrobust.interface.arguments import (
    ONE_SIGMA,
    TargetLayer,
    as_list,
    certify_settings,
    channels_of,
    check_cams,
    check_evaluation,
    class_number,
    per_image,
    ready_model,
    true_class,
)
from camrobust.interface.bars import bar
from camrobust.interface.evaluation import Evaluation
from camrobust.interface.inputs import Photographs, check_once, pixels_of
from camrobust.interface.maps import SHOWN, Maps
from camrobust.measure.certificates import certificates
from camrobust.measure.coinciding import coinciding
from camrobust.measure.image import measure
from camrobust.measure.model import Model
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample, pass_size
from camrobust.report.gallery import spoken
from camrobust.results.arrow import make_table

SEGMENT_BATCH = 8
"""Number of images that are segmented together, on as many threads as torch has."""
BYTES_TOGETHER = 64 * 2**20
"""Variants of so many bytes are measured together, so that they fill forward passes; at least those of one image."""


@torch.inference_mode(False)
@torch.enable_grad()
def evaluate(
    model: nn.Module | str | Model,
    images: Photographs,
    cams: str | Sequence[str] = ("gradcam",),
    perturbations: str | Mapping[str, object] | Sequence[str | Mapping[str, object]] = ("gaussian_noise:1-5",),
    labels: Sequence[int | None] | None = None,
    seed: int = 0,
    *,
    target_layer: TargetLayer = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
    resize: int = RESIZE,
    crop: int = CROP,
    rbo_p: float = 0.9,
    ties: str = "b",
    explained_class: str = "predicted",
    precision: str = "fp32",
    segments: str | Mapping[str, Any] | None = None,
    similarities: str | Sequence[str] | None = None,
    resave_jpeg_quality: int | None = None,
    image_ids: Sequence[str] | None = None,
    progress: bool = False,
    certify: bool | Mapping[str, Any] | CertifyConfig | None = None,
) -> Evaluation:
    """Measure how robust a model's maps are to noise, in this process.

    Args:
        model: a classifier or its name. A module's parameters and mode are restored afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, used as they are; or a folder; or a list of
            paths, pictures and (3, H, W) arrays. Where mean and std do not have three values, images have as many
            channels as these, and may be uint16.
        cams: names from `camrobust list cams`.
        perturbations: as in a configuration.
        labels: true classes, one per image; None where unknown.
        seed: seed of every random draw.
        target_layer: a submodule or its dotted name, None to discover it.
        mean: mean of the normalisation, one value for each channel of the images; None for the builder's own, and
            for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        head: how the outputs are read, as in a configuration: "softmax", "binary", "multilabel",
            "multilabel:explained=2", "value:tolerance=0.5"; None for binary where there is one output, else softmax.
        resize: shorter side of files after resizing, px.
        crop: side of the centre crop of files, px.
        rbo_p: persistence of rank-biased overlap.
        ties: tie rule of rank-biased overlap.
        explained_class: "predicted" explains each variant's own class, "clean" the clean image's class on all,
            "label" the true class, which labels must then hold for every image.
        precision: precision of the forward pass: fp32, tf32, bf16 or fp16.
        segments: segmentation method, by name or as in a configuration: {"method": "slic", "n_segments": 40}; None
            for Quickshift.
        similarities: measures beside rank-biased overlap, from `camrobust list similarities`; None for all that are
            cheap. The columns of the others hold null.
        resave_jpeg_quality: perturbed images are saved as JPEG of this quality and read back, as ImageNet-C's were
            (85); None to leave this out.
        image_ids: one unique text per image. It names the image in the result, and the random draws depend on it. By
            default an id depends only on its image: the path below a folder, as in a run; a name and a hash of the
            bytes for other files; a hash of the pixels for tensors, arrays and pictures.
        progress: whether to show bars, in a notebook or on standard error.
        certify: also compute what cannot change within a distance of each image: as in a configuration, such as
            {"sigma": [0.12], "samples": 1000}, or True for the defaults there. Every sample is a pass.

    Raises:
        UserError: an unknown name, a file that is not an image, or an image given twice.
        ValueError: images of another shape, or labels or image_ids that do not have one entry per image.

    Examples:
        >>> import camrobust, torch, torchvision
        >>> model, photos = torchvision.models.squeezenet1_1(), torch.rand(2, 3, 64, 64)
        >>> result = camrobust.evaluate(model, photos, ["gradcam", "random"], ["gaussian_noise:1,3", "contrast:5"])
        >>> result
        Evaluation(2 images × 1 model × 2 CAMs × 3 variants = 12 rows)
        >>> sorted(result.summary()["cam"])  # the table has the most robust CAM first
        ['gradcam', 'random']
    """
    channels, cams = channels_of(model, mean), as_list(cams)
    planned = variants(as_list(perturbations), channels, cams)
    for sentence in left_out(as_list(perturbations), channels):
        warn(sentence, UserWarning, stacklevel=4)
    check_cams(cams)
    check_defined((), channels, resave_jpeg_quality)
    check_evaluation(explained_class, precision, resave_jpeg_quality)
    asked = certify_settings(certify)
    settings = MeasureSettings(
        tuple(CAMS[name].name for name in cams),
        seed,
        rbo_p,
        ties,
        explained_class,
        similarities=None if similarities is None else tuple(as_list(similarities)),
        precision=precision,
    )
    cutting = {"method": segments} if isinstance(segments, str) else dict(segments or {})
    names, pixels = pixels_of(images, resize, crop, image_ids, channels)
    check_once(names)
    classes = [None] * len(names)
    if labels is not None:
        classes = per_image(labels, "labels", len(names), "pass None where unknown")
    tables, certified, same_as, heads = [], [], {}, {}
    with ready_model(model, target_layer, pixels, mean, std, head) as ready:
        heads = {ready.name: ready.network.readout.head}
        truths = [true_class(label, ready) for label in classes]
        for variant in planned:
            if variant.needs_model:
                refuse_target(ready, ready.classes, variant)
        with bar(progress, "segments", len(names)) as advance:
            cut = torch.cat([advance(segment(some, **cutting)) for some in pixels.split(SEGMENT_BATCH)])
        settings = replace(settings, batch=pass_size(len(planned) + 1, ready.device.type))
        if any(variant.attacked_cam for variant in planned) and len(pixels):
            same_as = {ready.name: coinciding(ready, settings.cams, pixels[:2], precision)}
        together = max(1, BYTES_TOGETHER // ((len(planned) + 1) * pixels[0].nbytes)) if len(pixels) else 1
        with bar(progress, "maps", len(names)) as advance:
            for start in range(0, len(names), together):
                some = slice(start, start + together)
                stacks = make_variants(pixels[some], planned, names[some], "images", seed, resave_jpeg_quality)
                samples = map(Sample, repeat("images"), names[some], truths[some], cut[some])
                ready_images = [*map(ImageVariants, samples, stacks, repeat(planned))]
                rows, _ = measure(ready, ready_images, settings)
                tables.append(make_table(settings.columns(), rows))
                if asked is not None:
                    certified += [row for of in certificates(ready, ready_images, settings, asked) for row in of]
                advance(names[some])
    scores = pl.DataFrame(pa.concat_tables(tables or [make_table(settings.columns(), [])]))
    guarantees = None if asked is None else pl.DataFrame(make_table(CERTIFICATES, certified))
    controls = tuple(name for name in cams if CAMS[name].control)
    return Evaluation(scores, controls, same_as=same_as, heads=heads, certificates=guarantees)


@torch.inference_mode(False)
@torch.enable_grad()
def explain(
    model: nn.Module | str | Model,
    images: Photographs,
    cams: str | Sequence[str] = ("gradcam",),
    target_layer: TargetLayer = None,
    *,
    targets: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    head: str | None = None,
    resize: int = RESIZE,
    crop: int = CROP,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
    certify: bool | Mapping[str, Any] | CertifyConfig | None = None,
) -> Maps:
    """Raw low-resolution maps of some images, all from one pass; a notebook draws them over the first images.

    Args:
        model: a classifier or its name. A module's parameters and mode are restored afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, used as they are; or as for `evaluate`.
        cams: names from `camrobust list cams`.
        target_layer: a submodule or its dotted name, None to discover it.
        targets: the class (or label, or number of the value) to explain on each image, or one for all; None for the
            predicted one.
        mean: mean of the normalisation, one value for each channel of the images; None for the builder's own, and
            for a module ImageNet's.
        std: standard deviation of the normalisation; None as for the mean.
        head: how the outputs are read, as in a configuration: "softmax", "binary", "multilabel",
            "multilabel:explained=2", "value:tolerance=0.5"; None for binary where there is one output, else softmax.
        resize: shorter side of files after resizing, px.
        crop: side of the centre crop of files, px.
        seed: seed of the methods that draw random numbers.
        image_ids: names that the random draws depend on, as for `evaluate`.
        certify: also compute what cannot change within a distance of each image, for the ranks of Quickshift's segments
            under the class that most noisy copies are given: as for `evaluate`, but with the one sigma 0.12 where none
            is named. Every sample is a pass.

    Returns:
        (B, h, w) float32 on the model's device, by CAM; not normalised. With `certify` it has `certificates`, one row
        per image, CAM, sigma and radius (columns as `certificates.CERTIFICATES`), and `certain(0)` draws those of the
        first image.

    Raises:
        UserError: an unknown CAM or layer; with `certify` also an image given twice, or targets.
        ValueError: images of another shape.

    Examples:
        >>> import camrobust, torch, torchvision
        >>> model, photos = torchvision.models.squeezenet1_1(), torch.rand(2, 3, 64, 64)
        >>> maps = camrobust.explain(model, photos, ["gradcam", "eigencam"])
        >>> {name: tuple(values.shape) for name, values in maps.items()}
        {'gradcam': (2, 3, 3), 'eigencam': (2, 3, 3)}
        >>> maps = camrobust.explain(model, photos, certify={"samples": 20, "pilot": 5, "radii": [0, 0.1]})
        >>> maps.certificates.select("cam", "sigma", "radius_share", "n").rows()[:2]
        [('gradcam', 0.12, 0.0, 20), ('gradcam', 0.12, 0.1, 20)]
    """
    cams = as_list(cams)
    check_cams(cams)
    asked = certify_settings(certify, ONE_SIGMA)
    if asked is not None and targets is not None:
        raise UserError("targets: certify explains the class that most noisy copies are given; leave one of them out")
    functions = [CAMS[name].function for name in cams]
    names, pixels = pixels_of(images, resize, crop, image_ids, channels_of(model, mean))
    images = images if isinstance(images, Tensor) and images.dtype != torch.uint16 else pixels
    if asked is not None:
        check_once(names)
    if targets is not None:
        entries = [targets] * len(images) if isinstance(targets, int) or getattr(targets, "ndim", 1) == 0 else targets
        targets = per_image(entries, "targets", len(images), "pass one number for all of them, or a list")
    with ready_model(model, target_layer, pixels, mean, std, head) as ready:
        refuse_without_gradient(ready.network, [CAMS[name] for name in cams])
        draws = Draws.of(seed, "images", names, "cam", "clean", 0, ready.device)
        numbers = [class_number(target, "targets", ready.classes) for target in (() if targets is None else targets)]
        wanted = torch.tensor(numbers, device=ready.device)
        choose = None if targets is None else (lambda _: wanted)
        evidence = collect(ready.network, ready.inputs(images, "fp32"), choose, draws)
        maps = all_maps(evidence, functions)
        said = _said(ready, evidence.logits[:SHOWN].detach(), evidence.targets[:SHOWN], told=targets is not None)
        certified = None if asked is None else _certified(ready, pixels, names, cams, seed, asked)
    return Maps(
        {name: maps[:, number] for number, name in enumerate(cams)}, images, names, said, certified, ready.class_names
    )


def _certified(
    ready: Model, pixels: Tensor, names: Sequence[str], cams: Sequence[str], seed: int, asked: CertifySettings
) -> pl.DataFrame:
    """Rows with masks of some images, image by image, `certificates.CERTIFICATES`."""
    cut = torch.cat([segment(some) for some in pixels.split(SEGMENT_BATCH)])
    samples = map(Sample, repeat("images"), names, repeat(None), cut)
    images = [*map(ImageVariants, samples, pixels.split(1), repeat(()))]
    settings = MeasureSettings(tuple(CAMS[name].name for name in cams), seed, batch=pass_size(1, ready.device.type))
    rows = certificates(ready, images, settings, asked, drawn=frozenset(range(len(images))))
    return pl.DataFrame(make_table(CERTIFICATES, [row for of_image in rows for row in of_image]))


def _said(ready: Model, scores: Tensor, targets: Tensor, *, told: bool) -> list[str]:
    """What the model says of each image, in words: the class with its probability, or the value; what was explained.

    Args:
        ready: the model.
        scores: of the images, (B, n).
        targets: the explained classes, (B,).
        told: whether the user chose them.
    """
    readout, names = ready.network.readout, ready.class_names
    predicted = readout.predicted(scores)
    numbers, sure = predicted.tolist(), readout.confidence(scores, predicted).tolist()
    if readout.has_classes:
        said = [f"{spoken(number, names)}, {share:.0%}" for number, share in zip(numbers, sure, strict=True)]
    else:
        said = [f"value {value:.4g}" for value in readout.values(scores, predicted).tolist()]
    if not told:
        return said
    return [
        f"{words}; explained: {spoken(target, names)}" for words, target in zip(said, targets.tolist(), strict=True)
    ]
