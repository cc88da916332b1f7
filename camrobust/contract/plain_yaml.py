"""Reads untrusted YAML: gives plain data or one sentence, in limited time and memory.

PyYAML does what a file asks for. It expands aliases to gigabytes, silently takes the last value of a repeated key, and
lets through any exception of its readers of dates and numbers. The values read here are small, have every key once, and
can be written as JSON.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from stat import S_ISREG
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.reader import ReaderError

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import first_line, short, shown

MOST_BYTES = 2**20
"""Largest configuration; the names of 20,000 classes fill half of it."""
MOST_VALUES = 100_000
"""PyYAML reads about 30,000 per second."""
MOST_EXPANDED = 2**20
"""Most characters and values after aliases are expanded."""
LONGEST_NUMBER = 100
"""Most characters of a number or date: Python's time to read digits grows with the square of their count."""
DEEPEST = 40
"""Most levels of nesting."""
TOO_DEEP = f"values are nested more than {DEEPEST} levels deep"
LARGEST_BITS = 64
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


class _RepeatedError(yaml.YAMLError):
    """A mapping has the same key twice; the text is the rest of the sentence."""


class _Loader(yaml.SafeLoader):
    """Measures every node with its aliases expanded before a value is built, and refuses repeated keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.open = self.count = 0
        self.sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose a node and measure its size and depth."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        alias = self.check_event(AliasEvent)
        self.open += 1
        self.count += 1
        if self.count > MOST_VALUES:
            raise ConstructorError(None, None, f"there are more than {MOST_VALUES} values", mark)
        if self.open > DEEPEST:
            raise ConstructorError(None, None, TOO_DEEP, mark)
        node: Node | None = super().compose_node(parent, index)
        self.open -= 1
        if alias and id(node) not in self.sizes:
            raise ConstructorError(None, None, "an alias stands inside its own value", mark)
        if node is not None and not alias:
            self._measure(node, mark)
        return node

    def _measure(self, node: Node, mark: Any) -> None:
        below: list[Node] = [] if isinstance(node, ScalarNode) else _below(node)
        sizes, depths = zip((0, 0), *(self.sizes[id(child)] for child in below), strict=True)
        size, depth = 1 + sum(sizes), 1 + max(depths)
        size += len(node.value) if isinstance(node, ScalarNode) else 0
        if size > MOST_EXPANDED:
            raise ConstructorError(None, None, f"aliases expand to more than {MOST_EXPANDED} characters", mark)
        if depth > DEEPEST:
            raise ConstructorError(None, None, TOO_DEEP, mark)
        self.sizes[id(node)] = size, depth

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping; its keys must differ, but it may contain `<<` several times."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = key.value if key.tag == "tag:yaml.org,2002:value" else self.construct_object(key)
            line = key.start_mark.line + 1
            if name in lines:
                raise _RepeatedError(f"gives the key {shown(name)} twice, in lines {lines[name]} and {line}; keep one")
            lines[name] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Build a value; errors of PyYAML's readers of dates and numbers get their line."""
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        problem = f"{shown(node.value)} is not a valid {short(kind)}"
        if isinstance(node, ScalarNode) and kind in ("int", "float", "timestamp") and len(node.value) > LONGEST_NUMBER:
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _below(node: Node) -> list[Node]:
    return [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]


def read_text(file: Path) -> str:
    """Read a configuration file; a pipe or a device is not opened, as it may never end.

    Raises:
        UserError: the file does not exist, is not a regular file, may not be read, is too large or is not UTF-8.
    """
    name = short(str(file))
    try:
        if not S_ISREG(file.stat().st_mode):
            raise UserError(f"config: '{name}' is a folder, a pipe or a device; give the path of a YAML file")
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except PermissionError as error:
        raise UserError(f"config: '{name}' cannot be read ({error.strerror}); check its permissions") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"config: there is no file '{name}'; give the path of a YAML file, `camrobust init` writes one"
        ) from error
    if len(content) > MOST_BYTES:
        raise UserError(f"config: '{name}' has more than {MOST_BYTES} bytes; give the path of a YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"config: '{name}' is not valid UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_yaml(text: str, what: str) -> Any:
    """Read the value of a YAML text.

    Args:
        text: one document, at most `MOST_BYTES` long.
        what: begins the sentence of an error, such as "config: 'run.yaml'".

    Raises:
        UserError: the text is not YAML, gives a key twice, holds an invalid date or number, or is too deep or too large
            after its aliases are expanded.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"{what} has more than {MOST_BYTES} characters; a configuration is short, name another file")
    try:
        return _Loader(text).get_single_data()
    except _RepeatedError as error:
        raise UserError(f"{what} {error}") from None
    except yaml.YAMLError as error:
        # `from None`, because the original error may hold the text, which may be large or secret.
        raise UserError(f"{what} is not valid YAML ({_place(error, text)}); correct it") from None


def _place(error: yaml.YAMLError, text: str) -> str:
    """The line and the problem, but never the text of the line, which may be secret."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f"line {mark.line + 1 if mark else 1}: {short(error.problem or error.context or 'unreadable')}"
    if isinstance(error, ReaderError):
        character = ord(error.character) if isinstance(error.character, str) else error.character
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the character #x{character:04x} is not allowed"
    return first_line(error)


def check_plain(data: Any) -> None:
    """Refuse a configuration that run.json cannot hold, or cannot return unchanged.

    Raises:
        UserError: a value is not null, true, false, a finite number of 64 bits, text without control characters, a list
            or a mapping; or there are too many values. The first such place is named.
    """
    size = 0
    for place, value in _members(data, ""):
        size += 1 + (len(value) if isinstance(value, str) else 0)
        if size > MOST_EXPANDED:
            raise UserError(f"config: it holds more than {MOST_EXPANDED} characters and values; leave some out")
        problem = _problem(value)
        if problem is not None:
            raise UserError(f"config: {_at(place)}{problem}, got {shown(value)}")


def _members(data: Any, place: str) -> Iterator[tuple[str, Any]]:
    """A value and everything in it, keys included, each with its place."""
    yield place, data
    if isinstance(data, Mapping):
        for key, value in data.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise UserError(f"config: {_at(place)}a key must be text, got {shown(key)}; quote it")
            yield place, key
            yield from _members(value, f"{place}.{key}".lstrip("."))
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from _members(value, f"{place}.{number}")


def _at(place: str) -> str:
    return f"{short(place)}: " if place else ""


def _problem(value: Any) -> str | None:
    if isinstance(value, str):
        wrong = CONTROL.search(value) is not None
        return "text must not contain control characters or lone surrogates" if wrong else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number must be finite"
    if isinstance(value, int):
        return None if value.bit_length() <= LARGEST_BITS else f"a number must fit into {LARGEST_BITS} bits"
    if isinstance(value, (bytes, date, set)):
        return f"must be text, a number, a list or a mapping, not {type(value).__name__}; quote it"
    return None
