"""YAML as strangers write it: plain data or one sentence, in bounded time and memory.

PyYAML builds what a file asks for: aliases that would be gigabytes once they are written out, a key's last value where
it is given twice, any exception of the functions that read dates and numbers. What comes out of here is small, has
every key once, and can be written as JSON.
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
"""Of a configuration: names of 20,000 classes are half of it."""
MOST_VALUES = 100_000
"""PyYAML reads about 30,000 in a second."""
MOST_WRITTEN_OUT = 2**20
"""Characters and values once the aliases are written out."""
LONGEST_NUMBER = 100
"""Characters of a number or date: Python reads digits in time that grows with the square of their count."""
DEEPEST = 40
"""Levels below one another."""
TOO_DEEP = f"values lie more than {DEEPEST} levels deep"
LARGEST_BITS = 64
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


class _TwiceError(yaml.YAMLError):
    """A key stands in a mapping twice; takes the rest of the sentence."""


class _Loader(yaml.SafeLoader):
    """Counts what every node would be without aliases before anything is made of it, and takes a key once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.open = self.count = 0
        self.sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """A node, its size and its depth known."""
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
            raise ConstructorError(None, None, "an alias stands inside what it names", mark)
        if node is not None and not alias:
            self._measure(node, mark)
        return node

    def _measure(self, node: Node, mark: Any) -> None:
        below: list[Node] = [] if isinstance(node, ScalarNode) else _below(node)
        sizes, depths = zip((0, 0), *(self.sizes[id(one)] for one in below), strict=True)
        size, depth = 1 + sum(sizes), 1 + max(depths)
        size += len(node.value) if isinstance(node, ScalarNode) else 0
        if size > MOST_WRITTEN_OUT:
            raise ConstructorError(None, None, f"aliases write out more than {MOST_WRITTEN_OUT} characters", mark)
        if depth > DEEPEST:
            raise ConstructorError(None, None, TOO_DEEP, mark)
        self.sizes[id(node)] = size, depth

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """A mapping whose keys are different; `<<` may stand in it more than once."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = key.value if key.tag == "tag:yaml.org,2002:value" else self.construct_object(key)
            line = key.start_mark.line + 1
            if name in lines:
                raise _TwiceError(f"gives the key {shown(name)} twice, in lines {lines[name]} and {line}; keep one")
            lines[name] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """A value; whatever PyYAML's readers of dates and numbers raise is told with its line."""
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        problem = f"{shown(node.value)} is no {short(kind)}"
        if isinstance(node, ScalarNode) and kind in ("int", "float", "timestamp") and len(node.value) > LONGEST_NUMBER:
            raise ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            raise ConstructorError(None, None, problem, node.start_mark) from error


def _below(node: Node) -> list[Node]:
    return [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]


def read_text(file: Path) -> str:
    """A configuration file's text; a pipe or a device, which might never end, is not opened.

    Raises:
        UserError: there is no such file, it is none, may not be read, is too large or is not UTF-8.
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
        raise UserError(f"config: there is no file '{name}'; give the path of a YAML file") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"config: '{name}' has more than {MOST_BYTES} bytes; give the path of a YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"config: '{name}' is not valid UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_yaml(text: str, what: str) -> Any:
    """The value that a YAML text holds.

    Args:
        text: of one document, `MOST_BYTES` long at most.
        what: begins the sentence about a mistake, such as "config: 'run.yaml'".

    Raises:
        UserError: it is not YAML, gives a key twice, holds a date or number that is none, or is too deep or too large
            once its aliases are written out.
    """
    if len(text) > MOST_BYTES:
        raise UserError(f"{what} has more than {MOST_BYTES} characters; a configuration is short, name another file")
    try:
        return _Loader(text).get_single_data()
    except _TwiceError as error:
        raise UserError(f"{what} {error}") from None
    except yaml.YAMLError as error:
        # Without what it was raised from: that may hold the text itself, however large or secret.
        raise UserError(f"{what} is not YAML that can be read ({_place(error, text)}); correct it") from None


def _place(error: yaml.YAMLError, text: str) -> str:
    """Line and problem; never the line's text, which may hold anything."""
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f"line {mark.line + 1 if mark else 1}: {short(error.problem or error.context or 'unreadable')}"
    if isinstance(error, ReaderError):
        character = ord(error.character) if isinstance(error.character, str) else error.character
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the character #x{character:04x} is not allowed"
    return first_line(error)


def check_plain(data: Any) -> None:
    """Refuse a configuration that run.json could not hold, or could not give back as it was.

    Raises:
        UserError: naming the place of the first value that is not null, true, false, a finite number of 64 bits, text
            without control characters, a list, or keys and values; or there are too many.
    """
    size = 0
    for place, value in _members(data, ""):
        size += 1 + (len(value) if isinstance(value, str) else 0)
        if size > MOST_WRITTEN_OUT:
            raise UserError(f"config: it holds more than {MOST_WRITTEN_OUT} characters and values; leave some out")
        problem = _problem(value)
        if problem is not None:
            raise UserError(f"config: {_at(place)}{problem}, got {shown(value)}")


def _members(data: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Everything in a value, itself and the keys included, and where it is."""
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
        return "text must hold no control characters and no half characters" if wrong else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number must be finite"
    if isinstance(value, int):
        return None if value.bit_length() <= LARGEST_BITS else f"a number must fit into {LARGEST_BITS} bits"
    if isinstance(value, (bytes, date, set)):
        return f"must be text, a number, a list or keys and values, not {type(value).__name__}; quote it"
    return None
