"""Results as HTML for a notebook: a table with the curves against severity, or maps over their photos."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from camrobust.contract.quoting import harmless
from camrobust.contract.schema import ADJUSTED
from camrobust.report.charts import severity_curves
from camrobust.report.figure import Figure
from camrobust.report.leaderboard import COLUMNS
from camrobust.report.measure import leading_measure, ranked_by
from camrobust.report.pictures import data_uri, overlay
from camrobust.summary.map_attacks import without_transfers

ATTACKED = {
    "attacked_consistency_adjusted": "consistency, own map attacked",
    "transferred_consistency_adjusted": "consistency, another CAM's map attacked",
}
"""Columns that are shown where a perturbation attacks maps."""

CERTAIN = (
    "<p>Certain: in colour the segments that are certain to be in the top of the order that is averaged over noise, "
    "dark those that are certain to be outside of it, striped the others. <code>certain(0)</code> draws the first "
    "image at every distance, <code>certificates</code> has the numbers.</p>"
)
"""What the pictures of certain segments are."""


def notebook(
    by_cam: pl.DataFrame, by_level: pl.DataFrame, controls: Sequence[str], same_as: Mapping[str, Mapping[str, str]]
) -> str:
    """The leaderboard and the curves against severity, as HTML without scripts; every name is escaped.

    Args:
        by_cam: summary table of that name.
        by_level: summary table of that name.
        controls: CAMs that serve as a floor.
        same_as: by model, CAMs to the CAM before them that gives the same maps.
    """
    ranked = ranked_by(by_cam, leading_measure(by_cam, controls))
    columns = COLUMNS | {name: title for name, title in ATTACKED.items() if ranked[name].count()}
    head = ["dataset", "model", "CAM", *columns.values(), "flipped", "images"]
    rows = "".join(f"<tr>{''.join(_cells(row, columns))}</tr>" for row in ranked.iter_rows(named=True))
    table = f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}</table>"
    curves = severity_curves(
        without_transfers(by_level, same_as), ranked["cam"].unique(maintain_order=True).to_list(), controls
    )
    drawn = _curves(curves, ranked)
    return _plain(f"<p>Adjusted: {ADJUSTED}. With 95 % intervals over images.</p>{table}{drawn}")


def _curves(curves: Figure | None, ranked: pl.DataFrame) -> str:
    """The curves as SVG, and a line about what is not in them."""
    if curves is None:
        return "<p>No curves: no strength was given as a severity.</p>"
    several = [key for key in ("model", "dataset") if ranked[key].n_unique() > 1]
    which = " and ".join(f"{key} {_text(str(curves.numbers[key][0]))}" for key in several)
    note = f"<p>Curves of {which} alone; <code>chart('curves')</code> has a choice of all.</p>" if several else ""
    return note + next(iter(curves.files()))[1].decode()


def pictures(
    photos: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float32]], names: Sequence[str], predicted: Sequence[str],
    count: int, certain: Sequence[Mapping[str, Image.Image]] = (),
) -> str:  # fmt: skip
    """A table with one row per photo and its maps, as HTML without scripts; every name is escaped.

    Args:
        photos: (B, H, W, 3).
        maps: maps (B, h, w) by CAM.
        names: of the B photos.
        predicted: what the model says of each, in words, or "".
        count: how many images there are; those that are not shown are counted below.
        certain: of each photo, pictures of its certain segments by title, the same titles for all; empty without.
    """
    head = "".join(f"<th>{_text(name)}</th>" for name in ("image", "photo", *maps, *(certain[0] if certain else ())))
    rows = []
    for number, photo in enumerate(photos):
        drawn = {"photo": Image.fromarray(photo)} | {
            cam: overlay(photo, values[number]) for cam, values in maps.items()
        }
        drawn |= certain[number] if certain else {}
        cells = "".join(f'<td><img src="{data_uri(picture)}" alt="{_text(names[number])}, {_text(name)}"></td>'
                        for name, picture in drawn.items())  # fmt: skip
        said = f"<br>{_text(predicted[number])}" if predicted[number] else ""
        rows.append(f"<tr><td>{_text(names[number])}{said}</td>{cells}</tr>")
    more = f"<p>The first {len(photos)} of {count} images.</p>" if count > len(photos) else ""
    return _plain(f"<table><tr>{head}</tr>{''.join(rows)}</table>{CERTAIN if certain else ''}{more}")


def _plain(html: str) -> str:
    """HTML in which a notebook looks for no formulas: a name may hold $."""
    return f'<div class="tex2jax_ignore mathjax_ignore">{html}</div>'


def _text(name: str) -> str:
    return escape(harmless(name))


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    names = [_text(str(row[name])) for name in ("dataset", "model", "cam")]
    flips = row["flip_rate"]
    numbers = ["–" if flips is None else f"{flips:.0%}", str(row["n_images"])]
    return [f"<td>{text}</td>" for text in (*names, *(_number(row, name) for name in columns), *numbers)]


def _number(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (row[name + suffix] for suffix in ("", "_lower", "_upper"))
    if value is None:
        return "–"
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f} to {high:.2f})"
