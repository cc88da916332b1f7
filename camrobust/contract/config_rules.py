"""What a key of a configuration may hold: its JSON schema, and the same in plain words for messages."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from camrobust.contract.config import RunConfig

Rule = dict[str, Any]
WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
SEVERAL = {"string": "names", "integer": "whole numbers", "number": "numbers"}
OWN_WORDS = {
    "perturbations": "a list such as [\"gaussian_noise:1-5\", {gaussian_noise: {sigma: 0.1}}]",
    "datasets": "a list of datasets, each with name and images",
    "models": "a list of models, such as [\"torchvision:resnet50\"]",
    "segments": "keys and values such as {method: slic, n_segments: 40}",
    "exclude": "a pattern or a list of patterns",
}  # fmt: skip
"""Keys of which the schema says too much or too little for one sentence."""
FARTHEST = 2**53
"""A larger bound is a limit of the machine, and not worth a word."""


@cache
def schema() -> Rule:
    """The JSON schema of a configuration, as pydantic makes it."""
    return RunConfig.model_json_schema()


def resolved(rule: Rule) -> Rule:
    """A rule, looked up where it only refers to another one, also if null may stand there instead."""
    parts = [one for one in rule.get("anyOf", ()) if one.get("type") != "null"]
    if len(parts) == 1 and "$ref" in parts[0]:
        rule = {**rule, **parts[0]}
        del rule["anyOf"]
    name = rule.get("$ref", "").rpartition("/")[2]
    return {**schema()["$defs"][name], **{key: value for key, value in rule.items() if key != "$ref"}} if name else rule


def below(rule: Rule, key: int | str) -> Rule | None:
    """The rule of what stands in a value under a key or a position; None where the schema names none."""
    for option in (resolved(one) for one in rule.get("anyOf", [rule])):
        if isinstance(key, int) and option.get("type") == "array":
            members = option.get("prefixItems", [])
            return resolved(members[key] if key < len(members) else option.get("items", {})) or None
        if isinstance(key, str) and key in option.get("properties", {}):
            return resolved(option["properties"][key])
    return None


def found(location: Sequence[int | str]) -> tuple[list[int | str], Rule]:
    """The longest beginning of a place that the schema knows, and its rule.

    pydantic adds words to a place where a value may have several types; they are no keys.
    """
    place: list[int | str] = []
    rule = schema()
    for key in location:
        step = below(rule, key)
        if step is None:
            break
        place.append(key)
        rule = step
    return place, rule


def keys_at(place: Sequence[int | str]) -> list[str]:
    """The keys that are known at a place."""
    return list(found(place)[1].get("properties", {}))


def dotted_keys() -> list[str]:
    """Every key below a section, such as cluster.batch; of a list's entries as datasets.0.images."""
    names = []
    for key, rule in schema()["properties"].items():
        section = resolved(rule)
        if section.get("type") == "array":
            section, key = resolved(section.get("items", {})), f"{key}.0"  # noqa: PLW2901 - the place of its first entry
        names += [f"{key}.{name}" for name in section.get("properties", {})]
    return names


def in_words(key: int | str, rule: Rule) -> str:
    """What a key may hold, for a sentence: "a list of names", "a number above 0 and below 1"."""
    if key in OWN_WORDS:
        return OWN_WORDS[key]
    if "anyOf" in rule:
        options = [in_words(key, resolved(one)) for one in rule["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "enum" in rule or "const" in rule:
        values = [str(value) for value in rule.get("enum", [rule.get("const")])]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if rule.get("type") == "array":
        return _list_in_words(rule)
    if rule.get("type") == "object":
        names = list(rule.get("properties", {}))
        return f"keys and values ({', '.join(names)})" if names else "keys and values"
    return WORDS.get(rule.get("type", ""), "a value") + _bounds(rule)


def _list_in_words(rule: Rule) -> str:
    if "prefixItems" in rule:
        return "a list of two whole numbers, the least and the most"
    return f"a list of {SEVERAL.get(resolved(rule.get('items', {})).get('type', ''), 'values')}"


def _bounds(rule: Rule) -> str:
    low, above = rule.get("minimum"), rule.get("exclusiveMinimum")
    high, under = rule.get("maximum"), rule.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    words = [
        "" if low is None else f"of at least {low:g}",
        "" if above is None else f"above {above:g}",
        "" if high is None else f"of at most {high:g}",
        "" if under is None or under > FARTHEST else f"below {under:g}",
    ]
    said = " and ".join(word for word in words if word)
    return f" {said}" if said else ""
