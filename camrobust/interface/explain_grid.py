"""A grid of pictures of one photo: a row per CAM, a column per variant, with class, confidence and agreement."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.defaults import CROP, RESIZE, RGB
from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short
from camrobust.core.channels import as_photo
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import Variant, left_out, make_variants, variants
from camrobust.core.segments import quickshift
from camrobust.interface.certified_grid import certified_grid
from camrobust.interface.inputs import photo
from camrobust.interface.outputs import check_file
from camrobust.interface.picture_grid import WARNING, Cell, picture_grid, stacked
from camrobust.io.local_folder import write_file
from camrobust.io.objects import MissingObjectError, TooLargeObjectError
from camrobust.io.store import read_object
from camrobust.measure.built import ModelSpec
from camrobust.measure.certificates import certificates
from camrobust.measure.image import measure
from camrobust.measure.model import load_model
from camrobust.measure.settings import CertifySettings, ImageVariants, MeasureSettings, Sample, pass_size
from camrobust.measure.weights import MOST_BYTES
from camrobust.report.gallery import spoken
from camrobust.report.pictures import overlay
from camrobust.run.class_names import class_names


def explain_picture(
    image: str,
    output: str,
    *,
    model: str,
    cams: Sequence[str],
    perturbations: Sequence[str] = (),
    weights: str | None = None,
    target_layer: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    resize: int = RESIZE,
    crop: int = CROP,
    classes: str | None = None,
    head: str | None = None,
    seed: int = 0,
    certify: CertifySettings | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Draw the maps of a photo and of its perturbed variants.

    Args:
        image: path or address of the photo.
        output: picture to write; its suffix decides the format.
        model: builder, as in a configuration.
        cams: names of the CAMs, one row each.
        perturbations: such as gaussian_noise:3, one column each after the clean one.
        weights: weights file of the model.
        target_layer: dotted name of a submodule, None to discover it.
        mean: mean of the normalisation, None for the builder's own.
        std: standard deviation of the normalisation, None for the builder's own.
        resize: shorter side after resizing, px.
        crop: side of the centre crop, px.
        classes: "imagenet", or a text file of class names; None for the names that published weights come with.
        head: how the outputs are read, as in a configuration.
        seed: of every random draw.
        certify: below, also draw what is certain about every map within a distance; None leaves it out.
        say: takes what the user should know about the model.

    Raises:
        UserError: an unknown name, a photo that cannot be read, an output that cannot be written.
    """
    check_picture(output)
    names_of_cams = tuple(CAMS[name].name for name in cams)
    channels = len(mean) if mean else RGB
    planned = _planned(perturbations, channels, cams)
    if not 8 <= crop <= resize <= 4096:
        raise UserError(
            f"explain: crop must be from 8 px to resize, and resize at most 4096 px, got {crop} and {resize}"
        )
    pixels = photo(image, "explain", resize, crop, channels=channels)
    try:
        content = None if weights is None else read_object(weights, most=MOST_BYTES)
    except (MissingObjectError, TooLargeObjectError) as error:
        raise UserError(f"explain: {error}; correct the path") from error
    spec = ModelSpec(model.partition(":")[2] or model, model, weights, target_layer, mean, std, head=head)
    ready = load_model(spec, content, crop)
    if ready.channels != channels:  # the builder names a normalisation of its own
        planned = _planned(perturbations, ready.channels, cams)
        pixels = photo(image, "explain", resize, crop, channels=ready.channels)
    for remark in (*ready.remarks, *left_out(perturbations, ready.channels)):
        say(f"warning: {remark}")
    names = class_names(spec, classes, ready.classes, ready.class_names)
    sample = Sample("explain", Path(image).name, None, quickshift(pixels[None])[0])
    stack = make_variants(pixels[None], planned, [sample.image_id], sample.dataset, seed)[0]
    settings = MeasureSettings(names_of_cams, seed, batch=pass_size(len(planned) + 1, "cpu"))
    scores, kept = measure(ready, [ImageVariants(sample, stack, planned)], settings, keep={0})
    explained = kept[0]
    per_variant = zip(
        (None, *planned), explained.predictions.tolist(), explained.confidences.tolist(), explained.values.tolist(),
        explained.kept.tolist(), strict=True,
    )  # fmt: skip
    columns = [
        _Column(
            title=f"{variant.perturbation} {variant.severity or variant.strength}" if variant else "clean",
            prediction=f"{value:.4g}" if np.isnan(confidence) else f"{confidence:.0%} {spoken(label, names)}",
            flipped=not stayed,
        )
        for variant, label, confidence, value, stayed in per_variant
    ]
    agreement = {name: scores[name].reshape(len(planned), len(cams)) for name in ("rbo", "rbo_adjusted")}
    picture = _grid(as_photo(explained.pixels).numpy(), explained.maps.cpu().numpy(), cams, columns, agreement)
    if certify is not None:
        (rows,) = certificates(ready, [ImageVariants(sample, stack[:1], ())], settings, certify, drawn={0})
        picture = stacked([picture, certified_grid(rows, as_photo(stack)[0].permute(1, 2, 0).numpy(), names)])
    write(output, picture)


