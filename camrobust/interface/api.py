"""In process, without Ray: for notebooks, tests and twenty images.

Gradients are taken wherever these are called, under torch.no_grad() and torch.inference_mode() as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from camrobust.contract.defaults import CROP, PRECISIONS, RESIZE
from camrobust.contract.errors import UserError
from camrobust.contract.schema import SCORES, SUMMARIES
from camrobust.core.draws import Draws
from camrobust.core.explain.cams import CAMS
from camrobust.core.explain.evidence import collect, predicted
from camrobust.core.explain.evidence import explain as all_maps
from camrobust.core.explain.network import frozen
from camrobust.core.perturb import attack as made_by
from camrobust.core.perturb import make_variants, variants
from camrobust.core.perturb.attacks.on_map import minimal_eps as smallest
from camrobust.core.segments import segment
from camrobust.interface.inputs import Photographs, check_once, levels, photo, pixels_of
from camrobust.interface.notebook import notebook, pictures
from camrobust.measure.image import MeasureSettings, Sample, measure
from camrobust.measure.model import IMAGENET_MEAN, IMAGENET_STD, Model, ModelSpec, load_model, wrap
from camrobust.report.gallery import overlay as drawn
from camrobust.results.arrow import make_table
from camrobust.results.folder import open_run
from camrobust.summary.aggregate import Reduction, SummarySettings, reduce_frame
from camrobust.summary.significance import significance_tests
from camrobust.summary.stability import per_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 6
"""Images that a notebook shows with their maps."""
SEGMENT_BATCH = 8
"""Images that are cut at once, on as many threads as torch has."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on some images.

    Attributes:
        scores: one row per image, CAM and variant; columns as `schema.SCORES`.
        controls: names of the CAMs that are a floor.
        average: how a run's own tables were made.
        intervals: likewise.
        seed: likewise, of the bootstrap.
    """

    scores: pl.DataFrame
    controls: tuple[str, ...]
    average: str = "macro"
    intervals: str = "delta"
    seed: int = 0

    def summary(self, by: str = "by_cam", average: str | None = None, intervals: str | None = None) -> pl.DataFrame:
        """Consistency, responsiveness and robustness with intervals; or tests of their differences.

        Args:
            by: by_level, by_perturbation, by_cam, by_model, by_dataset or tests.
            average: "macro" (per image first) or "micro" (over all pairs); None for the run's own.
            intervals: "delta" or "bootstrap", clustered by image either way; None for the run's own.

        Raises:
            UserError: there is no such table.
        """
        if by not in (*SUMMARIES, "tests"):
            raise UserError(f"summary: by must be one of {', '.join((*SUMMARIES, 'tests'))}, got '{by}'")
        reduction = self._reduced(average, intervals)
        return significance_tests(reduction.profiles) if by == "tests" else reduction.tables[by]

    def _reduced(self, average: str | None = None, intervals: str | None = None) -> Reduction:
        settings = SummarySettings(average or self.average, self.controls, intervals or self.intervals, self.seed)
        return reduce_frame(self.scores.lazy(), settings)

    def _repr_html_(self) -> str:
        """The leaderboard and the curves against severity, in a notebook."""
        tables = self._reduced().tables
        return notebook(tables["by_cam"], tables["by_level"], self.controls)

    def stability(self, *, same_class: bool = True) -> pl.DataFrame:
        """Max- and avg-sensitivity, local Lipschitz estimate, continuity and relative stabilities of every image.

        Args:
            same_class: only variants that kept the predicted class.

        Returns:
            One row per image and CAM, columns as `schema.IMAGE_STABILITY`.
        """
        return per_image(self.scores.lazy(), same_class=same_class).collect()


class Maps(dict[str, Tensor]):
    """Maps (B, h, w) by CAM; a notebook shows those of the first images over them.

    Args:
        maps: by CAM.
        images: the first of them, (b, 3, H, W) uint8 or in [0, 1].
    """

    def __init__(self, maps: Mapping[str, Tensor], images: Tensor) -> None:
        super().__init__(maps)
        self._photos = levels(images).permute(0, 2, 3, 1).numpy()

    def _repr_html_(self) -> str:
        return pictures(self._photos, {name: one[:SHOWN].float().cpu().numpy() for name, one in self.items()})


def load_run(uri: str | Path) -> Evaluation:
    """The scores of a run folder, local or on S3.

    Raises:
        UserError: there is no run in that folder.
    """
    folder = open_run(str(uri))
    document = folder.run()
    metric = document["config"]["metric"]
    return Evaluation(
        folder.scores(folder.committed()),
        tuple(document["controls"]),
        metric["average"],
        document["config"]["summary"]["intervals"],
        document["config"]["seed"],
    )


def _model(
    model: nn.Module | str | Model, target_layer: str | None, image_size: tuple[int, int], **keywords: Any
) -> Model:
    if isinstance(model, Model):
        return model
    if isinstance(model, str):
        name = model.partition(":")[2] or model
        return load_model(ModelSpec(name, model, target_layer=target_layer), image_size=image_size[1])
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module or a name such as torchvision:resnet50, got {type(model)}")
    return wrap(model, target_layer=target_layer, image_size=image_size, **keywords)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


def _several(names: str | Sequence[Any] | Mapping[str, object]) -> Sequence[Any]:
    """A list, also where one entry stands alone."""
    return [names] if isinstance(names, (str, Mapping)) else list(names)


def overlay(
    image: "str | Path | Tensor | NDArray[Any] | Image.Image", values: "Tensor | NDArray[Any]", strength: float = 0.55
) -> Image.Image:
    """A map over its photo, as a picture.

    Args:
        image: (3, H, W) tensor, uint8 or in [0, 1], before normalisation; (H, W, 3) uint8 array; a picture; or the
            path of one, which is cropped as `evaluate` and `explain` do by default.
        values: (h, w), a raw map; drawn min-max scaled and upsampled, NaN and constant maps as the least value.
        strength: opacity of the map, [0, 1].

    Raises:
        ValueError: an image or a map of another shape, or a strength out of its range.
    """
    if isinstance(image, (str, Path)):
        image = photo(image, "image", RESIZE, CROP)
    if isinstance(image, Image.Image):
        array = np.asarray(image.convert("RGB"))
    elif isinstance(image, Tensor):
        array = levels(image[None])[0].permute(1, 2, 0).numpy()
    else:
        array = image
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image: must be (H, W, 3) uint8, got {array.shape} {array.dtype}; pass a tensor (3, H, W)")
    if values.ndim != 2:
        raise ValueError(f"values: must be one map (h, w), got {tuple(values.shape)}; choose one of the batch")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: must be in [0, 1], got {strength}")
    field = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
    return drawn(array, field, strength)


def _check_cams(cams: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(cams).items() if count > 1), None)
    if not cams or twice is not None:
        got = "none" if twice is None else f"'{twice}' twice"
        raise UserError(f"cams: must be one or more different names, got {got}; see `camrobust list cams`")


def _check_evaluation(explained_class: str, precision: str, resave_jpeg_quality: int | None) -> None:
    """What a configuration's types would refuse."""
    for name, value, known in (
        ("explained_class", explained_class, ("predicted", "clean")),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise UserError(f"{name}: must be one of {', '.join(known)}, got '{value}'")
    if resave_jpeg_quality is not None and (
        type(resave_jpeg_quality) is not int or not 1 <= resave_jpeg_quality <= 100
    ):
        raise UserError(
            "resave_jpeg_quality: must be a whole number from 1 to 100 (JPEG quality), "
            f"got {resave_jpeg_quality}; None leaves it out"
        )


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
    target_layer: str | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
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
) -> Evaluation:
    """Measure how robust a model's maps are to noise, in this process.

    Args:
        model: a classifier, or its name. A module's parameters and mode are put back afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, used as they are; or a folder, or a list of
            paths, pictures and (3, H, W) arrays.
        cams: names from `camrobust list cams`.
        perturbations: as in a configuration.
        labels: true classes, one per image; None where unknown.
        seed: of every random draw.
        target_layer: dotted name of a submodule, None to discover it.
        mean: of the normalisation, for a module.
        std: of the normalisation, for a module.
        resize: shorter side of files after resizing, px.
        crop: side of the centre crop of files, px.
        rbo_p: persistence of rank-biased overlap.
        ties: its tie rule.
        explained_class: "predicted" explains each variant's own class, "clean" the clean image's class on all.
        precision: of the forward pass: fp32, tf32, bf16 or fp16.
        segments: how images are cut, a method's name or as in a configuration: {"method": "slic", "n_segments": 40};
            None for Quickshift.
        similarities: measures beside rank-biased overlap, from `camrobust list similarities`; None for all that cost
            little. The columns of the others hold null.
        resave_jpeg_quality: quality of a JPEG file that perturbed images go through, as ImageNet-C's did
            (85); None for none.
        image_ids: one unique text per image, which names it in the result and on which its random draws hang. None for
            ids that do not depend on what else is in the call: of a folder's images the path below it, as in a run; of
            other files the name and a hash of the bytes; of tensors, arrays and pictures a hash of the pixels.

    Raises:
        UserError: an unknown name, a file that is no image, or an image given twice.
        ValueError: images of another shape, or labels or image_ids that do not have one entry per image.
    """
    planned, cams = variants(_several(perturbations)), _several(cams)
    measures = None if similarities is None else tuple(_several(similarities))
    _check_cams(cams)
    _check_evaluation(explained_class, precision, resave_jpeg_quality)
    settings = MeasureSettings(
        tuple(CAMS[name].name for name in cams),
        seed,
        rbo_p,
        ties,
        explained_class,
        similarities=measures,
        precision=precision,
    )
    cutting = {"method": segments} if isinstance(segments, str) else dict(segments or {})
    names, pixels = pixels_of(images, resize, crop, image_ids)
    check_once(names)
    known = [None] * len(names) if labels is None else list(labels)
    if len(known) != len(names):
        raise ValueError(f"labels: must be one per image ({len(names)}), got {len(known)}; pass None where unknown")
    tables = []
    module = model if isinstance(model, nn.Module) else nn.Identity()
    with frozen(module):
        ready = _model(model, target_layer, _size(pixels), mean=mean, std=std)
        truths = [None if one is None else _class(one, "labels", ready.classes) for one in known]
        cut = torch.cat([segment(part, **cutting) for part in pixels.split(SEGMENT_BATCH)])
        for name, image, label, segments_of in zip(names, pixels, truths, cut, strict=True):
            sample = Sample("images", name, label, segments_of)
            stack = make_variants(image[None], planned, [name], "images", seed, resave_jpeg_quality)[0]
            found, _ = measure(ready, sample, stack, planned, settings)
            tables.append(make_table(SCORES, found))
    scores = pl.DataFrame(pa.concat_tables(tables or [make_table(SCORES, [])]))
    return Evaluation(scores, tuple(one for one in cams if CAMS[one].control))


