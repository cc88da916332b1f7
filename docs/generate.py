"""Write what is generated in docs/ and jobs/configs: `python docs/generate.py`. A test keeps it in step."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from camrobust.contract import comparison_schema, schema
from camrobust.contract.certificates import CERTIFIED
from camrobust.contract.config import RunConfig
from camrobust.contract.record import Part
from camrobust.contract.run_documents import DoneRecord, ProgressRecord
from camrobust.contract.run_record import RunRecord
from camrobust.interface.config_schema import FILE, schema_text
from camrobust.interface.listing import catalogue
from camrobust.results.arrow import TABLES

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "jobs" / "configs"
MARK = "<!-- generated from camrobust/contract by docs/generate.py -->"


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(str(row[name]).replace("|", "\\|") for name in names) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def catalogue_page() -> str:
    """docs/catalogue.md."""
    parts = ["# Catalogue", "What `camrobust list` shows, generated from the registries by docs/generate.py."]
    kinds = {
        "cams": "CAMs",
        "perturbations": "Perturbations",
        "similarities": "Similarities",
        "segments": "Segments",
    }
    for kind, title in kinds.items():
        parts += [f"## {title}", table(catalogue(kind))]
    return "\n\n".join(parts) + "\n"


def schema_part() -> str:
    """The columns of every table and the fields of every document, for docs/results.md."""
    parts = [MARK]
    tables = {"scores": schema.SCORES, **TABLES}
    for name, columns in tables.items():
        rows = [{"column": one.name, "type": one.type, "meaning": one.meaning} for one in columns]
        parts += [f"## {name}/", table(rows)]
    measures = (*schema.SUMMARY_MEASURES, *schema.SUMMARY_SPREAD, *schema.SUMMARY_COUNTS, *schema.SUMMARY_ACCURACY,
                *schema.SUMMARY_LABELLED)  # fmt: skip
    for title, text, columns in (
        ("summary/by_…", "Each measure and accuracy also has `_lower` and `_upper`, its 95 % interval.", measures),
        (
            "summary/by_cam",
            "Beside these; by_level has `attacked_cam`. See [attacks](perturbations.md#whose-map-is-attacked).",
            schema.SUMMARY_ATTACKS,
        ),
        ("summary/certificates", "See [certificates](certificates.md); only where the run has any.", CERTIFIED),
        ("summary/tests", "See [statistics](statistics.md).", comparison_schema.TESTS),
        ("camrobust compare", "What `camrobust compare A B --json` prints as `table`.", comparison_schema.DIFFERENCES),
        ("summary/characteristics", "See [statistics](statistics.md).", comparison_schema.CHARACTERISTICS),
    ):
        rows = [{"column": one.name, "type": one.type, "meaning": one.meaning} for one in columns]
        parts += [f"## {title}", text, table(rows)]
    for title, record in (
        ("run.json", RunRecord),
        ("progress/NUMBER.json", ProgressRecord),
        ("done/NUMBER.json", DoneRecord),
    ):
        parts += [f"## {title}", table(list(fields(record)))]
    return "\n\n".join(parts) + "\n"


def fields(record: type[BaseModel], prefix: str = "") -> Iterator[dict[str, object]]:
    """A row per field of a document, and of what stands inside it."""
    for name, field in record.model_fields.items():
        kind = field.annotation
        yield {"field": f"`{prefix}{name}`", "value": holds(kind), "meaning": field.description}
        inner, place = kind, f"{prefix}{name}."
        if get_origin(kind) in (list, tuple, dict):
            inner = get_args(kind)[get_origin(kind) is dict]
            place = f"{prefix}{name}.{'NAME' if get_origin(kind) is dict else '0'}."
        if type(None) in get_args(kind):
            inner = get_args(kind)[0]
        if isinstance(inner, type) and issubclass(inner, Part):
            yield from fields(inner, place)


def holds(kind: Any) -> str:
    """What a field holds."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (list, tuple):
        return f"list of {holds(inner[0])}"
    if origin is dict:
        return f"{holds(inner[1])}, by name"
    if origin is Annotated:
        return holds(inner[0])
    if inner:
        return " or ".join(map(holds, inner))
    if kind in names:
        return names[kind]
    return "the fields below" if issubclass(kind, Part) else "the keys of a [configuration](configuration.md)"


def results_page() -> str:
    """docs/results.md with its generated part renewed."""
    return (HERE / "results.md").read_text("utf-8").partition(MARK)[0] + schema_part()


SECTIONS = {
    model.__name__: key
    for key, field in RunConfig.model_fields.items()
    for model in (field.annotation, *get_args(field.annotation), *chain(*map(get_args, get_args(field.annotation))))
    if isinstance(model, type) and issubclass(model, BaseModel)
}
"""The key of a configuration under which each of its models stands."""


def shown(rule: dict[str, Any]) -> str:
    """What a key may hold, from its JSON schema."""
    if "anyOf" in rule:
        return " or ".join(shown(one) for one in rule["anyOf"] if one.get("type") != "null")
    if "enum" in rule or "const" in rule:
        return ", ".join(f"`{value}`" for value in rule.get("enum", [rule.get("const")]))
    if "$ref" in rule:
        section = SECTIONS[rule["$ref"].rpartition("/")[2]]
        return f"the keys of [{section}](#{section})"
    if rule.get("type") == "array":
        items = rule.get("items") or rule["prefixItems"][0]
        return f"list; each {shown(items)}" + (f" ({rule['maxItems']})" if rule.get("maxItems") else "")
    if rule.get("type") == "object":
        return "keys and values"
    low, high = rule.get("minimum", rule.get("exclusiveMinimum")), rule.get("maximum", rule.get("exclusiveMaximum"))
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    bounds = [
        "" if low is None else f"{'from' if 'minimum' in rule else 'above'} {low:g}",
        "" if high is None or high > 2**53 else f"{'to' if 'maximum' in rule else 'below'} {high:g}",
    ]
    return " ".join(part for part in (words[rule["type"]], *bounds) if part)


def configuration_page() -> str:
    """docs/configuration.md: every key of a configuration."""
    whole = RunConfig.model_json_schema()
    parts = [
        "# Configuration",
        "Every key of a configuration, generated from camrobust/contract/ by docs/generate.py. An unknown "
        "key is refused, and the nearest known one named. `camrobust run CONFIG --set metric.rbo_p=0.95` sets a key on "
        "the command line; a position in a list is a number: `--set datasets.0.images=photos`.",
    ]
    models = {"The whole": whole} | {section: whole["$defs"][name] for name, section in SECTIONS.items()}
    for title, model in models.items():
        rows = [
            {
                "key": f"`{key}`",
                "value": shown(rule),
                "default": "required" if key in model.get("required", ()) else default(rule),
                "meaning": rule.get("description", ""),
            }
            for key, rule in model["properties"].items()
        ]
        parts += [f"## {title}", model["description"], table(rows)]
    return "\n\n".join(parts) + "\n"


def default(rule: dict[str, Any]) -> str:
    """The default of a key, empty where it is a section of its own."""
    value = rule.get("default")
    return "" if value is None or value == "" or isinstance(value, dict) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    (HERE / "configuration.md").write_text(configuration_page(), "utf-8")
    (HERE / "catalogue.md").write_text(catalogue_page(), "utf-8")
    (HERE / "results.md").write_text(results_page(), "utf-8")
    (CONFIGS / FILE).write_text(schema_text(), "utf-8")
