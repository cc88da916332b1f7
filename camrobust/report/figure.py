"""A figure: a Vega-Lite specification, the numbers that it draws, and the files of both."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
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
NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(?:00(?:0[0-8bcef]|1[0-9a-f])|fff[ef])", re.IGNORECASE)
"""The same characters as Vega's expressions write them."""
MEASURES = {
    "consistency_adjusted": "adjusted consistency",
    "responsiveness_adjusted": "adjusted responsiveness",
    "robustness_adjusted": "adjusted RM",
    "consistency": "raw consistency",
    "responsiveness": "raw responsiveness",
    "robustness": "raw RM",
    "flip_rate": "share of predictions that flipped",
    "accuracy_perturbed": "accuracy on the perturbed images",
}
UNITS = {
    "consistency_adjusted": ("adjusted consistency", "(0 = chance, 1 = same ranking)"),
    "responsiveness_adjusted": ("adjusted responsiveness", "(0 = same ranking, 1 = chance)"),
    "robustness_adjusted": ("adjusted RM", "(0 = chance)"),
    "consistency": ("raw consistency", "(rank-biased overlap, 0 to 1)"),
    "responsiveness": ("raw responsiveness", "(1 - rank-biased overlap, 0 to 1)"),
    "robustness": ("raw RM", "(0 to 1)"),
    "flip_rate": ("share of predictions that flipped", "(0 to 1)"),
    "accuracy_perturbed": ("accuracy on the perturbed images", "(0 to 1)"),
}
"""Measures with their range, for the axes, in two lines: panels are narrow."""
MEASURED = "@measure"
"""Stands for the picked measure in the title of an axis, which Vega-Lite cannot compute; see `with_measure`."""
PAIRS = (
    "indexof(pick_measure, 'consistency') == 0 ? datum.n_same : indexof(pick_measure, 'responsiveness') == 0 ? "
    "datum.n_flipped : indexof(pick_measure, 'robustness') == 0 ? min(datum.n_same, datum.n_flipped) : datum.n_pairs"
)
"""How many pairs are behind a value: of RM those of the factor that has fewer."""
KEYS = {"family": "perturbations", "counted": "counting", "seen": "thin lines: seen", "band": "bands of"}
"""What a key is called in titles and beside its list, where its own name says too little."""
COUNTS = ("n_images", "n_pairs", "n_same", "n_flipped")


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
        return {**with_measure(self.specification), "datasets": {NUMBERS: self.numbers.to_dicts()}}

    def chart(self) -> alt.TopLevelMixin:
        """The figure as an Altair chart in the colours of the files."""
        drawn = json.loads(json.dumps({**self.complete(), "background": PAPER}).replace(f'"{TEXT}"', f'"{INK}"'))
        made: alt.TopLevelMixin = alt.Chart.from_dict(drawn)
        return made

    def packed(self) -> dict[str, Any]:
        """The specification, and the numbers by column: a third of the bytes that rows would take."""
        return {"specification": self.specification, "columns": self.numbers.to_dict(as_series=False)}

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The first choice as NAME.svg, NAME.png and NAME.pdf, and all numbers as NAME.csv."""
        whole = drawable({**self.complete(), "background": PAPER, "padding": 8})
        drawn = json.dumps(whole).replace(f'"{TEXT}"', f'"{INK}"')
        try:
            yield f"{self.name}.svg", vl_convert.vegalite_to_svg(drawn).encode()
            yield f"{self.name}.png", vl_convert.vegalite_to_png(drawn, scale=PNG_SCALE)
            yield f"{self.name}.pdf", vl_convert.vegalite_to_pdf(drawn)
        except ValueError as error:
            raise UserError(
                f"report: the figure {self.name} cannot be drawn from its numbers ({first_line(error)}); run camrobust "
                "aggregate again"
            ) from error
        yield f"{self.name}.csv", csv_of(self.numbers)


def drawable(value: Any) -> Any:
    """The same with a replacement character for each that XML does not have; the library would abort the process."""
    if isinstance(value, str):
        return ESCAPED.sub(r"\1\\ufffd", NOT_IN_XML.sub("\ufffd", value))
    if isinstance(value, dict):
        return {drawable(key): drawable(one) for key, one in value.items()}
    return [drawable(one) for one in value] if isinstance(value, list | tuple) else value


def with_measure(specification: dict[str, Any]) -> dict[str, Any]:
    """The specification with the first measure in the titles of its axes."""
    params = specification.get("params", ())
    first = next((one["value"] for one in params if one["name"] == "pick_measure"), None)
    text = json.dumps(specification)
    whole: dict[str, Any] = json.loads(text.replace(f'"{MEASURED}"', json.dumps(UNITS.get(str(first), ""))))
    return whole


@cache
def source() -> alt.NamedData:
    """The data set that a figure's specification reads."""
    return alt.NamedData(name=NUMBERS)


