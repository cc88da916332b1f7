"""A figure: a Vega-Lite specification, the numbers that it draws, and the files of both."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line
from camrobust.summary.spreadsheet import csv_of

TEXT = "currentColor"
"""Charts take the page's text colour, so that they read in light and dark."""
INK, PAPER = "#1c1f24", "#ffffff"
"""Colours of text and background in the files, which have no page around them."""
NUMBERS = "numbers"
PNG_SCALE = 2.0
MEASURES = {
    "consistency_adjusted": "consistency (adjusted)",
    "responsiveness_adjusted": "responsiveness (adjusted)",
    "robustness_adjusted": "robustness RM (adjusted)",
    "consistency": "consistency (raw)",
    "responsiveness": "responsiveness (raw)",
    "robustness": "robustness RM (raw)",
    "flip_rate": "share of predictions that flipped",
    "accuracy_perturbed": "accuracy on the perturbed images",
}


@dataclass(frozen=True)
class Figure:
    """A chart of a table.

    Attributes:
        name: of its files, and its id on the page.
        specification: Vega-Lite without numbers; it reads the data set `numbers`.
        numbers: the numbers of every choice on the page.
    """

    name: str
    specification: dict[str, Any]
    numbers: pl.DataFrame

    def complete(self) -> dict[str, Any]:
        """The specification with its numbers, for any Vega-Lite renderer."""
        return {**self.specification, "datasets": {NUMBERS: self.numbers.to_dicts()}}

    def packed(self) -> dict[str, Any]:
        """The specification, and the numbers by column: a third of the bytes that rows would take."""
        return {"specification": self.specification, "columns": self.numbers.to_dict(as_series=False)}

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The first choice as NAME.svg and NAME.png, and all numbers as NAME.csv."""
        drawn = json.dumps({**self.complete(), "background": PAPER}).replace(f'"{TEXT}"', f'"{INK}"')
        try:
            yield f"{self.name}.svg", vl_convert.vegalite_to_svg(drawn).encode()
            yield f"{self.name}.png", vl_convert.vegalite_to_png(drawn, scale=PNG_SCALE)
        except ValueError as error:
            raise UserError(
                f"report: the figure {self.name} cannot be drawn from its numbers ({first_line(error)}); run camrobust "
                "aggregate again"
            ) from error
        yield f"{self.name}.csv", csv_of(self.numbers)


def source() -> alt.NamedData:
    """The data set that a figure's specification reads."""
    return alt.NamedData(name=NUMBERS)


def choice(key: str, options: Sequence[str], labels: Sequence[str] | None = None) -> alt.Parameter:
    """A list from which one value of a key is picked."""
    bind = alt.binding_select(options=list(options), labels=list(labels or options), name=f"{key} ")
    return alt.param(name=f"pick_{key}", value=options[0], bind=bind)


def choices(table: pl.DataFrame, *keys: str) -> list[alt.Parameter]:
    """A list for every key that has more than one value in the table."""
    options = {key: table[key].unique(maintain_order=True).to_list() for key in keys}
    return [choice(key, values) for key, values in options.items() if len(values) > 1]


def measure_choice(table: pl.DataFrame) -> alt.Parameter:
    """A list of the measures that have a value somewhere in the table."""
    names = [name for name in MEASURES if table[name].count()] or list(MEASURES)[:1]
    return choice("measure", names, [MEASURES[name] for name in names])


def picked(chosen: Sequence[alt.Parameter]) -> str:
    """The filter that keeps the rows that were picked from these lists."""
    kept = [f"datum['{parameter.name.removeprefix('pick_')}'] === {parameter.name}" for parameter in chosen]
    return " && ".join(kept) or "true"


def measured(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Keys, measures and their bounds, rounded to four places."""
    bounds = [f"{name}_{end}" for name in MEASURES for end in ("lower", "upper")]
    return table.select(
        *keys,
        *(pl.col(name).round(4) for name in MEASURES),
        *(pl.col(name).round(4) for name in bounds if name in table.columns),
    )


def plain(chart: alt.FacetChart | alt.LayerChart) -> dict[str, Any]:
    """The specification of a chart in the page's colours."""
    configured = (
        chart.configure(background="transparent", font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=TEXT,
            titleColor=TEXT,
            domainColor="#8886",
            tickColor="#8886",
            gridColor="#8883",
            labelFontSize=11,
            labelLimit=220,
            titleFontWeight="normal",
        )
        .configure_header(labelColor=TEXT, labelFontSize=13, labelFontWeight="bold", labelLimit=230)
        .configure_legend(
            labelColor=TEXT,
            titleColor=TEXT,
            labelFontSize=12,
            symbolStrokeWidth=3,
            symbolOpacity=1,
            orient="top",
            columns=6,
            labelLimit=170,
            title=None,
        )
    )
    specification: dict[str, Any] = configured.to_dict()
    return specification