def _planned(perturbations: Sequence[str], channels: int, cams: Sequence[str]) -> tuple[Variant, ...]:
    return variants(list(perturbations), channels, cams) if perturbations else ()


def check_picture(output: str, command: str = "explain") -> str:
    """The format of a picture that is to be written; called before it is drawn.

    Args:
        output: path of the file.
        command: first word of an error message.

    Raises:
        UserError: the suffix names no picture format, or the file cannot be written.
    """
    form = Image.registered_extensions().get(Path(output).suffix.lower(), "")
    if form not in Image.SAVE:
        raise UserError(f"{command}: output must end in .png, .jpg or .webp, got '{short(output)}'; name the picture")
    check_file(output, command)
    return form


def write(output: str, picture: Image.Image, command: str = "explain") -> None:
    """Write a picture in the format that its suffix names.

    Args:
        output: path of the file.
        picture: what to write.
        command: first word of an error message.

    Raises:
        UserError: the suffix names no picture format, or the file cannot be written.
    """
    sink, form = BytesIO(), check_picture(output, command)
    try:
        picture.save(sink, form)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{command}: a picture of {picture.width} × {picture.height} px cannot be written as "
                        f"'{short(output)}' ({first_line(error)}); choose .png") from error  # fmt: skip
    try:
        write_file(Path(output), sink.getvalue())
    except OSError as error:
        raise UserError(
            f"{command}: cannot write '{short(output)}' ({error.strerror}); choose another --output"
        ) from error


@dataclass(frozen=True)
class _Column:
    """The text under one variant."""

    title: str
    prediction: str
    flipped: bool


def _grid(
    photos: NDArray[np.uint8], maps: NDArray[np.float32], cams: Sequence[str], columns: Sequence[_Column],
    agreement: Mapping[str, NDArray[Any]],
) -> Image.Image:  # fmt: skip
    """Photos in the first row, then a row of maps per CAM; under a perturbed map its agreement with the clean one.

    If the prediction flipped, the text says so in red.
    """
    cells = []
    for column, about in enumerate(columns):
        colour = WARNING if about.flipped else "black"
        photo = np.ascontiguousarray(photos[column].transpose(1, 2, 0))
        below = (about.title, f"{'flipped: ' if about.flipped else ''}{about.prediction}")
        cells.append([Cell(Image.fromarray(photo), below, colour)])
        for row, _ in enumerate(cams):
            text = ""
            if column and agreement:
                raw, adjusted = (float(agreement[name][column - 1, row]) for name in ("rbo", "rbo_adjusted"))
                text = "no ranking (flat map)" if np.isnan(raw) else f"RBO {raw:.2f}, adjusted {adjusted:.2f}"
            cells[-1].append(Cell(overlay(photo, maps[column, row]), (text,), colour))
    return picture_grid(["photo", *cams], cells)
