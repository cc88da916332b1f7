"""One photo as a picture grid: CAMs down, perturbations across, with class, confidence and agreement."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from camrobust.core.cams import CAMS
from camrobust.core.perturb import make_variants, variants
from camrobust.core.segments import quickshift
from camrobust.errors import UserError
from camrobust.io.images import ImageError, decode
from camrobust.io.objects import MissingObjectError
from camrobust.io.store import read_object
from camrobust.measure import Sample, Settings, compare, explain_variants
from camrobust.models import ModelSpec, load_model
from camrobust.report.gallery import overlay

CELL = 224
TEXT = 34
MARGIN = 8
LEFT = 150


def explain_picture(
    image: str,
    output: str,
    *,
    model: str,
    cams: Sequence[str],
    perturbations: Sequence[str] = (),
    weights: str | None = None,
    target_layer: str | None = None,
    seed: int = 0,
) -> None:
    """Draw the maps of a photo and of its perturbed variants.

    Args:
        image: path or address of the photo.
        output: picture to write; its suffix decides the format.
        model: builder, as in a configuration.
        cams: names of the CAMs, one row each.
        perturbations: such as gaussian_noise:3, one column each after the clean one.
        weights: of the model.
        target_layer: of the model.
        seed: of every random draw.

    Raises:
        UserError: an unknown name, a photo that cannot be read, an output that cannot be written.
    """
    planned = variants(list(perturbations)) if perturbations else ()
    settings = Settings(tuple(CAMS[name].name for name in cams), seed)
    pixels = photo(image, "explain")
    try:
        content = None if weights is None else read_object(weights)
    except MissingObjectError as error:
        raise UserError(f"explain: {error}; mend the path") from error
    ready = load_model(ModelSpec(model.partition(":")[2] or model, model, weights, target_layer), content)
    sample = Sample("explain", Path(image).name, None, quickshift(pixels[None])[0])
    stack = make_variants(pixels, planned, sample.image_id, sample.dataset, seed)
    explained = explain_variants(ready, sample, stack, planned, settings)
    agreement = compare(explained, sample.segments, settings)["rbo"].cpu().numpy() if planned else None
    titles = ["clean", *(f"{one.perturbation} {one.severity or one.parameter}" for one in planned)]
    notes = [
        f"class {label}, {confidence:.0%}"
        for label, confidence in zip(explained.predictions.tolist(), explained.confidences.tolist(), strict=True)
    ]
    write(output, _grid(explained.pixels.numpy(), explained.maps.cpu().numpy(), list(cams), titles, notes, agreement))


def photo(image: str, command: str) -> torch.Tensor:
    """(3, 224, 224) uint8 of a file or an object on S3.

    Raises:
        UserError: it is not there, or no photo.
    """
    try:
        return torch.from_numpy(decode(read_object(image), 256, CELL).pixels)
    except MissingObjectError as error:
        raise UserError(f"{command}: {error}; mend the path") from error
    except ImageError as error:
        raise UserError(f"{command}: '{image}' cannot be used: {error.message}") from error


def write(output: str, picture: Image.Image, command: str = "explain") -> None:
    """Write a picture in the format of its suffix.

    Raises:
        UserError: a suffix of no such format, or a place that cannot be written.
    """
    sink = BytesIO()
    suffix = Path(output).suffix.lower()
    formats = Image.registered_extensions()
    if formats.get(suffix) not in Image.SAVE:
        raise UserError(f"{command}: output must end in .png, .jpg or .webp, got '{output}'; name the picture")
    picture.save(sink, formats[suffix])
    try:
        Path(output).write_bytes(sink.getvalue())
    except OSError as error:
        raise UserError(f"{command}: cannot write '{output}' ({error.strerror}); choose another --output") from error


def _grid(
    photos: np.ndarray, maps: np.ndarray, cams: list[str], titles: list[str], notes: list[str],
    agreement: np.ndarray | None,
) -> Image.Image:  # fmt: skip
    """Photos in the first row, one row of maps per CAM below; RBO under each perturbed map."""
    step_x, step_y = CELL + MARGIN, CELL + TEXT + MARGIN
    picture = Image.new("RGB", (LEFT + step_x * len(titles), step_y * (len(cams) + 1)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for column, title in enumerate(titles):
        left = LEFT + column * step_x
        photo = np.ascontiguousarray(photos[column].transpose(1, 2, 0))
        picture.paste(Image.fromarray(photo).resize((CELL, CELL)), (left, 0))
        draw.text((left, CELL + 1), f"{title}\n{notes[column]}", "black", font)
        for row, _ in enumerate(cams):
            top = (row + 1) * step_y
            picture.paste(overlay(photo, maps[column, row]).resize((CELL, CELL)), (left, top))
            if agreement is not None and column:
                value = agreement[column - 1, row]
                text = "no ranking (flat map)" if np.isnan(value) else f"RBO {value:.2f}"
                draw.text((left, top + CELL + 1), text, "black", font)
    for row, name in enumerate(cams):
        draw.text((4, (row + 1) * step_y + CELL // 2), name, "black", font)
    return picture
