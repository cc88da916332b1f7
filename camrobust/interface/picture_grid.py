"""Pictures in rows and columns, with a name before each row and lines of text below each picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL = 224
LINE, LINES = 17, 2
"""Height of a line of text, px, and how many lines there is always room for."""
MARGIN = 8
LEFT = 150
ACROSS = 6
"""Number of columns side by side."""
WARNING = "#b00020"
"""The colour of lines that say that a class is another one, or is not certain."""


@dataclass(frozen=True)
class Cell:
    """One picture, the lines below it, and their colour."""

    picture: Image.Image
    lines: Sequence[str]
    colour: str = "black"


def picture_grid(names: Sequence[str], columns: Sequence[Sequence[Cell]]) -> Image.Image:
    """Columns of pictures; more than `ACROSS` of them are drawn in bands, one below the other.

    Args:
        names: one for each row.
        columns: of as many cells each.
    """
    across, rows = min(ACROSS, len(columns)), len(names)
    text = LINE * max(LINES, *(len(cell.lines) for cells in columns for cell in cells))
    bands = -(-len(columns) // ACROSS)
    step_x, step_y = CELL + MARGIN, CELL + text + MARGIN
    picture = Image.new("RGB", (LEFT + step_x * across, MARGIN + step_y * rows * bands), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for column, cells in enumerate(columns):
        for row, cell in enumerate(cells):
            left, top = LEFT + column % ACROSS * step_x, MARGIN + (column // ACROSS * rows + row) * step_y
            picture.paste(cell.picture.resize((CELL, CELL)), (left, top))
            below = "\n".join(_fitting(line, font) for line in cell.lines)
            draw.text((left, top + CELL + 1), below, cell.colour, font)
    for row, name in enumerate([*names] * bands):
        draw.text((MARGIN, MARGIN + row * step_y + CELL // 2), name, "black", font)
    return picture


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another, on white."""
    width, height = max(one.width for one in pictures), sum(one.height for one in pictures)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for one in pictures:
        whole.paste(one, (0, top))
        top += one.height
    return whole


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The line, shortened to the width of a cell."""
    while font.getlength(line) > CELL and len(line) > 1:
        line = line.rstrip("…")[:-1] + "…"
    return line
