"""One photo under perturbations: a row per perturbation, a column per strength."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from camrobust.contract.defaults import CROP, RESIZE, RGB
from camrobust.contract.errors import UserError
from camrobust.core.channels import as_photo, spoken
from camrobust.core.perturb import PERTURBATIONS, Variant, check_defined, make_variants, variants, without_model
from camrobust.interface.explain_grid import check_picture, write
from camrobust.interface.inputs import photo

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LEFT = 170
TEXT = 18
MARGIN = 4


def installed(channels: int = RGB) -> tuple[list[str], list[str]]:
    """Perturbations of such images that need no model, and the reasons why some of them are not available here."""
    names, missing = [], []
    for name in without_model():
        if not PERTURBATIONS[name].takes(channels):
            missing.append(f"{name} is not defined for images of {spoken(channels)}")
            continue
        try:
            PERTURBATIONS[name].ready()
            names.append(name)
        except UserError as error:
            missing.append(str(error).removeprefix("perturbations: "))
    return names, missing


def sheet(
    image: str, output: str, *, perturbations: Sequence[str], seed: int = 0, jpeg: int | None = None, cell: int = 160,
    channels: int = RGB,
) -> None:  # fmt: skip
    """Draw a photo and its perturbed variants.

    Args:
        image: path or address of the photo.
        output: picture to write; its suffix decides the format.
        perturbations: as in a configuration, such as fog, gaussian_noise:1,3 or preset:weather.
        seed: of every random draw.
        jpeg: variants are saved as JPEG of this quality and read back; None to leave this out.
        cell: side of one picture, px.
        channels: of the photo, which keeps its 16 bits unless there are three; then the grey mean is drawn.

    Raises:
        UserError: an unknown name, a photo that cannot be read, an output that cannot be written, a value out of range.
    """
    if not 16 <= cell <= 1024:
        raise UserError(f"sheet: cell must be 16 to 1024 (px), got {cell}; choose another size")
    if jpeg is not None and not 1 <= jpeg <= 100:
        raise UserError(
            f"sheet: resave-jpeg-quality must be 1 to 100 (JPEG quality), got {jpeg}; choose another quality"
        )
    check_picture(output, "sheet")
    check_defined((), channels, jpeg)
    planned = variants(list(perturbations), channels)
    attack = next((variant.perturbation for variant in planned if variant.needs_model), None)
    if attack is not None:
        raise UserError(f"sheet: '{attack}' needs a model; leave it out here and use `camrobust explain`")
    rows = [list(group) for _, group in groupby(planned, key=lambda variant: variant.perturbation)]
    pixels = photo(image, "sheet", RESIZE, CROP, channels=channels)
    step_x, step_y = cell + MARGIN, cell + TEXT + MARGIN
    picture = Image.new("RGB", (LEFT + step_x * (1 + max(map(len, rows))), step_y * len(rows)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    for row, group in enumerate(rows):
        stack = make_variants(pixels[None], group, [Path(image).name], "sheet", seed, jpeg)[0]
        photos = as_photo(stack).permute(0, 2, 3, 1).contiguous().numpy()
        draw.text((4, row * step_y + cell // 2), group[0].perturbation.replace("+", "\n+ "), "black", font)
        titles = ["clean", *(_title(variant, font, cell) for variant in group)]
        for column, (title, variant) in enumerate(zip(titles, photos, strict=True)):
            left = LEFT + column * step_x
            drawn = Image.fromarray(variant).resize((cell, cell), Image.Resampling.LANCZOS)
            picture.paste(drawn, (left, row * step_y))
            draw.text((left, row * step_y + cell), title, "black", font)
    write(output, picture, "sheet")


def _title(variant: Variant, font: Font, width: int) -> str:
    """The strength if it fits under a picture, otherwise the severity."""
    if variant.severity is None:
        return variant.strength
    title = f"{variant.severity}: {variant.strength}"
    return title if font.getlength(title) <= width else f"severity {variant.severity}"
