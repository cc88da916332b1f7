"""The JSON schema of a configuration, for editors: it completes names and marks mistakes while one types."""

import json
from typing import Any

from camrobust.contract.config_rules import Rule, schema
from camrobust.contract.segmenters import SEGMENTERS
from camrobust.core.explain.cams import CAMS
from camrobust.core.perturb import PERTURBATIONS
from camrobust.core.perturb.presets import PRESETS
from camrobust.core.similarity import SIMILARITIES

FILE = "camrobust.schema.json"
MODELINE = f"# yaml-language-server: $schema={FILE}"
"""First line of a configuration: editors with a YAML language server look for the schema in the file beside it."""
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def editor_schema() -> Rule:
    """The schema, with the names of the registries; names of a package of one's own are valid, too."""
    whole: Rule = json.loads(json.dumps(schema()))
    keys, parts = whole["properties"], whole["$defs"]
    keys["cams"]["items"] = _names(CAMS.names())
    specs = [*(f"{name}:1-5" for name in PERTURBATIONS.names()), *(f"preset:{name}" for name in sorted(PRESETS))]
    keys["perturbations"]["items"] = {"anyOf": [*_names(specs)["anyOf"], {"type": "object"}]}
    # What the models of the configuration take beside what pydantic writes down.
    keys["models"]["items"] = {"anyOf": [{"type": "string"}, keys["models"]["items"]]}
    exclude = parts["DatasetConfig"]["properties"]["exclude"]
    exclude["anyOf"] = [{"type": "string"}, {"type": exclude.pop("type"), "items": exclude.pop("items")}]
    similarities = parts["MetricConfig"]["properties"]["similarities"]["anyOf"]
    next(one for one in similarities if one.get("type") == "array")["items"] = _names(SIMILARITIES.names())
    parts["SegmentsConfig"]["properties"]["method"] |= {"enum": SEGMENTERS.names()}
    return {"$schema": DRAFT, **whole, "title": "A configuration of camrobust"}


def _names(known: list[str]) -> Rule:
    """One of the known names, which editors offer, or any other text."""
    options: list[dict[str, Any]] = [{"enum": known}, {"type": "string"}]
    return {"anyOf": options}


def schema_text() -> str:
    """The schema as a file holds it."""
    return json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n"