def choice(key: str, options: Sequence[str], labels: Sequence[str] | None = None) -> alt.Parameter:
    """A list from which one value of a key is picked."""
    bind = alt.binding_select(options=list(options), labels=list(labels or options), name=f"{KEYS.get(key, key)} ")
    return alt.param(name=f"pick_{key}", value=options[0], bind=bind)


def choices(table: pl.DataFrame, *keys: str) -> list[alt.Parameter]:
    """A list for every key that has more than one value in the table."""
    options = {key: table[key].unique(maintain_order=True).to_list() for key in keys}
    return [choice(key, values) for key, values in options.items() if len(values) > 1]


def measure_choice(table: pl.DataFrame, first: str | None, *keys: str) -> alt.Parameter:
    """A list of the measures that have a value somewhere in the table.

    The one that is picked has one in the first view, which shows the first value of each key: `first` if it does.
    """
    names = [name for name in MEASURES if table[name].count()] or list(MEASURES)[:1]
    view = first_view(table, *keys)
    names.sort(key=lambda name: (not view[name].count(), name != first))
    return choice("measure", names, [MEASURES[name] for name in names])


def first_view(table: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """The rows with the first value of each key, which is picked before a reader picks another."""
    return table.filter(pl.col(key) == table[key][0] for key in keys) if keys else table


def heading(what: str, table: pl.DataFrame, *keys: str, more: Sequence[str] = ()) -> alt.Title:
    """A title that names what is drawn: the measure is said by the axis, each key by its picked or only value.

    Args:
        what: the first line.
        table: the figure's numbers.
        keys: columns that are fixed in a view, "model", "dataset" or "family".
        more: Vega expressions, a line each.
    """
    parts = []
    for key in keys:
        values = table[key].unique(maintain_order=True).to_list()
        value = f"pick_{key}" if len(values) > 1 else json.dumps(str(values[0]))
        parts.append(f"'{KEYS.get(key, key)} ' + {value}")
    images = _images(table, keys)
    number = f"'n = ' + {images} + ({images} == 1 ? ' image' : ' images')"
    second = " + ', ' + ".join([*parts, number])
    expression = alt.ExprRef(f"[{', '.join([json.dumps(what), second, *more])}]")
    return alt.Title(expression, anchor="start", fontSize=12, fontWeight="normal", color=TEXT, limit=900, offset=10)


def _images(table: pl.DataFrame, keys: Sequence[str]) -> str:
    """An expression: most images behind a value of the view."""
    several = [key for key in keys if table[key].n_unique() > 1]
    if not several:
        return str(table["n_images"].max() or 0)
    nested: dict[str, Any] = {}
    for row in table.group_by(several, maintain_order=True).agg(pl.col("n_images").max()).iter_rows(named=True):
        place = nested
        for key in several[:-1]:
            place = place.setdefault(row[key], {})
        place[row[several[-1]]] = row["n_images"]
    return f"({json.dumps(nested)})" + "".join(f"[pick_{key}]" for key in several)


def picked(chosen: Sequence[alt.Parameter]) -> str:
    """The filter that keeps the rows that were picked from these lists."""
    kept = [f"datum['{parameter.name.removeprefix('pick_')}'] === {parameter.name}" for parameter in chosen]
    return " && ".join(kept) or "true"


def measured(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Keys, measures and their bounds, rounded to four places, and counts."""
    bounds = [f"{name}_{end}" for name in MEASURES for end in ("lower", "upper")]
    return table.select(
        *keys,
        *(pl.col(name).round(4) for name in MEASURES),
        *(pl.col(name).round(4) for name in bounds if name in table.columns),
        *COUNTS,
    )


def plain(chart: alt.FacetChart | alt.LayerChart) -> dict[str, Any]:
    """The specification of a chart in the page's colours."""
    configured = (
        chart.configure(
            background="transparent",
            font="system-ui, sans-serif",
            # Else a view that a reader picks is cut where it is larger than the first.
            autosize=alt.AutoSizeParams(type="pad", resize=True),
        )
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
        .configure_header(labelColor=TEXT, titleColor=TEXT, labelFontSize=13, labelFontWeight="bold", labelLimit=230)
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
