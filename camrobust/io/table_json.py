"""Tables of objects in JSON, read one object at a time, so that only known columns take memory."""

import json
import re
from collections.abc import Collection, Iterator
from io import BytesIO
from typing import Any

import polars as pl

from camrobust.io.table_bytes import NotATableError, check_utf8

MOST_NAMES = 10_000
"""Most different names of one table."""
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def known_values(content: bytes, known: Collection[str]) -> tuple[list[str], pl.DataFrame]:
    """One object per line, or a list of objects.

    Args:
        content: the text.
        known: names of columns to read, whatever blanks are around them in the text.

    Returns:
        All names, and the known columns among them, one row per object.

    Raises:
        NotATableError: the text is something else, or a known column holds a list or an object.
    """
    names: dict[str, None] = {}
    kept = bytearray()
    for number, record in enumerate(_objects(content), start=1):
        if not record.keys() <= names.keys():
            names.update(dict.fromkeys(record))
        if len(names) > MOST_NAMES:
            raise NotATableError(f"has more than {MOST_NAMES:,} columns; keep what names images")
        row = {name: value for name, value in record.items() if name.strip() in known}
        deep = next((name for name, value in row.items() if isinstance(value, (list, dict))), None)
        if deep is not None:
            raise NotATableError(f"holds a list or an object in the column '{deep}' (row {number}); write text")
        kept += json.dumps(row).encode() + b"\n"
    present = [name for name in names if name.strip() in known]
    if not present:
        return list(names), pl.DataFrame()
    try:
        return list(names), pl.read_ndjson(BytesIO(kept), infer_schema_length=None).select(present)
    except pl.exceptions.PolarsError as error:
        raise NotATableError("holds values that are neither text nor usual numbers; write text") from error


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        check_utf8(content)
        raise
    if text.startswith("["):
        text = text[1:].removesuffix("]") if text.endswith("]") else f"{text[1:]}["
    place = _after(text, 0)
    while place < len(text):
        try:
            record, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _odd(text, place) from error
        if not isinstance(record, dict):
            raise _odd(text, place)
        yield record
        place = _after(text, place)


def _after(text: str, place: int) -> int:
    """Where the next object begins."""
    found = _BETWEEN.match(text, place)
    return found.end() if found else place


def _odd(text: str, place: int) -> NotATableError:
    line = text.count("\n", 0, place) + 1
    return NotATableError(f"is neither line JSON nor a list of objects (line {line}); write one object in each line")
