"""The page's template: its frame, and a file for each section."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from camrobust.contract.quoting import harmless_lines
from camrobust.contract.units import counted, percent
from camrobust.report.findings import probability

PERCENT = re.compile("([0-9]) %")


@dataclass(frozen=True)
class Section:
    """A section of the page: `sections/ID.html.jinja`.

    Attributes:
        id: of its heading, and the name of its file.
        title: in the list of sections, unless the page's context has one as ID_title.
        needs: a key of the page's context; the section is there only where its value is true. Empty: always.
    """

    id: str
    title: str
    needs: str = ""


SECTIONS = (
    Section("leaderboard", "Leaderboard"),
    Section("compared", "Models and datasets", needs="compared"),
    Section("severity", "Against severity"),
    Section("overview", "CAM × perturbation"),
    Section("differences", "More than chance?", needs="tested"),
    Section("characteristics", "Characteristics", needs="explained"),
    Section("guarantees", "Guarantees", needs="guarantees"),
    Section("gallery", "Gallery"),
    Section("failures", "Failures", needs="n_failures"),
    Section("made", "How this was made"),
)
"""In the order of the page."""


def render(context: Mapping[str, Any]) -> str:
    """The page as HTML; every text of the context is escaped, and no character in it steers a screen or turns words."""
    shown = [
        (section.id, context.get(f"{section.id}_title", section.title))
        for section in SECTIONS
        if not section.needs or context[section.needs]
    ]
    fixed = {"style": Markup(_part("page.css")), "script": Markup(_part("page.js")), "vega": Markup(_vega())}
    return _template().render({**context, "sections": shown, **fixed})


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(_part), finalize=_harmless
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "p_value": _p_value,
        "counted": counted,
        "unbroken": _unbroken,
    }
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("page.html.jinja")


def _harmless(value: object) -> object:
    """Text in which no character changes the order of the words around it; what is HTML already stays."""
    return harmless_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _part(name: str) -> str:
    return files("camrobust.report").joinpath(name).read_text("utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script


def _number(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _percent(share: object, digits: int = 0) -> str:
    return percent(share, digits) if isinstance(share, (int, float)) else "–"


def _unbroken(text: str) -> str:
    """The same with no line break between a number and its percent sign."""
    return PERCENT.sub("\\1\N{NO-BREAK SPACE}%", text)


def _p_value(p: float | None) -> str:
    return "–" if p is None else probability(p).removeprefix("p ").removeprefix("= ")