def _class(value: object, what: str, classes: int) -> int:
    """A class number, checked."""
    try:
        number = int(value)  # type: ignore[call-overload]
        whole = bool(number == value) and not isinstance(value, (bool, np.bool_))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or not 0 <= number < classes:
        raise UserError(f"{what}: must be class numbers from 0 to {classes - 1}, got {value!r}; number the classes as "
                        "the logits are")  # fmt: skip
    return int(number)


@torch.inference_mode(False)
@torch.enable_grad()
def explain(
    model: nn.Module | str | Model,
    images: Photographs,
    cams: str | Sequence[str] = ("gradcam",),
    target_layer: str | None = None,
    *,
    targets: Sequence[int] | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    resize: int = RESIZE,
    crop: int = CROP,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> "Maps":
    """Raw low-resolution maps of some images, all from one pass; in a notebook, drawn over the first of them.

    Args:
        model: a classifier, or its name. A module's parameters and mode are put back afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, used as they are; or as for `evaluate`.
        cams: names from `camrobust list cams`.
        target_layer: dotted name of a submodule, None to discover it.
        targets: the class to explain on each image, None for the predicted one.
        mean: of the normalisation, for a module.
        std: of the normalisation, for a module.
        resize: shorter side of files after resizing, px.
        crop: side of the centre crop of files, px.
        seed: of the methods that draw.
        image_ids: on which random draws hang, as for `evaluate`.

    Returns:
        (B, h, w) float32 on the model's device, by CAM; not normalised.

    Raises:
        UserError: an unknown CAM or layer.
        ValueError: images of another shape.
    """
    cams = _several(cams)
    _check_cams(cams)
    functions = [CAMS[name].function for name in cams]
    names, pixels = pixels_of(images, resize, crop, image_ids)
    images = images if isinstance(images, Tensor) else pixels
    if targets is not None and len(targets) != len(images):
        raise ValueError(f"targets: must be one class per image ({len(images)}), got {len(targets)}")
    module = model if isinstance(model, nn.Module) else nn.Identity()
    with frozen(module):
        ready = _model(model, target_layer, _size(images), mean=mean, std=std)
        draws = Draws.of(seed, "images", names, "cam", "clean", 0, ready.device)
        wanted = (
            None if targets is None
            else torch.tensor([_class(one, "targets", ready.classes) for one in targets], device=ready.device)
        )  # fmt: skip
        choose = predicted if wanted is None else (lambda _: wanted)
        evidence = collect(ready.network, ready.inputs(images, "fp32"), choose, draws)
        maps = all_maps(evidence, functions)
    return Maps({name: maps[:, number] for number, name in enumerate(cams)}, images[:SHOWN])


@torch.inference_mode(False)
@torch.enable_grad()
def attack(
    model: nn.Module | str | Model,
    images: Photographs,
    perturbation: str = "pgd:3",
    target_layer: str | None = None,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> Tensor:
    """Images that an attack makes of clean ones, for one model.

    Args:
        model: a classifier, or its name. A module's parameters and mode are put back afterwards.
        images: (B, 3, H, W) uint8 or in [0, 1], before normalisation, rounded to 256 levels; or as for `evaluate`,
            files cropped as it does by default.
        perturbation: one of the family adversarial at one strength: "fgsm:3", "pgd:epsilon=4,steps=20,step=1",
            "cam_attack:3".
        target_layer: dotted name of a submodule, None to discover it; of the attacks on maps.
        mean: of the normalisation, for a module.
        std: of the normalisation, for a module.
        seed: of the random start.
        image_ids: on which random draws hang, as for `evaluate`.

    Returns:
        (B, 3, H, W) uint8 on the CPU.

    Raises:
        UserError: an unknown perturbation, one that needs no model, or several strengths.
        ValueError: images of another shape.
    """
    planned = variants([perturbation])
    if len(planned) != 1 or not planned[0].needs_model:
        raise UserError(f"attack: '{perturbation}' must be one strength of a perturbation that needs a model; see "
                        "`camrobust list perturbations`")  # fmt: skip
    with _victim(model, images, target_layer, mean, std, image_ids) as (ready, names, levels):
        made = made_by(ready, levels, planned * len(levels), names, "images", seed)
    return (made * 255).round().to(torch.uint8).cpu()


@torch.inference_mode(False)
@torch.enable_grad()
def minimal_eps(
    model: nn.Module | str | Model,
    images: Photographs,
    cam: str = "gradcam",
    target_layer: str | None = None,
    *,
    below: float = 0.5,
    similarity: str = "topk_iou",
    most: int = 16,
    steps: int = 20,
    objective: str = "top",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> list[int | None]:
    """The smallest ε/255 at which an attack that keeps the class makes the map unlike the clean one.

    Args and errors as `core.perturb.cam_attack.minimal_eps`; model, images, normalisation and image_ids as in `attack`.

    Returns:
        For each image the radius in 1/255, None where none up to `most` will do.
    """
    with _victim(model, images, target_layer, mean, std, image_ids) as (ready, names, levels):
        return smallest(
            ready, levels, names, below=below, most=most, steps=steps, cam=cam, objective=objective,
            similarity=similarity, seed=seed,
        )  # fmt: skip


@contextmanager
def _victim(
    model: nn.Module | str | Model, images: Photographs, target_layer: str | None, mean: tuple[float, ...],
    std: tuple[float, ...], image_ids: Sequence[str] | None,
) -> Iterator[tuple[Model, list[str], Tensor]]:  # fmt: skip
    """The model, frozen while open, and the images' ids, and they in [0, 1] at 256 levels on its device."""
    names, pixels = pixels_of(images, RESIZE, CROP, image_ids)
    with frozen(model if isinstance(model, nn.Module) else nn.Identity()):
        ready = _model(model, target_layer, _size(pixels), mean=mean, std=std)
        yield ready, names, pixels.to(ready.device).float() / 255
